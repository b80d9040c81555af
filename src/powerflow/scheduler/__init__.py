"""Decide what each job gets: the scheduler takes events, and returns a plan with a typed reason for each job."""
