"""Plan the processes of a job's script: their number, the GPUs that each process sees, and their environments.

By default there is one process per GPU, with the environment that torchrun gives. A job with ``rescale: none`` gets one
process with all its GPUs. If a job's ``run`` line names a launcher (`powerflow.api.launchers`), the launcher is started
once per node; it starts the other processes of its node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from powerflow.api.job_spec import JobSpec
from powerflow.api.launchers import Launcher, launcher_of
from powerflow.api.rank_batch import batch_environment, rank_batch
from powerflow.device.protocol import Place


@dataclass(frozen=True, slots=True)
class StartPlan:
    """Plan how one process of a job is started.

    Attributes:
        name: Name of the rank.
        seen: Numbers of the GPUs on its node that the process may see.
        environment: Variables that are added to the environment of the process.
        command: Arguments that replace the job's ``run`` line; empty: the ``run`` line is used.
    """

    name: str
    seen: tuple[int, ...]
    environment: dict[str, str]
    command: tuple[str, ...] = ()


def launcher_in(spec: JobSpec) -> Launcher | None:
    """Return the launcher that starts the job's ranks; None if PowerFlow starts the ranks itself.

    Raises:
        InputError: The ``run`` line of the job starts a launcher that cannot be told how many processes to start.
    """
    return launcher_of(spec.run) if spec.rescale == "restart" else None


def notes(spec: JobSpec, ranks: int) -> list[tuple[str, str]]:
    """Return messages for the job's owner about a launch with this many ranks: pairs of event kind and text.

    Raises:
        InputError: The ``run`` line of the job starts a launcher that cannot be told how many processes to start.
    """
    found = []
    launcher, batch = launcher_in(spec), spec.batch
    if launcher is not None:
        found.append(
            ("launcher", f"{launcher.kind} is started once per node, to start {ranks} processes on all nodes together")
        )
    if spec.rescale == "restart" and batch and rank_batch(batch.global_batch, ranks, batch.local_max) is None:
        text = f"batch.global {batch.global_batch} cannot be divided among {ranks} ranks: LOCAL_BATCH is not set"
        found.append(("batch not even", text))
    return found


def processes(spec: JobSpec, placement: Sequence[tuple[str, tuple[int, ...]]]) -> list[tuple[str, tuple[int, ...]]]:
    """Return the node and the GPUs of each process that is started for a placement, in order of rank.

    Raises:
        InputError: The job's launcher cannot be told how many processes to start. Or the job has ``rescale: none`` and
            is placed on several nodes.
    """
    if spec.rescale == "restart" and launcher_in(spec) is None:
        return [(node, (gpu,)) for node, gpus in placement for gpu in gpus]
    return list(placement)


def lay_out(
    spec: JobSpec,
    members: Sequence[tuple[str, str, tuple[int, ...]]],
    port: int,
    interpreter: str,
    address: str = "127.0.0.1",
) -> list[StartPlan]:
    """Return how each process of a job is started.

    Args:
        spec: The job's specification.
        members: Name, node and GPUs of each process, in order.
        port: Port on the first node, where the ranks connect to each other.
        interpreter: Path of the Python that is run if the job's command says ``python``.
        address: Address of the first node, where the ranks connect to each other.

    Raises:
        InputError: The job's launcher cannot start this many ranks on these nodes.
    """
    if not members:
        return []
    if spec.rescale == "none":
        return [StartPlan(name, gpus, {}) for name, _, gpus in members]
    slots: list[Place] = [(node, gpu) for _, node, gpus in members for gpu in gpus]
    batch = spec.batch
    shared = batch_environment(batch.global_batch, len(slots), batch.local_max) if batch else {}
    shared["MASTER_PORT"] = str(port)
    launcher = launcher_in(spec)
    by_node: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for name, node, gpus in members:
        by_node.setdefault(node, []).append((name, gpus))
    if launcher is not None:
        counts = [sum(len(gpus) for _, gpus in own) for own in by_node.values()]
        return [
            StartPlan(
                name,
                gpus,
                shared,
                launcher.command(node=number, gpus=counts, port=port, interpreter=interpreter, address=address),
            )
            for number, ((name, gpus),) in enumerate(by_node.values())
        ]
    plans, rank = [], count()
    for group, own in enumerate(by_node.values()):
        seen = tuple(gpu for _, gpus in own for gpu in gpus)
        for local, (name, _) in enumerate(own):
            told = {
                "RANK": next(rank),
                "LOCAL_RANK": local,
                "WORLD_SIZE": len(slots),
                "LOCAL_WORLD_SIZE": len(own),
                "GROUP_RANK": group,
                "GROUP_WORLD_SIZE": len(by_node),
            }
            plans.append(StartPlan(name, seen, {**shared, **{key: str(value) for key, value in told.items()}}))
    return plans
