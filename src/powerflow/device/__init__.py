"""The GPUs: read power, energy and clocks; set clocks, and give them back as they were."""
