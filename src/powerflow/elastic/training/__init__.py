"""What replaces parts of a training script: sampler, loader, accumulation of gradients."""
