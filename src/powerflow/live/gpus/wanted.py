"""Check that the cluster has the GPUs that a job asks for.

People write ``A100`` for a GPU whose driver calls it "NVIDIA A100-SXM4-80GB"; this module matches such names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from powerflow.api.job_spec import JobSpec
from powerflow.api.records import Refused
from powerflow.cost.type_names import matching, slug
from powerflow.scheduler.pool import Pool
from powerflow.store.models import Placement


def type_wanted(wanted: str | None, types: Mapping[str, Collection[str]]) -> str | None:
    """Return the GPU type of this cluster that a job means by ``wanted``; None if the job names no type.

    Args:
        wanted: GPU type in the words of the job.
        types: Names of the GPUs in this cluster, by GPU type (`names_by_type`).

    Raises:
        Refused: No GPU type of the cluster has this name, or several types have this name.
    """
    if wanted is None:
        return None
    found = matching(wanted, types)
    if not found:
        raise Refused(f"there is no {wanted} in this cluster", fix=f"its GPU types: {', '.join(types)}")
    if len(found) > 1:
        full = sorted({slug(name) for kind in found for name in types[kind]})
        raise Refused(f"{wanted} can mean {' or '.join(full)} in this cluster", fix="write one of these names")
    return found[0]


def check_gpus(spec: JobSpec, pools: Mapping[str, Pool], types: Mapping[str, Collection[str]]) -> None:
    """Refuse a job that asks for GPUs that this cluster does not have.

    Raises:
        Refused: The cluster has no such GPU type (see `type_wanted`) or too few GPUs, or no GPU count that the job
            accepts can be used here.
    """
    wanted = spec.gpus
    kind = type_wanted(wanted.gpu_type, types)
    of_type = list(pools.values()) if kind is None else [pools[kind]]
    largest = max(sum(node.gpus for node in pool.occupancy.nodes) for pool in of_type)
    if wanted.least > largest:
        raise Refused(
            f"the job asks for {wanted.least} GPUs, but the cluster has {largest}", fix=f"ask for at most {largest}"
        )
    counts = sorted({n for pool in of_type for n in pool.axes.gpu_counts.tolist()})
    if not any(wanted.least <= n <= wanted.most for n in counts):
        words = ", ".join(map(str, counts))
        raise Refused(f"no GPU count from {wanted.least} to {wanted.most} can be used here", fix=f"use one of {words}")
    if spec.rescale == "none":
        node = max(node.gpus for pool in of_type for node in pool.occupancy.nodes)
        if wanted.most > node:
            raise Refused(f"one process cannot use {wanted.most} GPUs: a node has {node}", fix="use rescale: restart")


def type_held(placement: Placement, pools: Mapping[str, Pool]) -> str | None:
    """Return the present type of the GPUs in a placement; None if some of these GPUs are not in the cluster any more.

    The placement must not be empty. After an upgrade of PowerFlow or the driver, the type may have another name than
    when the job was placed.
    """
    here = {node.name: (node.gpus, kind) for kind, pool in pools.items() for node in pool.occupancy.nodes}
    kinds = set()
    for node, numbers in placement:
        gpus, kind = here.get(node, (0, ""))
        if not set(numbers) <= set(range(gpus)):
            return None
        kinds.add(kind)
    return kinds.pop() if len(kinds) == 1 else None
