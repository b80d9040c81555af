"""Simulate a cluster with true costs of its own, compare policies at equal energy, and compute a lower bound."""
