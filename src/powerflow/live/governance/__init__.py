"""Keep what operators set: budgets, power caps, signals and rollout stages."""
