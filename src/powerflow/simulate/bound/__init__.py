"""Compute a lower bound on the mean completion time of every schedule that uses a given energy."""
