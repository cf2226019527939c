"""Measurements against what a user would run otherwise (`docs/benchmarks.md`).

Every side of a comparison is a process of its own (`process`, `worker`); `suite` says what is
compared, `gate` refuses to time what is not equal, `tables` renders the result file.
"""
