"""A small log on disk, for commands to read."""

from __future__ import annotations

from pathlib import Path

from powerflow.trace.write import write_trace
from tests.simulate.small import small_trace


def write_log(folder: Path, jobs: int = 40) -> Path:
    """Our CSV with so many jobs."""
    path = folder / "log.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        write_trace(small_trace(jobs), stream)
    return path
