"""Emulate GPUs for real ranks: slow their steps down to the speed of a modelled GPU.

Ranks that use `powerflow.elastic` slow themselves down; all other scripts are slowed down from outside. Each class
(jobs that cost the same per step) has true costs: those of its model family, varied at random. The scheduler never sees
the true costs. It learns from the measured steps of the ranks.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from powerflow.api.job_spec import JobSpec
from powerflow.cost.catalogue import family_model
from powerflow.cost.model import JobModel
from powerflow.device.emulated.gpu import EmulatedGpu
from powerflow.device.emulated.pacer import emulate_rank
from powerflow.device.emulated.throttle import Throttle
from powerflow.device.emulated.true_cost import truth_of
from powerflow.engine.protocol import RankName, RankState, RankStatus
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.jobs.cost_learning import JobClass, class_of


def ground_truth(kind: JobClass, gpu_type: str, seed: int) -> JobModel:
    """Return the true costs of a class of jobs on an emulated GPU type. The same seed gives the same costs."""
    model = replace(family_model(kind.family, gpu_type), local_batch_max=kind.local_max)
    return truth_of(model, zlib.crc32(f"{kind.name}\0{gpu_type}\0{seed}".encode()))


class Emulation:
    """Emulate the GPUs of one cluster.

    Args:
        directory: The device directory, with the files of the emulated GPUs.
        gpus: All GPUs of the cluster.
        seed: Seed of the true costs.
        time_scale: Factor on the true length of steps; watts do not change.
    """

    def __init__(self, directory: Path, gpus: Sequence[EmulatedGpu], *, seed: int = 0, time_scale: float = 1.0) -> None:
        self._directory = directory
        self.gpus = gpus
        self._gpus = {(gpu.node, gpu.index): gpu for gpu in gpus}
        self._seed = seed
        self._time_scale = time_scale
        self._throttles: dict[str, tuple[frozenset[str], Throttle]] = {}  # by job, and for which ranks
        (directory / "ranks").mkdir(parents=True, exist_ok=True)

    def environment(
        self, user: str, spec: JobSpec, node: str, numbers: Sequence[int], name: RankName
    ) -> Mapping[str, str]:
        """Return the environment variables through which a rank finds its emulated GPUs."""
        gpus = [self._gpus[node, number] for number in numbers]
        truth = ground_truth(class_of(spec, user), gpus[0].gpu_type, self._seed)
        path = self._directory / "ranks" / f"{name}.json"
        return emulate_rank(path, truth, gpus, time_scale=self._time_scale)

    def follow(self, ranks: Sequence[RankStatus], jobs: Mapping[str, ActiveJob]) -> None:
        """Slow down scripts that do not use `powerflow.elastic`; stop this for jobs that have ended or changed."""
        running: dict[str, list[RankStatus]] = {}
        for rank in ranks:
            job = jobs.get(rank.name.gang)
            if job is not None and job.spec.rescale != "in-place" and rank.state is RankState.RUNNING and rank.pid:
                running.setdefault(rank.name.gang, []).append(rank)
        wanted = {job_id: frozenset(str(rank.name) for rank in of_job) for job_id, of_job in running.items()}
        for job_id in [job_id for job_id, (names, _) in self._throttles.items() if wanted.get(job_id) != names]:
            self._throttles.pop(job_id)[1].close()
        for job_id, of_job in running.items():
            if job_id not in self._throttles and (throttle := self._throttle(of_job, jobs[job_id])):
                self._throttles[job_id] = wanted[job_id], throttle

    def close(self) -> None:
        """Let all scripts run at their own speed again."""
        for _, throttle in self._throttles.values():
            throttle.close()
        self._throttles.clear()

    def _throttle(self, ranks: Sequence[RankStatus], job: ActiveJob) -> Throttle | None:
        """Slow the ranks of a job; return None if some of its ranks do not run yet."""
        places = [(node, number) for node, numbers in job.placement for number in numbers]
        whole = job.spec.rescale == "none"  # one process has all GPUs; else one each, in the order of the placement
        if not places or len(ranks) != (1 if whole else len(places)):
            return None
        ordered = sorted(ranks, key=lambda rank: (rank.name.epoch, rank.name.number))
        gpus = [self._gpus[place] for place in places]
        groups = {ordered[0].pid: gpus} if whole else {r.pid: [gpu] for r, gpu in zip(ordered, gpus, strict=True)}
        batch = -(-job.kind.global_batch // len(places))
        return Throttle(
            self._directory,
            groups,
            ground_truth(job.kind, gpus[0].gpu_type, self._seed),
            nodes=len(job.placement),
            local_batch=min(batch, job.kind.local_max),
            accumulation=-(-batch // job.kind.local_max),
        )
