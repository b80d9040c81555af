"""A lower bound on the mean completion time of any schedule at a given energy."""
