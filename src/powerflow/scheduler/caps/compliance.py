"""Judge from a record of power how well a power cap was kept, in a simulation or on a live cluster."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.scheduler.cap import PowerCap
from powerflow.units import HOUR_S

WITHIN_S = HOUR_S  # time before and after a cap for which the highest power is reported
HEADER = "time_s,watts,allowed_w\n"


@dataclass(frozen=True, slots=True)
class Compliance:
    """Result of the check how well one power cap was kept, from a record of power.

    Attributes:
        scope: Name of the set of nodes to which the cap applied.
        target_w: The cap, watts.
        due_s, end_s: Start and end of the time in which the cap had to be kept. If the record is shorter, its start and
            end.
        under_after_s: Seconds from ``due_s`` until power was first at or below the cap; ``inf`` if this did not happen.
        over_s: For how many seconds power was above the cap between ``due_s`` and ``end_s``.
        worst_over_w: Most watts above the cap between ``due_s`` and ``end_s``; 0 if power was never above.
        mean_w: Mean power between ``due_s`` and ``end_s``, watts; nan without a record.
        before_w: Highest power in the hour before ``due_s``, watts; nan without a record.
        after_w: Highest power in the hour after the end of the cap, watts; nan without a record.
    """

    scope: str
    target_w: float
    due_s: float
    end_s: float
    under_after_s: float
    over_s: float
    worst_over_w: float
    mean_w: float
    before_w: float
    after_w: float

    def to_json(self) -> str:
        """Return the report as the text of one JSON object, in which missing or infinite numbers are null."""
        values = asdict(self)
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        return json.dumps({"version": 1, **finite})


def line(time_s: float, watts: float, allowed_w: float) -> str:
    """Return one line of a record of power: a time, the power from this time on, and the limit at this time.

    Args:
        time_s: The time.
        watts: The power.
        allowed_w: The limit in watts; ``inf``, written as nothing, if there is no limit.
    """
    return f"{time_s:.3f},{watts:.1f},{'' if math.isinf(allowed_w) else f'{allowed_w:.1f}'}\n"


def comply(cap: PowerCap, time_s: FloatArray, watts: FloatArray) -> Compliance:
    """Report how well a power cap was kept, from a record of power with T entries.

    Args:
        cap: The power cap.
        time_s: ``[T]`` times, ascending. The record ends at the last time.
        watts: ``[T]`` power from each time until the next time.
    """
    due_s = max(cap.due_s, float(time_s[0])) if len(time_s) else cap.due_s
    end_s = min(cap.end_s, float(time_s[-1])) if len(time_s) else cap.end_s
    spans_s, held_w = _between(time_s, watts, due_s, end_s)
    over = held_w > cap.watts * (1 + 1e-9)
    under = np.flatnonzero(~over & (spans_s > 0))
    before = _between(time_s, watts, due_s - WITHIN_S, due_s)[1]
    after = _between(time_s, watts, cap.end_s, cap.end_s + WITHIN_S)[1] if math.isfinite(cap.end_s) else np.empty(0)
    return Compliance(
        scope=cap.scope.name,
        target_w=cap.watts,
        due_s=due_s,
        end_s=end_s,
        under_after_s=float(spans_s[: under[0]].sum()) if len(under) else math.inf,
        over_s=float(spans_s[over].sum()),
        worst_over_w=float((held_w - cap.watts).max(initial=0.0)),
        mean_w=float((spans_s * held_w).sum() / spans_s.sum()) if len(spans_s) else math.nan,
        before_w=float(before.max()) if len(before) else math.nan,
        after_w=float(after.max()) if len(after) else math.nan,
    )


def _between(time_s: FloatArray, watts: FloatArray, from_s: float, to_s: float) -> tuple[FloatArray, FloatArray]:
    """Return the entries of a record of power that lie between two times: how long each lasts (s), and its watts."""
    if len(time_s) < 2:
        return np.empty(0), np.empty(0)
    begins = np.clip(time_s[:-1], from_s, to_s)
    spans_s = np.clip(time_s[1:], from_s, to_s) - begins
    there = spans_s > 0
    return spans_s[there], watts[:-1][there]
