"""Define a format of measured files: how it is recognised, and how it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from powerflow.measured.recording import Recording, Totals


@dataclass(frozen=True, slots=True)
class Hints:
    """What a user says of the form of a file.

    Attributes:
        step_metric: Name of the metric or column that counts iterations; None to detect it.
        interval_s: Seconds between two readings, for files without times; None if the user does not say it.
        zone: Time zone of dates without an offset; None if the user does not say it.
    """

    step_metric: str | None = None
    interval_s: float | None = None
    zone: str | None = None


@dataclass(frozen=True, slots=True)
class MeasuredFormat:
    """A kind of measured file.

    Attributes:
        title: Its name in sentences.
        recognises: Returns True if the beginning of a file (64 KiB) looks like this format.
        read: Reads an open file. Raises `InputError` without the file's name.
    """

    title: str
    recognises: Callable[[str], bool]
    read: Callable[[TextIO, Hints], Recording | Totals]
