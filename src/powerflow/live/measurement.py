"""Read the GPUs, charge the jobs that hold them, and record what jobs draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

from powerflow.live.governance.step import GovernanceStep
from powerflow.live.gpu_service import GpuService
from powerflow.live.gpus.gpus import Gpus, Place
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.jobs.clock_exploration import EXPLORE_S
from powerflow.live.jobs.gang_events import GangEvents
from powerflow.live.jobs.job_table import JobTable
from powerflow.live.power_event import metered
from powerflow.scheduler.events import PowerMetered
from powerflow.scheduler.scheduler import Scheduler


class Measurement:
    """For the controller's loop.

    Args:
        power: The GPUs.
        roster: The active jobs.
        scheduler: The scheduler; only whether it has power caps is asked.
        governance: Is told what was charged.
        gpu_service: Looks at the GPUs after each reading.
        holding: Which job is on which GPU.

    Attributes:
        strangers: Gangs of no job that the store knows: nobody is charged for them.
    """

    def __init__(
        self,
        power: Gpus,
        roster: JobTable,
        scheduler: Scheduler,
        governance: GovernanceStep,
        gpu_service: GpuService,
        holding: Callable[[], Mapping[Place, str]],
    ) -> None:
        self._power, self._roster, self._scheduler = power, roster, scheduler
        self._governance, self._gpu_service, self._of_gangs = governance, gpu_service, holding
        self.strangers: Collection[str] = frozenset()

    def measure(self, now_s: float, facts: GangEvents) -> None:
        """Read the GPUs if it is time to; ``facts`` goes on to the next clock where one was tried for long enough."""
        if not self._power.due(now_s, self._holding()):
            return
        self.settle(now_s)
        if self._scheduler.caps:
            self._roster.events.append(self.metered())
        for entry in self._roster.entries.values():
            entry.power_w = self._power.watts_of(entry.id)
            self._take_down(entry, now_s, facts)

    def settle(self, now_s: float) -> None:
        """Charge the jobs that hold GPUs up to now."""
        for job_id, (energy_j, gpu_s) in self._power.settle(now_s, self._holding()).items():
            entry = self._roster.entries.get(job_id)
            if entry is not None:
                entry.energy_j += energy_j
                entry.gpu_s += gpu_s
                self._governance.charged(entry, energy_j)
        self._gpu_service.look()

    def metered(self) -> PowerMetered:
        """Return the last readings, as the scheduler takes them."""
        return metered(self._roster.entries.values(), self._roster.unstored, self._scheduler, self._power)

    def _take_down(self, entry: ActiveJob, now_s: float, facts: GangEvents) -> None:
        disturbed = self._power.disturbed(entry.id)
        if disturbed:  # what is timed now is not what the job costs; but no clock is tried for ever
            entry.window = None
        if entry.window is not None and entry.training and entry.power_w > 0:
            entry.window.watts += entry.power_w
            entry.window.samples += 1
        if entry.window is None and not (disturbed and math.isfinite(entry.explore_since_s)):
            entry.explore_since_s = now_s
        elif entry.explore_mhz and now_s - entry.explore_since_s > EXPLORE_S:
            facts.try_next(entry, now_s, entry.explore_mhz[0])

    def _holding(self) -> Mapping[Place, str]:
        """Return which job is on which GPU, for jobs that the store knows."""
        holding = self._of_gangs()
        if not self.strangers:
            return holding
        return {place: job_id for place, job_id in holding.items() if job_id not in self.strangers}
