"""Helper functions for files and processes: replace files, lock files, and identify processes.

They stay correct if a process is killed, and if another user writes to the same folder.
"""
