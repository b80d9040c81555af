"""Predict what a job costs: models of step time and power, their fitting, measured points, and the GPU catalogue."""
