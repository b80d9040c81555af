"""Check the numbers that a job reports about its training: numbers outside their bounds cannot be true.

The numbers are checked when a report is read (`rank_reports`, `step_timing`). They are checked again when they are read
from the store, because an earlier version may have stored impossible numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

from powerflow.cost.observation import Observation

#: Most steps, samples and the like. A float and a database hold every whole number up to it exactly.
MOST_COUNT = 10**15
#: Most samples of a step, passes of a step, and generations: what job.yaml allows, too.
MOST_BATCH = 10**9
#: Most seconds of a duration (31 years), and of a moment since 1970.
MOST_S, MOST_UNIX_S = 1e9, 1e12
#: Least seconds of a step.
LEAST_STEP_S = 1e-6
#: Most watts of all GPUs of a job together.
MOST_W = 1e9


def is_plausible(seen: Observation) -> bool:
    """Return True if all numbers of a measurement are possible."""
    return (
        LEAST_STEP_S <= seen.step_time_s <= MOST_S
        and all(1 <= count <= MOST_BATCH for count in (seen.gpus, seen.nodes, seen.local_batch, seen.accumulation))
        and (seen.power_w is None or 0.0 < seen.power_w <= MOST_W)
    )


def steps_or(value: float | None, otherwise: float | None) -> float | None:
    """Return ``value`` if it can be a number of steps, else ``otherwise``."""
    return value if value is not None and 0.0 <= value <= MOST_COUNT else otherwise


def within(kept: object, most: float) -> dict[str, float]:
    """Return the numbers in ``kept`` (read from the store) from 0 to ``most``, by name; leave out other entries."""
    if not isinstance(kept, Mapping):
        return {}
    return {str(name): value for name, value in kept.items() if type(value) in (int, float) and 0 <= value <= most}
