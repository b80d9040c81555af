"""Replace files, lock files, and identify processes.

These functions stay correct if a process is killed, and if another user writes to the same folder.
"""
