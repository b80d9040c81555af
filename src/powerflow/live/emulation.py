"""Emulated GPUs under real ranks: what each rank is told, and who slows those that are told nothing.

Every class of jobs gets a ground truth of its own: its family's model with hidden variation. The scheduler never sees
it; it learns from what the ranks then do.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from powerflow.cost.catalogue import family_model
from powerflow.cost.model import JobModel
from powerflow.device.emulated import EmulatedGpu
from powerflow.device.pacer import emulate_rank
from powerflow.device.throttle import Throttle
from powerflow.device.truth import truth_of
from powerflow.engine.protocol import RankName, RankState, RankStatus
from powerflow.live.entry import Entry
from powerflow.live.learning import JobClass, class_of
from powerflow.live.spec import JobSpec


def ground_truth(kind: JobClass, gpu_type: str, seed: int) -> JobModel:
    """What jobs of a class really cost on an emulated GPU type: the same on every day with the same seed."""
    model = replace(family_model(kind.family, gpu_type), local_batch_max=kind.local_max)
    return truth_of(model, zlib.crc32(f"{kind.name}\0{gpu_type}\0{seed}".encode()))


class Emulation:
    """The emulated GPUs of one cluster.

    Args:
        directory: The device directory, where the GPUs' files are.
        gpus: All of them.
        seed: Of the ground truth.
        time_scale: Steps last so many times as long as the truth says; watts stay.
    """

    def __init__(self, directory: Path, gpus: Sequence[EmulatedGpu], *, seed: int = 0, time_scale: float = 1.0) -> None:
        self._directory = directory
        self._gpus = {(gpu.node, gpu.index): gpu for gpu in gpus}
        self._seed = seed
        self._time_scale = time_scale
        self._throttles: dict[str, Throttle] = {}
        (directory / "ranks").mkdir(parents=True, exist_ok=True)

    def environment(
        self, user: str, spec: JobSpec, node: str, numbers: Sequence[int], name: RankName
    ) -> Mapping[str, str]:
        """What a rank on these GPUs finds in its environment."""
        gpus = [self._gpus[node, number] for number in numbers]
        truth = ground_truth(class_of(spec, user), gpus[0].gpu_type, self._seed)
        path = self._directory / "ranks" / f"{name}.json"
        return emulate_rank(path, truth, gpus, time_scale=self._time_scale)

    def follow(self, ranks: Sequence[RankStatus], entries: Mapping[str, Entry]) -> None:
        """Slow the ranks of scripts that import nothing of ours, and let go of those that have ended."""
        running = {str(rank.name): rank for rank in ranks if rank.state is RankState.RUNNING and rank.pid}
        for name in self._throttles.keys() - running.keys():
            self._throttles.pop(name).close()
        for name, rank in running.items():
            entry = entries.get(rank.name.gang)
            if name not in self._throttles and entry is not None and entry.spec.rescale != "in-place":
                self._throttles[name] = self._throttle(rank, entry)

    def close(self) -> None:
        """Let go of everything: what is slowed runs at its own speed."""
        for throttle in self._throttles.values():
            throttle.close()
        self._throttles.clear()

    def _throttle(self, rank: RankStatus, entry: Entry) -> Throttle:
        everyone = [(node, number) for node, numbers in entry.placement for number in numbers]
        own = [place for place in everyone if place[0] == rank.node]
        if entry.spec.rescale == "restart":  # one rank a GPU, in the order of the placement
            own = [everyone[rank.name.number]] if rank.name.number < len(everyone) else own[:1]
        gpus = [self._gpus[place] for place in own]
        batch = -(-entry.kind.global_batch // max(1, len(everyone)))
        return Throttle(
            self._directory,
            rank.pid,
            gpus,
            ground_truth(entry.kind, gpus[0].gpu_type, self._seed),
            job_gpus=len(everyone),
            nodes=len(entry.placement),
            local_batch=min(batch, entry.kind.local_max),
            accumulation=-(-batch // entry.kind.local_max),
        )
