"""Check a job before it is stored: what can never run is refused, and what will not work as hoped is noted."""

from __future__ import annotations

from collections.abc import Callable

from powerflow.api.dependency import read_dependency
from powerflow.api.job_array import read_array
from powerflow.api.job_spec import USUAL_GRACE_S, JobSpec
from powerflow.api.records import NotFound, Refused
from powerflow.live.controller import Controller
from powerflow.live.gpus.wanted import check_gpus
from powerflow.store.models import StoredJob

#: Most jobs of one user that have not ended.
MOST_ACTIVE = 10_000


def refuse_external(job: StoredJob) -> None:
    """Refuse to act on a job that another scheduler runs.

    Raises:
        Refused: The job is such a job.
    """
    if job.spec.external:
        scheduler, number = job.spec.run.partition(":")[0].capitalize(), job.spec.name.partition(" ")[0]
        raise Refused(
            f"job {job.id} is {scheduler}'s job {number}: PowerFlow only sets the clocks of its GPUs",
            fix=f"use the commands of {scheduler}",
        )


class JobChecks:
    """Check jobs for one cluster. Any thread may use it; `ClusterService` describes the arguments."""

    def __init__(
        self,
        controller: Controller,
        may_run: Callable[[str, str | None], str],
        *,
        keeps_checkpoints: bool,
        beside: str = "",
    ) -> None:
        self._controller, self._may_run, self._keeps_checkpoints = controller, may_run, keeps_checkpoints
        self._beside = beside

    def check(self, spec: JobSpec, user: str) -> None:
        """Check that a job of a user can run in this cluster.

        Raises:
            Refused: It can never run.
        """
        if self._beside:
            what = f"{self._beside} starts the jobs of this cluster, and PowerFlow only sets the clocks of their GPUs"
            raise Refused(what, fix=f"submit it to {self._beside}")
        if why := self._may_run(user, spec.directory):
            raise Refused(why)
        if not self._keeps_checkpoints and spec.rescale == "in-place" and spec.checkpoint.dir is None:
            raise Refused(
                "checkpoint.dir is missing: this cluster has several machines, and a job that moves would begin again",
                fix="name a folder that all machines share; or start the controller with --shared-dir",
            )
        grace_s, most_s = spec.checkpoint.grace, self._controller.gangs.most_grace_s
        if grace_s > most_s and grace_s != USUAL_GRACE_S:  # a job that asks for nothing gets the most there is
            raise Refused(
                f"checkpoint.grace is {grace_s:g} s, the most here is {most_s:g} s",
                fix=f"give at most {most_s:g}s; an administrator can raise this limit with powerflow serve --max-grace",
            )
        check_gpus(spec, self._controller.scheduler.pools, self._controller.power.types)
        for need in read_dependency(spec.dependency) if spec.dependency else ():
            try:
                self._controller.store.job(need.job_id)
            except NotFound:
                raise Refused(f"dependency: there is no job {need.job_id}") from None

    def check_may_move(self) -> None:
        """Check that PowerFlow may move jobs away from a node.

        Raises:
            Refused: Another scheduler gives the GPUs out.
        """
        if self._beside:
            what = f"{self._beside} gives out the GPUs, so PowerFlow cannot empty a node"
            raise Refused(what, fix=f"drain the node in {self._beside}")

    def check_crowd(self, user: str, spec: JobSpec) -> None:
        """Check that a user may have one more job, or array of jobs: each takes time in every turn of the loop.

        Raises:
            Refused: The user has too many jobs.
        """
        more = len(read_array(spec.array).tasks) if spec.array else 1
        active = sum(job.user == user for job in self._controller.snapshot.values())
        if active + more > MOST_ACTIVE:
            over = f"; {more} more would be over {MOST_ACTIVE}" if more > 1 else ""
            what = f"{user} has {active} jobs that have not ended{over}"
            raise Refused(what, fix="cancel jobs, or wait until jobs end")

    def notes(self, spec: JobSpec) -> tuple[str, ...]:
        """Return one line for each hope of a job's owner that this cluster, or this job, cannot meet."""
        found, gpus = [], spec.gpus
        pools = self._controller.scheduler.pools.values()
        largest = max(sum(node.gpus for node in pool.occupancy.nodes) for pool in pools)
        if gpus.most > largest:
            found.append(f"gpus: the job asks for up to {gpus.most}, but the cluster has {largest} of one type")
        if gpus.most > gpus.least and spec.batch is None:
            found.append(
                "batch.global is missing: PowerFlow assumes one sample per GPU, "
                "so it expects little gain from more GPUs"
            )
        if gpus.most > gpus.least and spec.rescale == "restart" and spec.progress is None:
            found.append("progress is missing: PowerFlow sees no steps of this script, so it cannot measure its costs")
        return tuple(found)
