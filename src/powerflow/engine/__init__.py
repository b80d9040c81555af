"""Run jobs: launch ranks, signal them, watch them, read their logs. It knows no policies, budgets or training."""
