"""Show the cluster on a terminal, live: power, energy, jobs and nodes, and one job in detail."""
