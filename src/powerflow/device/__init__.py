"""Read power, energy and clocks of GPUs; set clocks, and restore clocks."""
