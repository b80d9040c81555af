"""Calls the model so that its gradients are exchanged in the last backward of a step, and only there."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from powerflow.elastic import group
from powerflow.elastic.gang import GangMember
from powerflow.elastic.static_gang import Fixed
from powerflow.elastic.training.sampling import Pass


class Exchange:
    """Remembers whether DDP is set to exchange the gradients of the next backward."""

    def __init__(self) -> None:
        self._armed = False

    def forward(
        self,
        gang: GangMember | Fixed | None,
        one: Pass | None,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Return the model's output: by way of DDP where gradients will be exchanged, else from the model alone."""
        if one is None or gang is None or gang.parallel is None or not torch.is_grad_enabled():
            return module(*args, **kwargs)
        output = None

        def call(parallel: nn.parallel.DistributedDataParallel) -> None:
            nonlocal output
            with contextlib.nullcontext() if one.last else parallel.no_sync():
                output = parallel(*args, **kwargs)

        parallel = gang.parallel
        if lost := group.lost_in(lambda: call(parallel)):
            gang.lose(lost)
            return module(*args, **kwargs)  # so that the script can go on to `backward`, which will do nothing
        self._armed = one.last
        return output

    def disarm(self) -> None:
        """Note that the next backward does not belong to the forward that prepared an exchange."""
        self._armed = False

    def arm(self, gang: GangMember | Fixed, loss: Tensor) -> None:
        """Let the next backward exchange gradients, even if no forward has prepared it.

        The script may have called the model by another way than the wrapped one, or this is the second backward since
        the last forward. DDP would leave out the exchange then, without a word.
        """
        parallel = gang.parallel
        if parallel is not None and not self._armed:
            parallel.reducer.prepare_for_backward([loss] if parallel.find_unused_parameters else [])
        self._armed = False
