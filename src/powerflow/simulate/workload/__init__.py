"""Build the jobs of a simulation, with their true costs, from a trace."""
