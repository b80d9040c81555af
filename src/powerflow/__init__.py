"""PowerFlow: an energy-aware scheduler for clusters of GPUs that train deep-learning models.

``docs/glossary.md`` defines the words that docstrings use.
"""

__version__ = "0.1.0"
