"""Learn from completed jobs how much work other jobs have."""
