"""Call the model so that ranks exchange gradients only in the last backward of a step."""

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
    """Decides in which backward of a step DDP exchanges the gradients between ranks."""

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
        """Return the model's output.

        Inside a step with gradients the call goes through DDP, otherwise directly to the model.
        """
        if one is None or gang is None or gang.parallel is None or not torch.is_grad_enabled():
            return module(*args, **kwargs)
        output = None

        def call(parallel: nn.parallel.DistributedDataParallel) -> None:
            nonlocal output
            with contextlib.nullcontext() if one.last else parallel.no_sync():
                output = parallel(*args, **kwargs)

        parallel = gang.parallel
        if lost := group.lost_before(lambda: call(parallel)):
            gang.lose(lost)
            return module(*args, **kwargs)  # the script continues to `backward`, which will do nothing
        self._armed = one.last
        return output

    def disarm(self) -> None:
        """Forget that a forward has prepared an exchange of gradients.

        Call this if the next backward does not belong to that forward.
        """
        self._armed = False

    def arm(self, gang: GangMember | StaticGang, loss: Tensor) -> None:
        """Make the next backward exchange gradients, even if no forward has prepared the exchange.

        This is needed if the script called the model itself instead of the wrapped model, and for the second backward
        after one forward. There DDP would skip the exchange without an error.
        """
        parallel = gang.parallel
        if parallel is not None and not self._armed:
            parallel.reducer.prepare_for_backward([loss] if parallel.find_unused_parameters else [])
        self._armed = False
