"""PowerFlow: an energy-aware scheduler for clusters of GPUs that train deep-learning models."""

__version__ = "0.1.0"
