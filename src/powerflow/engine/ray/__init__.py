"""Reach the agents of machines through Ray. Without this package nothing of Ray is imported."""
