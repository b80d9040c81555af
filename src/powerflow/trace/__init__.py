"""The simulator's input: readers of real logs, and a synthetic generator."""
