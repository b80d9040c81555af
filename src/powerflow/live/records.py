"""Describe jobs, nodes and the cluster for the API, from the store and the latest snapshot of the controller's loop."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from powerflow.api.output_path import output_path
from powerflow.api.rank_batch import RankBatch, rank_batch
from powerflow.api.records import GpuRecord, JobRecord, JobState, NodeRecord, Top
from powerflow.device.protocol import Reading
from powerflow.gangs.context import job_values
from powerflow.live.controller import Controller
from powerflow.live.gpus.machines import ClusterGpu
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.jobs.options import measured
from powerflow.live.node_watch import NodeCondition
from powerflow.live.rank_environment import job_variables
from powerflow.store.models import Placement, StoredJob

#: Jobs that `Records.top` lists.
TOP_JOBS = 200


class Records:
    """Describe the jobs and nodes of one live cluster. Thread-safe.

    Args:
        controller: The controller of the cluster.
        left_out: GPUs of this machine that cannot be used, and why.
    """

    def __init__(self, controller: Controller, left_out: Sequence[str]) -> None:
        self._controller, self._power, self._left_out = controller, controller.power, tuple(left_out)

    def job(self, stored: StoredJob) -> JobRecord:
        """Return the record of a job.

        For an active job, the values of the controller's loop replace older values of the store.
        """
        return self.jobs([stored])[0]

    def jobs(self, stored: Sequence[StoredJob]) -> list[JobRecord]:
        """Return the records of several jobs."""
        held = self._held()
        return [self._job(job, held.get(job.id, ())) for job in stored]

    def _held(self) -> Mapping[str, Placement]:
        """Return the GPUs on which processes of each job may be, by job id."""
        found: dict[str, dict[str, list[int]]] = {}
        for (node, gpu), job_id in self._controller.gangs.holding().items():
            found.setdefault(job_id, {}).setdefault(node, []).append(gpu)
        return {job_id: tuple((node, tuple(gpus)) for node, gpus in of.items()) for job_id, of in found.items()}

    def placement(self, stored: StoredJob) -> Placement:
        """Return the GPUs that a job has: those that were decided, or else those on which its processes are ending."""
        decided = self._decided(stored, self._active(stored))
        return decided.placement if decided else self._ends_on(stored, self._held().get(stored.id, ()))

    def _active(self, stored: StoredJob) -> ActiveJob | None:
        return None if stored.state.ended else self._controller.snapshot.get(stored.id)

    @staticmethod
    def _decided(stored: StoredJob, job: ActiveJob | None) -> ActiveJob | None:
        """Return an active job if it has GPUs, and shall keep them as far as the store knows."""
        return job if job and job.placement and stored.state is not JobState.HELD else None

    @staticmethod
    def _ends_on(stored: StoredJob, held: Placement) -> Placement:
        """Return the GPUs on which processes of a job are ending, if no GPUs are decided for it."""
        return held if stored.state is not JobState.RUNNING and stored.ended_s is None else ()

    def _job(self, stored: StoredJob, held: Placement) -> JobRecord:
        job = self._active(stored)
        now = job or self._controller.completing.get(stored.id) or stored  # the latest
        on_gpus = self._decided(stored, job)
        ends_on = () if on_gpus else self._ends_on(stored, held)
        placement = on_gpus.placement if on_gpus else ends_on
        step_time_s, total = known(now.step_time_s), now.steps_total
        batch = _rank_batch(on_gpus) if on_gpus else None
        jct_s, step_now = None, measured(on_gpus) if on_gpus else None
        if on_gpus:
            jct_s = self._controller.governance.decision_log.forecast_as_is(on_gpus, self._controller.turned_s).jct_s
        record = JobRecord(
            id=stored.id,
            name=stored.name,
            user=stored.user,
            project=stored.spec.project,
            state=stored.state,
            priority=stored.spec.priority,
            rescale=stored.spec.rescale,
            submitted_s=stored.submitted_s,
            started_s=now.started_s or stored.started_s,
            ended_s=stored.ended_s,
            gpus_asked=str(stored.spec.gpus),
            completing=stored.completing or bool(ends_on),
            gpus=sum(len(gpus) for _, gpus in placement),
            gpu_type=(self._power.node_kind(placement[0][0])[0] if placement else job.gpu_type if job else "") or None,
            clock_mhz=on_gpus.clock_now_mhz if on_gpus else None,
            clock_read_mhz=self._power.clock_of(stored.id) if placement else None,
            nodes=tuple(node for node, _ in placement),
            power_w=on_gpus.power_w if on_gpus else self._power.watts_of(stored.id) if placement else None,
            energy_j=now.energy_j,
            reason=now.reason or stored.reason,
            steps=now.steps,
            steps_total=total,
            progress=min(1.0, now.steps / total) if total else None,
            step_time_s=step_time_s,
            energy_per_step_j=_energy_per_step_j(now),
            energy_per_step_now_j=step_now.energy_per_step_j if step_now else None,
            local_batch=batch.local_batch if batch else None,
            accumulation=batch.accumulation if batch else None,
            eta_s=None if jct_s is None else stored.submitted_s + jct_s,
            rescales=now.rescales,
            failures=now.failures,
            exit=stored.exit,
            model_error=known(job.model_error) if job else None,
            emulated=self._power.emulated,
            array_id=stored.array_id,
            array_task=stored.array_task,
            run_s=now.run_s,
            time_limit_s=stored.spec.time_limit,
            output=_output(stored),
            slowdown=known(job.slowdown) if job else None,
            work_by=job.work_by if job else "",
        )
        return _without_steps(record) if stored.spec.external else record

    def node(self, name: str) -> NodeRecord:
        """Return the record of a node and its GPUs."""
        stored = self._controller.store.node_states().get(name)
        condition = self._controller.nodes.condition(name)  # not the engine, which may take long to answer
        state = stored.state if stored and condition is NodeCondition.UP else condition.value
        if state == "drained" and any(node == name for node, _ in self._controller.gangs.holding()):
            state = "draining"
        gpu_type, emulated = self._power.node_kind(name)
        gpus = [self._gpu(name, gpu, reading) for gpu, reading in self._power.readings(name)]
        left_out = self._left_out if name == self._power.node_names()[0] else ()
        record = NodeRecord(name, gpu_type, state, gpus, emulated, left_out)
        if stored is None or stored.state != "drained":
            return record
        return replace(record, reason=stored.reason, by=stored.by, since_s=stored.since_s)

    def _gpu(self, node: str, gpu: ClusterGpu, reading: Reading | None) -> GpuRecord:
        place = (node, gpu.index)
        read_locked = reading is not None and (gpu.emulated or self._power.holds(place))
        return GpuRecord(
            index=gpu.index,
            uuid=gpu.uuid,
            job_id=self._controller.gangs.holding().get(place),
            power_w=known(reading.power_w) if reading else None,
            clock_mhz=known(reading.clock_mhz) if reading else None,
            locked_mhz=reading.locked_mhz if reading and read_locked else None,
            utilisation=known(reading.utilisation) if reading else None,
            driver_index=gpu.driver_index,
            asked_mhz=self._power.asked_mhz(place),
            out=self._power.health.why(place),
            energy_j=known(reading.energy_j) if reading else None,
            power_limit_w=known(reading.power_limit_w) if reading else None,
            read_s=known(self._power.read_s(gpu.machine)) if reading else None,
        )

    def top(self) -> Top:
        """Return an overview of the cluster as it is now."""
        controller, power, scheduler = self._controller, self._power, self._controller.scheduler
        governance, step = controller.governance, controller.governance_step
        first, counts = controller.store.front((JobState.RUNNING, JobState.QUEUED, JobState.HELD), TOP_JOBS)
        jobs = self.jobs([*first, *controller.store.completing()])
        jobs.sort(key=lambda job: (job.state is not JobState.RUNNING, not job.completing))
        held = set(controller.gangs.holding().values())
        metered_j, jobs_j, idle_j = power.totals_j()
        now_s = controller.clock()
        return Top(
            time_s=now_s,
            gpus=power.gpu_count,
            gpus_busy=len(controller.gangs.holding()),
            power_w=power.power_w(),
            jobs_power_w=sum(power.watts_of(job_id) for job_id in held),
            energy_j=metered_j,
            jobs_energy_j=jobs_j,
            idle_energy_j=idle_j,
            queued=counts[JobState.QUEUED],
            running=counts[JobState.RUNNING],
            held=counts[JobState.HELD],
            policy=scheduler.policy_name,
            energy_price=scheduler.energy_price,
            cap_w=known(step.cap_w),
            watt_price=step.watt_price,
            budget=governance.budgets.words(now_s),
            emulated=power.emulated,
            completing=sum(map(self._completes, held)),
            jobs=jobs[:TOP_JOBS],
            notices=sorted(self._notices(now_s)),
            next_decision_s=known(controller.next_decision_s),
        )

    def _completes(self, job_id: str) -> bool:
        """Return True if a job that has processes shall have none, as the loop knows it."""
        active = self._controller.snapshot.get(job_id)
        return job_id in self._controller.completing or (active is not None and not active.placement)

    def _notices(self, now_s: float) -> set[str]:
        """Return what an operator should know about the cluster, one line each."""
        controller = self._controller
        trouble = controller.governance.savings.trouble
        return {
            *controller.notices.shown().values(),
            *controller.governance_step.notices,
            *controller.power.notices(),
            *controller.nodes.notices.values(),
            *controller.engine.notices(),
            *controller.learning.costs_said(),
            *controller.governance.budgets.notices(now_s),
            *([trouble] if trouble else []),
        }


def _output(job: StoredJob) -> str:
    """Return the path of a job's output file; the codes for node and rank stay as they are."""
    if job.spec.output is None:
        return ""
    path = output_path(job.spec.output, {**job_values(job.id, job_variables(job)), "N": "%N", "t": "%t"})
    return os.path.join(job.spec.directory or "", path)


def _without_steps(record: JobRecord) -> JobRecord:
    """Return the record of a job whose work is counted in a unit that means nothing to its owner."""
    record = replace(record, steps=0.0, steps_total=None, progress=None, step_time_s=None, eta_s=None)
    return replace(record, energy_per_step_j=None, energy_per_step_now_j=None)


def _rank_batch(job: ActiveJob) -> RankBatch | None:
    """Return the work of each rank in a step, as ranks report it or as PowerFlow gives it to a script; else None."""
    if job.local_batch:
        return RankBatch(job.local_batch, job.accumulation)
    asked = job.spec.batch
    if asked is None or job.spec.rescale != "restart":
        return None
    return rank_batch(asked.global_batch, job.gpus, asked.local_max)


def _energy_per_step_j(job: ActiveJob | StoredJob) -> float | None:
    """Return the energy of a step since a job was last started, in joules; None if it has done none since."""
    steps, energy_j = job.steps - (job.start_steps or 0.0), job.energy_j - (job.start_energy_j or 0.0)
    return energy_j / steps if steps > 0 and energy_j > 0 else None


def known(value: float | None) -> float | None:
    """Return a number, or None if it is nan or infinite."""
    return value if value is not None and math.isfinite(value) else None
