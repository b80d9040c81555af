"""Refuse states of ranks that were overtaken: a checkpoint never goes back to an older generation.

A rank on a node that was cut off does not know that the others have gone on without it. When it is told to leave, or
wakes up, it would save its old state over the newer one. So a small file beside the checkpoint holds the number of the
newest generation (group of ranks) that has led the run. The leader of each generation raises it, and whoever saves a
state looks there first and once more just before the new file takes its place.

File locks do not help here: not all shared file systems have locks that work between nodes, and a lock says who saves,
not who may.
"""

from __future__ import annotations

from pathlib import Path

from powerflow.osutil.files import read_json, replace_json


class Overtaken(OSError):
    """The state was not saved, because a later generation has taken over the run."""


def fence_file(checkpoint: Path) -> Path:
    """Return the file with the number of the newest generation, for a checkpoint file."""
    return checkpoint.with_suffix(".fence")


def raise_fence(checkpoint: Path, generation: int) -> None:
    """Refuse states of generations before this one from now on. A higher fence stays as it is.

    Raises:
        OSError: The file cannot be written.
    """
    if _fence(checkpoint) < generation:
        replace_json(fence_file(checkpoint), {"generation": generation})


def refuse_overtaken(checkpoint: Path, generation: int) -> None:
    """Raise an error if a later generation has taken over.

    Raises:
        Overtaken: The fence is higher than ``generation``.
    """
    fence = _fence(checkpoint)
    if fence > generation:
        raise Overtaken(f"generation {fence} has taken over from generation {generation}, to which this rank belongs")


def _fence(checkpoint: Path) -> int:
    found = read_json(fence_file(checkpoint)) or {}
    generation = found.get("generation")
    return generation if isinstance(generation, int) else 0
