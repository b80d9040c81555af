"""How well a power cap was kept: what was allowed and what was drawn, second by second if need be."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from powerflow.cost.table import FloatArray
from powerflow.scheduler.cap import PowerCap

WITHIN_S = 3600.0  # power before and after a cap is compared over so long


@dataclass(frozen=True, slots=True)
class Compliance:
    """One cap, kept or not. Simulated power, from the truth about jobs; the scheduler went by what it believed.

    Attributes:
        scope: What was capped.
        target_w: The cap.
        due_s, end_s: From when to when it had to be kept; ``end_s`` is the end of the record if that is earlier.
        under_after_s: Seconds from ``due_s`` until power was at or below the cap for the first time; ``inf``: never.
        over_s: Seconds above the cap between ``due_s`` and ``end_s``, those before it was met included.
        worst_over_w: Most watts above the cap.
        mean_w: Mean power in that time.
        before_w: Highest power in the last hour before, as far back as there is a record; nan: there is none.
        after_w: Highest power in the hour after the end; nan: there is no record of it.
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
        """As one JSON object; null where a number is missing."""
        values = asdict(self)
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        return json.dumps({"version": 1, **finite})


class CapLog:
    """Power caps to come, and the record of how they were kept.

    Args:
        caps: Each with the moment at which the scheduler hears of it.
    """

    def __init__(self, caps: Sequence[tuple[float, PowerCap]]) -> None:
        self._to_tell = sorted(caps, key=lambda entry: entry[0])
        self._caps = [cap for _, cap in self._to_tell]
        self._rows: dict[str, array[float]] = {}

    def __bool__(self) -> bool:
        return bool(self._caps)

    def told_s(self) -> float:
        """When the scheduler hears of the next cap."""
        return self._to_tell[0][0] if self._to_tell else math.inf

    def told(self, now_s: float) -> list[PowerCap]:
        """The caps that the scheduler hears of now."""
        heard = [cap for told_s, cap in self._to_tell if told_s <= now_s]
        self._to_tell = self._to_tell[len(heard) :]
        return heard

    def note(self, scope: str, now_s: float, watts: float, allowed_w: float) -> None:
        """A scope draws so much from now on."""
        self._rows.setdefault(scope, array("d")).extend((now_s, watts, allowed_w))

    def rows(self, scope: str) -> tuple[FloatArray, FloatArray, FloatArray]:
        """When (s), watts from then on, and watts allowed then, for one scope; one row for each moment."""
        rows = np.array(self._rows.get(scope, array("d"))).reshape(-1, 3)
        last = np.append(rows[1:, 0] != rows[:-1, 0], True) if len(rows) else np.empty(0, bool)
        time_s, watts, allowed_w = rows[last].T.copy()
        return time_s, watts, allowed_w

    def compliance(self) -> list[Compliance]:
        """How each cap was kept."""
        return [comply(cap, *self.rows(cap.scope.name)[:2]) for cap in self._caps]

    def to_csv(self, scope: str) -> str:
        """``time_s,watts,allowed_w`` for one scope, a line for each change; no number where all is allowed."""
        rows = zip(*self.rows(scope), strict=True)
        lines = (f"{t:.3f},{w:.1f},{'' if math.isinf(a) else f'{a:.1f}'}" for t, w, a in rows)
        return "\n".join(["time_s,watts,allowed_w", *lines, ""])


def comply(cap: PowerCap, time_s: FloatArray, watts: FloatArray) -> Compliance:
    """Judge a cap by what was drawn.

    Args:
        cap: Which.
        time_s: ``[T]`` ascending moments.
        watts: ``[T]`` power from each on, until the next; the last one is where the record ends.
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
    """Seconds and watts of each stretch between two moments."""
    if len(time_s) < 2:
        return np.empty(0), np.empty(0)
    begins = np.clip(time_s[:-1], from_s, to_s)
    spans_s = np.clip(time_s[1:], from_s, to_s) - begins
    there = spans_s > 0
    return spans_s[there], watts[:-1][there]
