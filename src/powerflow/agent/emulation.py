"""Emulate the GPUs of one machine for its ranks: slow their steps down to the speed of a modelled GPU.

The controller puts the true cost model of a job into the environment of each of its ranks (`truth_variable`). The
machine writes it to a file for the rank, with the GPUs of the rank. A rank that uses `powerflow.elastic` reads this
file and slows itself down. All other scripts are slowed down from outside, by a `Throttle` for each job.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from powerflow.cost.model import JobModel
from powerflow.device.emulated.gpu import EmulatedGpu
from powerflow.device.emulated.pacer import emulate_rank
from powerflow.device.emulated.throttle import Throttle, continue_leftovers
from powerflow.device.emulated.true_cost import model_from, model_json
from powerflow.engine.protocol import RankState, RankStatus
from powerflow.osutil.files import read_json

#: Variable with the true costs of a rank, as JSON. Only the machine of the rank sees it; the rank does not.
TRUTH = "POWERFLOW_TRUTH"


def truth_variable(
    truth: JobModel, *, time_scale: float, throttle: bool, whole: bool, global_batch: int, local_max: int
) -> dict[str, str]:
    """Return the variable with which a controller tells a machine how to emulate a rank.

    Args:
        truth: True cost model of the job.
        time_scale: Factor on the true length of steps.
        throttle: True to slow the rank down from outside, because its script does not use `powerflow.elastic`.
        whole: True if this process is the whole job; otherwise it is one of ``WORLD_SIZE`` ranks with one GPU each.
        global_batch, local_max: Samples of a step of the whole job, and the most samples of one pass on one GPU.
    """
    outside = {"whole": whole, "global_batch": global_batch, "local_max": local_max} if throttle else None
    return {TRUTH: json.dumps({"model": model_json(truth), "time_scale": time_scale, "throttle": outside})}


class RankEmulation:
    """Emulate the GPUs of one machine. Only one thread may use it.

    Args:
        directory: The device directory, for the files of ranks and the notes of throttles.
        gpus: All GPUs of the machine.
    """

    def __init__(self, directory: Path, gpus: Sequence[EmulatedGpu]) -> None:
        self._directory = directory
        self._gpus = {gpu.uuid: gpu for gpu in gpus}
        self._throttles: dict[str, tuple[frozenset[str], Throttle | None]] = {}  # by job, and for which ranks
        (directory / "ranks").mkdir(parents=True, exist_ok=True)
        continue_leftovers(directory)

    def environment(
        self, rank: str, seen: Sequence[str], own: Sequence[str], env: Mapping[str, str]
    ) -> Mapping[str, str]:
        """Return the environment variables through which a rank finds its emulated GPUs.

        Args:
            rank: Name of the rank.
            seen, own: UUIDs of the GPUs that the rank may see, and of those that it computes on.
            env: Environment of the rank, as the controller has sent it.
        """
        if TRUTH not in env:
            return {}
        told = json.loads(env[TRUTH])
        throttle = told["throttle"]
        if throttle is not None:
            throttle = self._outside(throttle, own, env)
        truth = model_from(told["model"], rank)
        gpus = [self._gpus[uuid] for uuid in seen]
        return emulate_rank(self._path(rank), truth, gpus, time_scale=float(told["time_scale"]), throttle=throttle)

    def follow(self, ranks: Iterable[RankStatus]) -> None:
        """Slow down scripts that do not use `powerflow.elastic`; stop this for jobs whose ranks have ended or changed.

        Args:
            ranks: All ranks of the machine.
        """
        running: dict[str, list[RankStatus]] = {}
        for rank in ranks:
            if rank.state is RankState.RUNNING and rank.pid:
                running.setdefault(rank.name.gang, []).append(rank)
        wanted = {gang: frozenset(str(rank.name) for rank in of_gang) for gang, of_gang in running.items()}
        for gang in [gang for gang, (names, _) in self._throttles.items() if wanted.get(gang) != names]:
            if (throttle := self._throttles.pop(gang)[1]) is not None:
                throttle.close()
        for gang, of_gang in running.items():
            if gang not in self._throttles:
                self._throttles[gang] = wanted[gang], self._throttle(of_gang)

    def forget(self, rank: str) -> None:
        """Delete the file of a rank that has ended."""
        self._path(rank).unlink(missing_ok=True)

    def close(self) -> None:
        """Let all scripts run at their own speed again."""
        for _, throttle in self._throttles.values():
            if throttle is not None:
                throttle.close()
        self._throttles.clear()

    def _path(self, rank: str) -> Path:
        return self._directory / "ranks" / f"{rank}.json"

    def _outside(self, told: Mapping[str, Any], own: Sequence[str], env: Mapping[str, str]) -> Mapping[str, Any] | None:
        """Return what a throttle of this rank must know; None if a launcher starts the ranks, which then run freely."""
        if not told["whole"] and "WORLD_SIZE" not in env:
            return None
        total = len(own) if told["whole"] else int(env["WORLD_SIZE"])
        batch = -(-int(told["global_batch"]) // total)
        return {
            "gpus": list(own),
            "total_gpus": total,
            "nodes": 1 if told["whole"] else int(env["GROUP_WORLD_SIZE"]),
            "local_batch": min(batch, int(told["local_max"])),
            "accumulation": -(-batch // int(told["local_max"])),
        }

    def _throttle(self, ranks: Sequence[RankStatus]) -> Throttle | None:
        """Slow the ranks of one job on this machine; return None if they slow themselves down."""
        groups, found = {}, None
        for rank in sorted(ranks, key=lambda rank: (rank.name.epoch, rank.name.number)):
            content = read_json(self._path(str(rank.name)))
            if content is None or "throttle" not in content:
                return None
            found = content
            groups[rank.pid] = [self._gpus[uuid] for uuid in content["throttle"]["gpus"] if uuid in self._gpus]
        if found is None or not all(groups.values()):
            return None
        told = found["throttle"]
        return Throttle(
            self._directory,
            groups,
            model_from(found["model"], str(ranks[0].name)),
            nodes=told["nodes"],
            local_batch=told["local_batch"],
            accumulation=told["accumulation"],
            total_gpus=told["total_gpus"],
        )
