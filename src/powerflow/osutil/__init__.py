"""Replace files, lock files, and identify processes.

The functions are safe even if a process is killed, or if another user writes to the same folder.
"""
