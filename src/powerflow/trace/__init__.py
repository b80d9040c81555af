"""Read job logs of real clusters, and generate random logs, as input for the simulator."""
