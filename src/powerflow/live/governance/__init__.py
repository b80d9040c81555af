"""Keep the energy budgets, power caps, signals and rollout stages that operators set."""
