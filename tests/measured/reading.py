"""Reads small files with a known content, and what is refused of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from powerflow.cost.observation import Observation, observations_of
from powerflow.errors import InputError
from powerflow.measured.formats.format import Hints
from powerflow.measured.read import read_measured
from powerflow.measured.source import MeasuredSource
from powerflow.measured.told import RunFacts, Told

PLAIN = Hints()
LM = Told(model="lm", gpu_type="A100", local_batch=16)


def read(
    folder: Path, *texts: str, told: Told = LM, runs: Sequence[RunFacts] = (), hints: Hints = PLAIN
) -> tuple[list[Observation], list[MeasuredSource]]:
    """Read files with these contents; they are named 0, 1, …"""
    files = []
    for number, text in enumerate(texts):
        files.append(folder / str(number))
        files[-1].write_text(text, encoding="utf-8")
    found = read_measured(files, told, runs, hints)
    return observations_of(found.rows), list(found.sources)


def near(value: float) -> Any:
    """Return what is nearly a value."""
    return pytest.approx(value, rel=1e-4)  # the rows of two GPUs are 2 ms apart


def told(**facts: Any) -> Told:
    """Return what a user says of a run of ``lm``, and these facts."""
    return Told(**facts).over(LM)


def refusal(folder: Path, *texts: str, **options: Any) -> str:
    """Return the line with which files are refused."""
    with pytest.raises(InputError) as error:
        read(folder, *texts, **options)
    assert "\n" not in str(error.value)
    return str(error.value)
