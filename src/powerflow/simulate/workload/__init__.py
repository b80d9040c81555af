"""Make the jobs of a simulation from a trace."""
