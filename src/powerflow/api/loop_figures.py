"""Define what the controller's loop reports about itself for metrics. Plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CapReading:
    """Power of one part of the cluster, and the power that caps allow it now.

    Attributes:
        scope: The part of the cluster, as in `CapRecord.scope`.
        allowed_w: Watts that all caps of the scope allow now, with their ramps and the hour after their end.
        power_w: Watts that the GPUs of the scope draw now.
    """

    scope: str
    allowed_w: float
    power_w: float


@dataclass(frozen=True, slots=True)
class DurationCounts:
    """How often something took how long, since the controller started.

    Attributes:
        bounds_s: Upper bounds of the durations, in seconds, ascending; the last is inf.
        counts: For each bound, how many durations were at or below it, but above the bound before it.
        sum_s: Sum of all durations, in seconds.
    """

    bounds_s: Sequence[float]
    counts: Sequence[int]
    sum_s: float


@dataclass(frozen=True, slots=True)
class LoopFigures:
    """What the controller's loop did last.

    Attributes:
        turns: How long its turns took.
        gpu_prices: GPU price in the last decision, by GPU type; the unit is the policy's.
        caps: Parts of the cluster for which a power cap sets a limit now.
    """

    turns: DurationCounts
    gpu_prices: Mapping[str, float] = field(default_factory=dict)
    caps: Sequence[CapReading] = ()
