"""Replace the sampler, the loader and the gradient accumulation of a training script."""
