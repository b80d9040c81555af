"""Find what will not work as the owner of a job may hope, although the job can run."""

from __future__ import annotations

from collections.abc import Mapping

from powerflow.api.job_spec import JobSpec
from powerflow.scheduler.pool import Pool


def notes(spec: JobSpec, pools: Mapping[str, Pool]) -> tuple[str, ...]:
    """Return one line for each hope of a job's owner that this cluster, or this job, cannot meet."""
    found = []
    largest = max(sum(node.gpus for node in pool.occupancy.nodes) for pool in pools.values())
    if spec.gpus.most > largest:
        found.append(f"gpus: the job asks for up to {spec.gpus.most}, but the cluster has {largest} of one type")
    if spec.gpus.most > spec.gpus.least:
        if spec.batch is None:
            found.append(
                "batch.global is missing: PowerFlow assumes one sample per GPU, "
                "so it expects little gain from more GPUs"
            )
        if spec.rescale == "restart" and spec.progress is None:
            found.append("progress is missing: PowerFlow sees no steps of this script, so it cannot measure its costs")
    return tuple(found)
