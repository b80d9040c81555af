"""What the meters say of jobs, as the scheduler takes it: power caps are held against it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from powerflow.live.gpus.gpus import Gpus
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.scheduler.events import PowerMetered
from powerflow.scheduler.scheduler import Scheduler

#: A GPU runs at the clock it was given if it says one that is no farther off, as a share.
CLOCK_NEAR = 0.05


def metered(entries: Iterable[ActiveJob], unstored: Collection[str], scheduler: Scheduler, power: Gpus) -> PowerMetered:
    """The last readings of all GPUs.

    Args:
        entries: Active jobs.
        unstored: Ids of those whose latest decision is not carried out yet.
        scheduler: Knows their slots.
        power: Has the readings.
    """
    held = [entry for entry in entries if entry.placement and entry.id in scheduler.ledger.slot_of]
    read = [entry for entry in held if power.watts_of(entry.id) > 0]
    return PowerMetered(
        power.power_w(),
        np.array([scheduler.slot(entry.id) for entry in read], np.int64),
        np.array([power.watts_of(entry.id) for entry in read]),
        np.array([entry.id not in unstored and _is_steady(entry, power) for entry in read], np.bool_),
    )


def _is_steady(entry: ActiveJob, power: Gpus) -> bool:
    """Whether a job runs at the count and the clock of the latest plan, as far as its GPUs say."""
    read_mhz = power.clock_of(entry.id)
    near = read_mhz is None or abs(read_mhz - entry.clock_mhz) <= CLOCK_NEAR * entry.clock_mhz
    return entry.training and not entry.explore_mhz and near
