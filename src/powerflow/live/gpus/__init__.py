"""Measure the GPUs, set their clocks, and take them in and out of service."""
