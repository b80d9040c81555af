"""The parts of a training script that elastic training takes the place of."""
