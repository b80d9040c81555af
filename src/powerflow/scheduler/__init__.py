"""Decide what each job gets: events go into the scheduler, and a plan with a typed reason for each job comes out."""
