"""Take over the jobs that another scheduler runs, in the controller's loop: on which GPUs, and how they end."""

from __future__ import annotations

from collections.abc import Mapping

from powerflow.api.external import ExternalEnd, ExternalJob
from powerflow.cluster.packed_pool import UP
from powerflow.device.protocol import Place
from powerflow.gangs.types import Progressed
from powerflow.live.context import LoopContext
from powerflow.live.gang_events import GangEvents
from powerflow.live.gpus.machines import ClusterGpu
from powerflow.live.gpus.wanted import type_held
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.jobs.work_count import WorkCount
from powerflow.live.step_learning import StepLearning
from powerflow.osutil.host_names import short_host
from powerflow.store.models import Placement

#: Seconds after which a job's speed at the highest clock is measured again.
AGAIN_S = 1800.0


class ExternalJobs:
    """The jobs of another scheduler. Only the controller's loop may use it."""

    def __init__(self, context: LoopContext, gang_events: GangEvents, step_learning: StepLearning) -> None:
        self._table, self._store, self._power = context.table, context.store, context.power
        self._scheduler, self._gang_events, self._step_learning = context.scheduler, gang_events, step_learning
        self._gangs = context.gangs
        self._held_up: dict[str, ExternalJob] = {}  # by job: its GPUs count as those of another job
        self._counts: dict[str, WorkCount] = {}  # by job
        self._top_s: dict[str, float] = {}  # when the speed of each job at the highest clock was last measured

    def seen(self, job_id: str, seen: ExternalJob) -> None:
        """Take over a job where it runs, if that is possible; call this again and again while it runs."""
        job = self._table.jobs.get(job_id)
        if job is None:
            stored = self._store.job(job_id)
            if stored.state.ended:
                return
            job = self._table.enter(stored)
            job.began(seen.started_s)
        placement = () if seen.why_not else placement_of(seen.gpus, self._power.gpus())
        if placement and placement == job.placement:
            return
        why_not = seen.why_not or self._why_not(job, placement)
        if not why_not and (holder := self._holder(job, placement)):
            self._held_up[job_id] = seen
            why_not = f"some of its GPUs still count as those of job {holder}"
        if job.placement:
            self._table.vacate(job, f"its clocks are not set any more: {why_not or 'it has other GPUs'}")
        elif why_not:
            self._table.wait(job, f"its clocks are not set: {why_not}")
        else:
            gpu_type = type_held(placement, self._scheduler.pools) or ""
            self._table.adopt(job, gpu_type, placement, float(self._scheduler.pools[gpu_type].axes.clocks_mhz[-1]))

    def _why_not(self, job: ActiveJob, placement: Placement) -> str:
        """Return why a job cannot be taken over on these GPUs now; "" if it can."""
        if not placement:
            return "PowerFlow has no agent for some of its GPUs, or is not sure of their numbers"
        pool = self._scheduler.pools.get(type_held(placement, self._scheduler.pools) or "")
        if pool is None:
            return "its GPUs are of several types"
        if job.spec.gpus.least not in pool.axes.gpu_counts:
            return f"PowerFlow does not plan with {job.spec.gpus} GPUs"
        mine, out = {(node, gpu) for node, gpus in placement for gpu in gpus}, self._power.health.out()
        for node, _ in placement:
            if pool.occupancy.status_of(node) != UP:
                return f"node {node} is drained, or does not answer"
        for node, gpu in sorted(mine & out.keys()):
            return f"GPU {gpu} of {node} is out of service: {out[node, gpu]}"
        return ""

    def _holder(self, job: ActiveJob, placement: Placement) -> str:
        """Return another job that has one of these GPUs, or whose rank has one; "" if there is none.

        A job that has failed or was cancelled is completing until its ranks have ended.
        """
        mine = {(node, gpu) for node, gpus in placement for gpu in gpus}
        for place, holder in self._gangs.holding().items():
            if place in mine and holder != job.id:
                return holder
        for other in (*self._table.jobs.values(), *self._table.completing.values()):
            if other is not job and mine & {(node, gpu) for node, gpus in other.placement for gpu in gpus}:
                return other.id
        return ""

    def try_again(self, now_s: float) -> None:
        """Take over the jobs whose GPUs counted as those of another job, as soon as these are free.

        The other scheduler tells the end of one job and the begin of the next at once.
        """
        held_up, self._held_up = self._held_up, {}
        for job_id, seen in held_up.items():
            if job_id in self._table.jobs:
                self.seen(job_id, seen)

    def count_work(self, now_s: float) -> None:
        """Count the work of the jobs of which readings have come, and learn from it how fast they are.

        From time to time, let each job run at the highest clock for a while, because its speed there is what it is
        compared with.
        """
        news = self._power.jobs_with_news()
        for job in self._table.jobs.values():
            if not (job.spec.external and job.training and job.known and job.id in news):
                continue
            works = {(node, gpu): self._power.work((node, gpu)) for node, gpus in job.placement for gpu in gpus}
            known = {place: work for place, work in works.items() if work is not None}
            if len(known) < len(works):
                continue
            count = self._counts.setdefault(job.id, WorkCount(steps=job.steps))
            waits = count.counter is None
            count.add(known)
            if count.counter is None:
                continue
            job.counted_by(count.counter)
            if waits or now_s - self._top_s.get(job.id, now_s) > AGAIN_S:
                self._top_s[job.id] = now_s
                self._step_learning.try_clocks(job, again=not waits)
            self._step_learning.worked(_progressed(job, count), job, now_s)
        for job_id in self._counts.keys() - self._table.jobs.keys():
            del self._counts[job_id]
            self._top_s.pop(job_id, None)

    def ended(self, job_id: str, end: ExternalEnd, now_s: float) -> None:
        """Note how a job has ended, and give its GPUs back."""
        job = self._table.jobs.get(job_id)
        if job is not None:
            self._gang_events.ended_outside(job, end, now_s)
        elif not self._store.job(job_id).state.ended:  # the loop has never heard of it
            self._store.move(job_id, end.state, now_s, exit=end.text, reason=end.text, ended_s=end.ended_s)


def _progressed(job: ActiveJob, count: WorkCount) -> Progressed:
    return Progressed(
        job_id=job.id,
        step=int(count.steps),
        steps_total=None,
        generation=count.generation,
        gpus=job.gpus,
        nodes=len(job.placement),
        timed_steps=int(count.timed_steps),
        timed_s=count.timed_s,
    )


def placement_of(gpus: Mapping[str, tuple[int, ...]], known: Mapping[Place, ClusterGpu]) -> Placement:
    """Return the GPUs of a job by node of the cluster; empty if one of them is not part of the cluster.

    Args:
        gpus: Numbers of the driver, by short host name.
        known: The GPUs of the cluster.
    """
    by_number = _by_number(known)
    nodes: dict[str, list[int]] = {}
    for host, numbers in gpus.items():
        for number in numbers:
            place = by_number.get((host, number))
            if place is None:
                return ()
            nodes.setdefault(place[0], []).append(place[1])
    return tuple((node, tuple(sorted(numbers))) for node, numbers in sorted(nodes.items()))


def _by_number(known: Mapping[Place, ClusterGpu]) -> dict[tuple[str, int], Place]:
    """Return the place of each GPU by the short name of its node or its machine, and its number there.

    A name and number that fit several GPUs are left out (two hosts may differ in their domains only; a machine with
    several nodes of emulated GPUs has several GPUs with one number), and so are all GPUs of a machine on which a GPU is
    missing: its driver may count without it, and the other scheduler with it.
    """
    unsure = {gpu.machine for gpu in known.values() if gpu.driver_index is None and not gpu.emulated}
    by_node: dict[tuple[str, int], list[Place]] = {}
    by_machine: dict[tuple[str, int], list[Place]] = {}
    for place, gpu in known.items():
        if gpu.machine not in unsure:
            number = gpu.index if gpu.driver_index is None else gpu.driver_index
            by_node.setdefault((short_host(gpu.node), number), []).append(place)
            by_machine.setdefault((short_host(gpu.machine), number), []).append(place)
    return {key: of[0] for key, of in (by_machine | by_node).items() if len(of) == 1}
