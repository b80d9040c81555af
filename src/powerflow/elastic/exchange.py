"""Call the model so that ranks exchange gradients in the last backward of a step only."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from powerflow.elastic import group
from powerflow.elastic.gang import GangMember
from powerflow.elastic.static_gang import StaticGang
from powerflow.elastic.training.sampling import Pass


class Exchange:
    """Controls in which backward DDP exchanges gradients."""

    def __init__(self) -> None:
        self._armed = False

    def forward(
        self,
        gang: GangMember | StaticGang | None,
        one: Pass | None,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Return the model's output: through DDP inside a step, otherwise from the model itself."""
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
            return module(*args, **kwargs)  # the script continues to `backward`, which will do nothing
        self._armed = one.last
        return output

    def disarm(self) -> None:
        """Forget that a forward has prepared an exchange: the next backward does not belong to it."""
        self._armed = False

    def arm(self, gang: GangMember | StaticGang, loss: Tensor) -> None:
        """Make the next backward exchange gradients, even if no forward has prepared it.

        That happens if the script called the model and not the wrapped one, or at the second backward after a forward.
        DDP would then silently leave out the exchange.
        """
        parallel = gang.parallel
        if parallel is not None and not self._armed:
            parallel.reducer.prepare_for_backward([loss] if parallel.find_unused_parameters else [])
        self._armed = False
