"""The same script without PowerFlow: one rank, or the ranks that torchrun started; nothing changes while it runs."""

from __future__ import annotations

import os
import time

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from powerflow.elastic.state import Training


class Fixed:
    """Stands where a `powerflow.elastic.gang.Gang` would, and never changes."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.generation = 1
        self.rank, self.ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.parallel: DistributedDataParallel | None = None
        self.whole = True
        self.local_batch_max = 0
        self.nodes = 1
        self.step_ended_s = time.monotonic()

    def join(self) -> None:
        """Form the group that the environment describes."""
        self.training.joined = True
        if self.ranks > 1:
            if not dist.is_initialized():
                dist.init_process_group("cpu:gloo,cuda:nccl" if self.training.on_cuda() else "gloo")
            self.parallel = DistributedDataParallel(self.training.model, **self.training.options)
            self.training.in_parallel_trained = self.training.trained()

    def between_steps(self) -> bool:
        """Nothing is ever due."""
        return False

    def lose(self, note: str) -> None:
        """Nobody will form a new group."""
        raise RuntimeError(f"a peer was lost, and without PowerFlow there is no other: {note}")

    def stop(self) -> None:
        """Nobody waits for us."""

    def finish(self) -> None:
        """Wait for the slowest."""
        if self.ranks > 1:
            dist.barrier()
