"""Where jobs run: launch ranks, signal them, watch them, read their logs. Nothing else.

An engine knows nodes and processes; it knows nothing of policies, budgets or training.
"""
