"""Sampler, loader and gradient accumulation, which replace those parts of a training script."""
