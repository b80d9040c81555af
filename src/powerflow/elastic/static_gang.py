"""Replace the gang if PowerFlow did not start the script. The ranks (one, or those of torchrun) never change."""

from __future__ import annotations

import atexit
import os
import time
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from powerflow.elastic import group
from powerflow.elastic.checksum import RankComparison
from powerflow.elastic.state import Training
from powerflow.elastic.training import streams


def open_group() -> None:
    """Form the process group of the ranks that torchrun started, or of this rank alone.

    So collectives that the script calls itself work from its start to its end. If the script has opened a group before,
    it is used.
    """
    if dist.is_initialized():
        return
    environment = os.environ.get
    cuda = torch.cuda.is_available() and dist.is_nccl_available()
    if int(environment("WORLD_SIZE", "1")) == 1:
        group.stand_alone(cuda=cuda)
        atexit.register(group.close)  # otherwise NCCL warns of a group that was not destroyed
        return
    gpu_each = cuda and int(environment("LOCAL_WORLD_SIZE", "1")) <= torch.cuda.device_count()
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu_each else "gloo")


class StaticGang:
    """Replaces `powerflow.elastic.gang.GangMember` in a script that PowerFlow did not start."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.generation = 1
        self.rank, self.ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.parallel: DistributedDataParallel | None = None
        self.whole = True
        self.local_batch_max = 0
        self.nodes = 1
        self.step_ended_s = time.monotonic()
        self.exchanged = -1
        self._comparison = RankComparison(training)

    def join(self) -> None:
        """Let the ranks that torchrun started begin with equal random numbers and parameters."""
        self.training.joined = True
        if self.ranks > 1:
            self.parallel = DistributedDataParallel(self.training.model, **self.training.options)
            self.training.in_parallel_trained = self.training.trained()
            drawn: list[Any] = [streams.bases()]
            dist.broadcast_object_list(drawn, src=0)
            self.training.streams = drawn[0]
            self._comparison.compare(self.rank, self.ranks, formed=True)
        self.training.draw_own_numbers(self.rank)

    def between_steps(self) -> bool:
        """Compare the parameters of all ranks if a comparison is due. Return False: the ranks never change."""
        if self.ranks > 1 and self.training.position.step >= self._comparison.due:
            self._comparison.compare(self.rank, self.ranks)
        return False

    def lose(self, note: str) -> None:
        """Raise an error, because a rank was lost and no new group can be formed."""
        raise RuntimeError(f"another rank was lost, and only PowerFlow could replace it: {note}")

    def stop(self) -> None:
        """Do nothing, because no other rank waits for this rank."""

    def finish(self) -> None:
        """Compare the parameters of all ranks a last time, and wait until all ranks have finished training."""
        if self.ranks > 1:
            if self._comparison.has_news:
                self._comparison.compare(self.rank, self.ranks)
            dist.barrier()
