"""Keep what operators set: energy budgets, power caps, signals and rollout stages."""
