"""Predict the costs of jobs: models of step time and power, their fitting, measured points, and the GPU catalogue."""
