"""Check a training script, without running it, for what breaks or goes wrong when its GPUs change in place.

The package needs only the standard library. Each check is a function that yields findings of one file; `report` calls
all of them.
"""

from __future__ import annotations

from pathlib import Path

from powerflow.elastic.check.source import read
from powerflow.errors import InputError


def never_joins(script: Path) -> bool:
    """Return True if neither a Python script nor a file beside it that it imports refers to `powerflow.elastic`.

    False if the script cannot be read or is not Python: then nothing is known of it.
    """
    try:
        sources, _ = read(script)
    except (InputError, OSError):
        return False
    return not any(source.joins() for source in sources)
