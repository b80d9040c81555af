"""Read job logs of real clusters, and generate synthetic ones, as input for the simulator."""
