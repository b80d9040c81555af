"""Say which modules are loaded once for the ranks of all Python scripts."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec


def preloaded() -> Sequence[str]:
    """Return the names of modules to load once for the ranks of all Python scripts, which saves seconds per rank."""
    if find_spec("torch") is None:
        return ()
    return ("torch", "torch._dynamo", "torch.utils.data", "torch.nn.parallel", "powerflow.elastic.run")
