"""Reject energy and power readings of a GPU that cannot be true.

A card keeps itself below its power limit, so a counter that has risen by more than the limit times the time that has
passed is wrong, and so is a power of several times the limit. One that went back without having wrapped was reset. In
each case the integral of the power is charged for that period, the counter goes on from its new value, and a notice
says so.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

from powerflow.device.protocol import Reading

#: No card draws more than this where it does not tell its limit.
MOST_W = 2000.0
#: How far a mean over seconds, and a single reading, may be above the limit: limits are kept over tens of milliseconds.
MEAN_MARGIN, PEAK_MARGIN = 1.3, 2.5
#: Joules that a counter may be behind or ahead: it is brought up to date every 20 to 100 ms.
SLACK_J = 200.0


class Jump(NamedTuple):
    """A rejected step of a counter: joules in seconds, and the most that the card can have drawn."""

    uuid: str
    counted_j: float
    seconds: float
    most_j: float

    def sentence(self) -> str:
        """Describe it for the operator."""
        if self.counted_j < 0:
            return f"its energy counter went back by {-self.counted_j:.3g} J: its power over time is counted instead"
        return (
            f"its energy counter rose by {self.counted_j:.3g} J in {self.seconds:.1f} s, it can have drawn "
            f"{self.most_j:.3g} J at most: its power over time is counted instead"
        )


def impossible(
    uuid: str, before_j: float, reading: Reading, since_s: float, counted_j: float | None, limit_w: float
) -> Jump | None:
    """Return the step of a counter between two readings if it is impossible, else None.

    Args:
        uuid: UUID of the GPU.
        before_j: The counter at the reading before.
        reading: The reading now.
        since_s: Time of the reading before; 0, the boot, if that was before the boot.
        counted_j: Energy counted since then, with wraps; None if the counter does not tell.
        limit_w: Its highest power limit meanwhile, watts.
    """
    seconds = reading.time_s - since_s
    if counted_j is None:
        back_j = reading.energy_j - before_j
        return Jump(uuid, back_j, seconds, math.nan) if back_j < 0 else None
    most_j = limit_w * MEAN_MARGIN * max(seconds, 0.0) + SLACK_J
    return Jump(uuid, counted_j, seconds, most_j) if counted_j > most_j else None


def sane(reading: Reading) -> Reading:
    """Return the reading with nan in place of an impossible power."""
    if math.isnan(reading.power_w) or 0.0 <= reading.power_w <= PEAK_MARGIN * limit_of(reading):
        return reading
    return dataclasses.replace(reading, power_w=math.nan)


def limit_of(reading: Reading) -> float:
    """Return the power limit that a card reports, watts; `MOST_W` if it reports none."""
    return reading.power_limit_w if 0.0 < reading.power_limit_w < math.inf else MOST_W
