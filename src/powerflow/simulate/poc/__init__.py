"""Bring the job log of a site and the measured energy of its jobs together, and say what PowerFlow would change."""
