"""From a log's text to numbers, or a plain reason why not.

A reader turns one row into one job. What it cannot use it refuses by raising ``Unusable`` with the reason; the driver
records that reason beside the line's number and reads on. Nothing here guesses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

LONGEST_S = 1e12  # beyond any date a log can hold (the year 9999 is 2.5e11 s)
MOST_GPUS = 1_000_000
MOST_COUNT = 1e18


class Unusable(Exception):
    """A row gives no job; the message says why, as a plain clause."""


def text(row: Mapping[str, str], column: str) -> str:
    """The row's value in ``column`` without surrounding blanks; "" where it has none."""
    return row.get(column, "").strip()


def number(value: str, name: str) -> float:
    """A finite number.

    Raises:
        Unusable: it is empty, not a number, or not finite.
    """
    if not value.strip():
        raise Unusable(f"{name} is empty")
    try:
        parsed = float(value if "_" not in value else "")  # Python reads 1_000; no log means it
    except ValueError:
        raise Unusable(f"{name} is not a number ({clip(value)})") from None
    if not math.isfinite(parsed):
        raise Unusable(f"{name} is not finite ({clip(value)})")
    return parsed


def checked_s(value: float, name: str) -> float:
    """Seconds that a log can hold: finite, at least 0, at most ``LONGEST_S``."""
    if not math.isfinite(value):
        raise Unusable(f"{name} is not finite")
    if value < 0:
        raise Unusable(f"{name} is negative ({value:g})")
    if value > LONGEST_S:
        raise Unusable(f"{name} is out of range ({value:g})")
    return value


def seconds(value: str, name: str) -> float:
    """Seconds ≥ 0, from text."""
    return checked_s(number(value, name), name)


def ran_s(value: float, name: str = "duration") -> float:
    """A job's running time in seconds: above 0, for a job that did not run trained nothing."""
    if checked_s(value, name) == 0:
        raise Unusable(f"{name} is 0: it never ran")
    return value


def gpu_count(value: float) -> int:
    """GPUs a job holds: a whole number from 1 to ``MOST_GPUS``."""
    if not math.isfinite(value) or value != math.floor(value):
        raise Unusable(f"GPU count is not a whole number ({value:g})")
    if value < 0:
        raise Unusable(f"GPU count is negative ({value:g})")
    if value == 0:
        raise Unusable("no GPU: a CPU job")
    if value > MOST_GPUS:
        raise Unusable(f"GPU count is out of range ({value:g})")
    return int(value)


def batch_size(value: str, name: str) -> int | None:
    """Samples per iteration, a whole number ≥ 1; None where the log leaves it empty."""
    if not value.strip():
        return None
    parsed = number(value, name)
    if parsed != math.floor(parsed) or not 1 <= parsed <= MOST_COUNT:
        raise Unusable(f"{name} is not a whole number above 0 ({clip(value)})")
    return int(parsed)


def iteration_count(value: str, name: str) -> float | None:
    """Iterations, above 0; None where the log leaves it empty."""
    if not value.strip():
        return None
    parsed = number(value, name)
    if not 0 < parsed <= MOST_COUNT:
        raise Unusable(f"{name} is not above 0 ({clip(value)})")
    return parsed


def clip(value: str, longest: int = 40) -> str:
    """A value as it may stand in a one-line message: printable and short."""
    shown = value if len(value) <= longest else value[: longest - 1] + "…"
    return ascii(shown) if not shown.isprintable() else f"'{shown}'"
