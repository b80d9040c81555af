"""The training script of each system whose rescale pause is measured: one model, one data set, one log.

    python -m benchmarks.pause_ranks elastic|torchrun DIRECTORY

Each rank logs its steps in DIRECTORY (`benchmarks.pauses`). Scripts of systems that start all ranks anew keep a
checkpoint there at every step, so that they lose no step, as PowerFlow loses none. It is in the form that each system
asks for.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from benchmarks.pauses import GLOBAL_BATCH, StepLog, dataset, network

#: Checkpoint of a script that is started anew.
CHECKPOINT = "checkpoint.pt"


def train_elastic(directory: Path) -> None:
    """Train with `powerflow.elastic`, for ever."""
    from powerflow import elastic

    torch.set_num_threads(1)
    run, model = elastic.init(), network()
    optimizer = torch.optim.Adam(model.parameters())
    wrapped, log, data = run.wrap(model, optimizer), StepLog(directory), dataset()
    for _ in run.epochs(10**6):
        for x, y in run.batches(data, global_batch=GLOBAL_BATCH):
            run.backward(nn.functional.mse_loss(wrapped(x), y))
            optimizer.step()
            optimizer.zero_grad()
            log.step(run.generation)


class Restarted:
    """Model, optimiser and number of steps of a script that begins anew from its checkpoint, and keeps one."""

    def __init__(self) -> None:
        self.model = network()
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.step = 0

    def load(self, path: Path) -> None:
        """Go on from a checkpoint, if there is one."""
        if path.exists():
            state = torch.load(path)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    def save(self, path: Path) -> None:
        """Replace the checkpoint."""
        temporary = path.with_name(f"{path.name}.new")
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        torch.save(state, temporary)
        temporary.replace(path)

    def train(self, parallel: nn.Module, ranks: int, log: StepLog) -> Iterator[int]:
        """Yield after each step, for ever."""
        data = dataset()
        for epoch in itertools.count(self.step):
            sampler: DistributedSampler[tuple[Tensor, ...]] = DistributedSampler(data, seed=epoch)
            for x, y in DataLoader(data, GLOBAL_BATCH // ranks, sampler=sampler):
                nn.functional.mse_loss(parallel(x), y).backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                self.optimizer.zero_grad()
                self.step += 1
                log.step(ranks)
                yield self.step


def train_torchrun(directory: Path) -> None:
    """Train as torchrun wants it, for ever: rank 0 writes a checkpoint at every step."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    ranks, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    begun = Restarted()
    begun.load(directory / CHECKPOINT)
    parallel = nn.parallel.DistributedDataParallel(begun.model)
    for _ in begun.train(parallel, ranks, StepLog(directory)):
        if rank == 0:
            begun.save(directory / CHECKPOINT)


def train_ray(options: dict[str, Any]) -> None:
    """Train as Ray Train wants it, for ever: rank 0 reports a checkpoint at every step, which all ranks wait for.

    Args:
        options: ``directory``: folder of the log.
    """
    import ray.train

    torch.set_num_threads(1)
    context = ray.train.get_context()
    ranks, rank = context.get_world_size(), context.get_world_rank()
    begun = Restarted()
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            begun.load(Path(folder) / CHECKPOINT)
    parallel = nn.parallel.DistributedDataParallel(begun.model)
    for step in begun.train(parallel, ranks, StepLog(Path(options["directory"]))):
        with tempfile.TemporaryDirectory() as name:
            if rank == 0:
                begun.save(Path(name) / CHECKPOINT)
            kept = ray.train.Checkpoint.from_directory(name) if rank == 0 else None
            ray.train.report({"step": step}, checkpoint=kept)


def main() -> None:
    """Train as one rank."""
    kind, directory = sys.argv[1:]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    {"elastic": train_elastic, "torchrun": train_torchrun}[kind](Path(directory))


if __name__ == "__main__":
    main()
