"""Take the readings of the GPUs, charge the energy to the jobs that drew it, and record the watts of each job."""

from __future__ import annotations

import contextlib

import numpy as np

from powerflow.live.context import LoopContext
from powerflow.live.governance.step import GovernanceStep
from powerflow.live.gpu_service import GpuService
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.scheduler.events import PowerMetered
from powerflow.store.database import StoreError

#: A GPU runs at its decided clock if the clock it reports differs by at most this share.
CLOCK_NEAR = 0.05


class Measurement:
    """Take the readings of one cluster for its jobs. Only the controller's loop may use it."""

    def __init__(self, context: LoopContext, governance: GovernanceStep, gpu_service: GpuService) -> None:
        self._power, self._table, self._scheduler = context.power, context.table, context.scheduler
        self._store = context.store
        self._governance, self._gpu_service = governance, gpu_service

    def measure(self, now_s: float) -> None:
        """Take what the machines have reported since the last call."""
        if not self._power.due():
            return
        self.settle(now_s)
        if self._scheduler.caps:
            self._table.emit(self.metered())
        news, disturbed = self._power.jobs_with_news(), self._power.disturbed()
        for job in self._table.jobs.values():
            power = self._power.power_of(job.id)
            if job.id in news or job.id in disturbed or not power.watts:  # no reading counts twice
                job.metered(power, job.id in disturbed, now_s)

    def settle(self, now_s: float) -> None:
        """Take the machines' last reports, and charge the energy up to then to the jobs whose ranks drew it."""
        for job_id, (energy_j, gpu_s) in self._power.settle(now_s).items():
            job = self._table.jobs.get(job_id) or self._table.completing.get(job_id)
            if job is not None:
                job.charged(energy_j, gpu_s)
                self._table.changed(job)
                self._governance.charged(job.spec.project, energy_j)
                continue
            with contextlib.suppress(StoreError):  # the budget is one of the few things that may wait for a restart
                self._governance.charged(self._store.job(job_id).spec.project, energy_j)  # its machine was away
        self._gpu_service.look()

    def metered(self) -> PowerMetered:
        """Return the last readings as an event, with which the scheduler checks power caps."""
        power, slot_of = self._power, self._scheduler.ledger.slot_of
        held = [job for job in self._table.jobs.values() if job.placement and job.id in slot_of]
        read = [job for job in held if power.watts_of(job.id) > 0]
        return PowerMetered(
            power.power_w(),
            np.array([self._scheduler.slot(job.id) for job in read], np.int64),
            np.array([power.watts_of(job.id) for job in read]),
            np.array([self._is_steady(job) for job in read], np.bool_),
        )

    def _is_steady(self, job: ActiveJob) -> bool:
        """Return True if a job runs with the GPU count and the clock of the latest plan, as far as its GPUs report."""
        read_mhz = self._power.clock_of(job.id)
        near = read_mhz is None or abs(read_mhz - job.clock_mhz) <= CLOCK_NEAR * job.clock_mhz
        return job.id not in self._table.pending and job.training and not job.explore_mhz and near
