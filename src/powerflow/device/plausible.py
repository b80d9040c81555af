"""Reject energy and power readings of a GPU that cannot be true.

A card keeps its power below its power limit. So an energy counter is wrong if it rises by more than the limit times the
time that has passed. A power reading of several times the limit is wrong, too. A counter that goes back without a wrap
(overflow to 0) was reset. For a period with a wrong counter, the power readings, integrated over time, are counted
instead. The counter is used again from its new value on, and a notice tells the operator.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

from powerflow.device.protocol import Reading

#: Most watts that a card can draw if it does not report its power limit.
MOST_W = 2000.0
#: Factors on the power limit that a mean over seconds, and a single reading, may reach: a card keeps its limit only
#: over tens of milliseconds.
MEAN_MARGIN, PEAK_MARGIN = 1.3, 2.5
#: Joules by which a counter may be behind or ahead, because a card updates it only every 20 to 100 ms.
SLACK_J = 200.0


class Jump(NamedTuple):
    """A rejected change of a GPU's energy counter.

    Attributes:
        uuid: UUID of the GPU.
        counted_j: Change of the counter, joules; negative if the counter went back.
        seconds: Time in which the counter changed.
        most_j: The most that the card can have drawn in this time, joules; nan if the counter went back.
    """

    uuid: str
    counted_j: float
    seconds: float
    most_j: float

    def sentence(self) -> str:
        """Return a sentence about the rejected change, for the operator."""
        if self.counted_j < 0:
            return f"its energy counter went back by {-self.counted_j:,.1f} J: its power readings are counted instead"
        return (
            f"its energy counter rose by {self.counted_j:,.1f} J in {self.seconds:.1f} s, but the GPU can "
            f"have drawn {self.most_j:,.1f} J at most: its power readings are counted instead"
        )


def impossible(
    uuid: str, before_j: float, reading: Reading, since_s: float, counted_j: float | None, limit_w: float
) -> Jump | None:
    """Return the change of an energy counter between two readings if it is impossible; None if it is possible.

    Args:
        uuid: UUID of the GPU.
        before_j: Value of the counter at the previous reading, joules.
        reading: The reading now.
        since_s: Time of the previous reading; 0 (the time of the boot) if it was before the last boot.
        counted_j: Energy since the previous reading in joules, with wraps of the counter taken into account; None if
            the counter does not tell.
        limit_w: Highest power limit of the GPU between the two readings, watts.
    """
    seconds = reading.time_s - since_s
    if counted_j is None:
        back_j = reading.energy_j - before_j
        return Jump(uuid, back_j, seconds, math.nan) if back_j < 0 else None
    most_j = limit_w * MEAN_MARGIN * max(seconds, 0.0) + SLACK_J
    return Jump(uuid, counted_j, seconds, most_j) if counted_j > most_j else None


def sane(reading: Reading) -> Reading:
    """Return a reading of a GPU. If its power is impossible, the returned reading has nan as power."""
    if math.isnan(reading.power_w) or 0.0 <= reading.power_w <= PEAK_MARGIN * limit_of(reading):
        return reading
    return dataclasses.replace(reading, power_w=math.nan)


def limit_of(reading: Reading) -> float:
    """Return the power limit of a card in watts, as its reading tells; `MOST_W` if the card reports none."""
    return reading.power_limit_w if 0.0 < reading.power_limit_w < math.inf else MOST_W
