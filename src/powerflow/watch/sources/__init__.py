"""Read what GPUs draw, and who holds them, from what a site already runs."""
