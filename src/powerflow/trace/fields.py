"""Convert text fields of a log to numbers, or report why a value cannot be used.

A value is never guessed. If a row of a log cannot be used, `Unusable` is raised with the reason. The caller records the
reason with the line number, and goes on to the next row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from powerflow.cluster.spec import MOST_GPUS

LONGEST_S = 1e12  # later than any date in a log (the year 9999 is 2.5e11 s)
MOST_COUNT = 1e18


class Unusable(Exception):
    """Raised if a row of a log cannot be turned into a job. The message is the reason."""


def text(row: Mapping[str, str], column: str) -> str:
    """Return the value of a row in a column, without blanks around it; "" if the row has no value there."""
    return row.get(column, "").strip()


def number(value: str, name: str) -> float:
    """Convert text to a finite number. ``name`` is the name of the field for error messages.

    Raises:
        Unusable: The text is empty, not a number, or not finite.
    """
    if not value.strip():
        raise Unusable(f"{name} is empty")
    try:
        parsed = float(value if "_" not in value else "")  # Python would accept 1_000
    except ValueError:
        raise Unusable(f"{name} is not a number ({clip(value)})") from None
    if not math.isfinite(parsed):
        raise Unusable(f"{name} is not finite ({clip(value)})")
    return parsed


def checked_s(value: float, name: str) -> float:
    """Return ``value`` after checking that it is a possible number of seconds: finite, 0 to ``LONGEST_S``.

    ``name`` is the name of the field for error messages.

    Raises:
        Unusable: The value is not a possible number of seconds.
    """
    if not math.isfinite(value):
        raise Unusable(f"{name} is not finite")
    if value < 0:
        raise Unusable(f"{name} is negative ({value:g})")
    if value > LONGEST_S:
        raise Unusable(f"{name} is out of range ({value:g})")
    return value


def seconds(value: str, name: str) -> float:
    """Convert text to a number of seconds ≥ 0. ``name`` is the name of the field for error messages.

    Raises:
        Unusable: The text is not a possible number of seconds.
    """
    return checked_s(number(value, name), name)


def ran_s(value: float, name: str = "duration") -> float:
    """Return ``value`` after checking that it is a possible running time of a job in seconds: above 0.

    ``name`` is the name of the field for error messages.

    Raises:
        Unusable: The value is not a possible number of seconds, or it is 0 (the job did not run).
    """
    if checked_s(value, name) == 0:
        raise Unusable(f"{name} is 0: the job never ran")
    return value


def gpu_count(value: float) -> int:
    """Return ``value`` as a whole number after checking that it is a possible number of GPUs: 1 to ``MOST_GPUS``.

    Raises:
        Unusable: The value is not such a number.
    """
    if not math.isfinite(value) or value != math.floor(value):
        raise Unusable(f"GPU count is not a whole number ({value:g})")
    if value < 0:
        raise Unusable(f"GPU count is negative ({value:g})")
    if value == 0:
        raise Unusable("no GPU: this is a CPU job")
    if value > MOST_GPUS:
        raise Unusable(f"GPU count is out of range ({value:g})")
    return int(value)


def batch_size(value: str, name: str) -> int | None:
    """Convert text to samples per iteration, a whole number ≥ 1; None if the text is empty.

    Raises:
        Unusable: The text is not such a number.
    """
    if not value.strip():
        return None
    parsed = number(value, name)
    if parsed != math.floor(parsed) or not 1 <= parsed <= MOST_COUNT:
        raise Unusable(f"{name} is not a whole number above 0 ({clip(value)})")
    return int(parsed)


def iteration_count(value: str, name: str) -> float | None:
    """Convert text to a number of iterations above 0; None if the text is empty.

    Raises:
        Unusable: The text is not such a number.
    """
    if not value.strip():
        return None
    parsed = number(value, name)
    if not 0 < parsed <= MOST_COUNT:
        raise Unusable(f"{name} is not above 0 ({clip(value)})")
    return parsed


def clip(value: str, longest: int = 40) -> str:
    """Return a value in quotes for a one-line message, shortened to ``longest`` characters and made printable."""
    shown = value if len(value) <= longest else value[: longest - 1] + "…"
    return ascii(shown) if not shown.isprintable() else f"'{shown}'"
