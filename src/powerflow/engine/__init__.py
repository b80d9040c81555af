"""Run jobs: start ranks, send signals to them, watch them and read their logs.

This package knows nothing about policies, budgets or training.
"""
