"""Tell from a log which jobs held all GPUs of their nodes.

``sacct`` does not know which GPUs of a node a job held. But a job that held as many GPUs as its nodes have, held all of
them, and nobody else held one. All other jobs stay unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from powerflow.osutil.host_names import short_host
from powerflow.trace.record import Trace, TraceJob
from powerflow.watch.owners import GpuAddress, Holding, OwnersLook, WatchedJob
from powerflow.watch.readings import Readings
from powerflow.watch.sources.slurm import hosts


@dataclass(frozen=True, slots=True)
class _Placed:
    """A job of the log that ran once, and its nodes."""

    job: WatchedJob
    gpus: int
    nodes: frozenset[str]


class WholeNodes:
    """The jobs of a log that held whole nodes, as those who held the GPUs."""

    def __init__(self, trace: Trace, sizes: Collection[int]) -> None:
        """Prepare to tell.

        Args:
            trace: The log; its times are Unix seconds. A job that was requeued is left out: the log has the nodes of
                its last run alone.
            sizes: Numbers of GPUs that a node of the cluster can have. A node of which the readings show another
                number is not whole.
        """
        self._sizes = frozenset(sizes)
        self._placed = [*_placed(trace.jobs)]

    @property
    def possible(self) -> bool:
        """True if the log tells the nodes of a job."""
        return bool(self._placed)

    def __call__(self, readings: Readings, since_s: float, until_s: float) -> OwnersLook:
        """Return who held GPUs in a time (Unix seconds), among those whose readings are known."""
        on_node: dict[str, list[GpuAddress]] = {}
        for gpu in readings.cards:
            on_node.setdefault(gpu.node, []).append(gpu)
        whole = {node: gpus for node, gpus in on_node.items() if len(gpus) in self._sizes}
        jobs: dict[str, WatchedJob] = {}
        holdings: list[Holding] = []
        for placed in self._placed:
            job = placed.job
            if job.start_s >= until_s or (job.end_s or 0.0) <= since_s or not placed.nodes <= whole.keys():
                continue
            gpus = [gpu for node in sorted(placed.nodes) for gpu in whole[node]]
            if len(gpus) == placed.gpus:
                jobs[job.key] = job
                holdings += [Holding(job.key, gpu, job.start_s, job.end_s) for gpu in gpus]
        return OwnersLook(until_s, jobs, holdings, since_s=since_s)


def _placed(jobs: Iterable[TraceJob]) -> Iterable[_Placed]:
    for job in jobs:
        if job.wait_s is None or not job.nodes or job.earlier_gpu_s > 0:
            continue
        start_s, id = job.submit_s + job.wait_s, job.id.rpartition("/")[2]
        watched = WatchedJob(
            f"slurm:{id}@{int(start_s)}", id, start_s, start_s + job.duration_s, name=job.name, user=job.user
        )
        yield _Placed(watched, job.gpus, frozenset(map(short_host, hosts(job.nodes))))
