"""Giving a pair to others, and finding out what is wrong with one from others."""
