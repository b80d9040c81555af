"""Simulate a cluster, compare policies at equal energy, and compute a lower bound on completion times."""
