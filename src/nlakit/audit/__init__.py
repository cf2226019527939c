"""The auditor's desk: many transcripts read at chosen positions, searched, tested and compared.

A project is a directory (`project`); `scan` fills it, everything else reads it.
"""
