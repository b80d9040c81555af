"""Set the clocks of GPUs that another scheduler gives out."""
