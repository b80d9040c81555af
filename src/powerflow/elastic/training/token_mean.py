"""Weight a loss that is a mean over something other than samples: tokens without padding, pixels, boxes.

Pass p of rank r has a mean loss l_rp over w_rp tokens. A step must use the gradient of the mean L over all W tokens of
the step, whatever the number R of ranks and the number of passes::

    L = Σ_r Σ_p w_rp · l_rp / W      W = Σ_r Σ_p w_rp

DDP averages over ranks, so the factor on the loss of each pass is R · w_rp / W. W is known only in the last pass, in
which the ranks add up their w_rp. Until then, a guess G takes the place of W. Before the last backward, the
gradients of earlier passes are multiplied by G / W, which corrects the guess. So the guess only affects the dynamic
range of 16-bit gradients.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from powerflow.elastic.training.passes import Passes
from powerflow.errors import InputError


class TokenMean:
    """The weights (numbers of tokens) of the passes of one step, on this rank."""

    def __init__(self) -> None:
        self._weighted: bool | None = None
        self._sum: Tensor | None = None
        self._guess: Tensor | None = None

    def begin_step(self) -> None:
        """Discard the token counts that weighted the passes of the last step."""
        self._weighted = self._sum = self._guess = None

    def scale(self, loss: Tensor, weight: float | Tensor | None, passes: Passes, ranks: int) -> Tensor | None:
        """Return the loss of a pass, multiplied by its factor in the mean of the step.

        In the last pass, all ranks add up their weights here.

        Args:
            loss: Mean loss over ``weight`` tokens, one number.
            weight: Number of tokens; None if the loss is a mean over the samples of the pass.
            passes: The passes of this step.
            ranks: Number of ranks.

        Returns:
            The scaled loss; None if the weight is 0, because a mean over nothing may be NaN.

        Raises:
            InputError: A weight is not a number ≥ 0, or only some backwards of the step have a weight.
            RuntimeError: A rank was lost (`powerflow.elastic.group.lost_peer`).
        """
        one = passes.one
        assert one is not None
        weighted = weight is not None
        mixed = self._weighted not in (None, weighted)
        self._weighted = weighted
        if passes.count > 1 and (mixed or (weighted and passes.backwards)):
            raise InputError(
                "in a step of several passes, a weight is allowed only if each pass has one backward, with a weight",
                where="run.backward",
                fix="add up the losses, and give a weight in every pass",
            )
        if weight is None:
            return loss if one.weight == 1.0 else loss * one.weight
        own = _number(weight)
        if not one.weight:
            own = own * 0.0  # this pass repeats samples of other passes
        self._sum = own if self._sum is None or passes.count == 1 else self._sum + own
        if not one.last:
            if self._guess is None:
                self._guess = torch.clamp(own * passes.count, min=1.0) * ranks
            return _times(loss, own, ranks / self._guess)
        whole = self._sum.clone()
        if ranks > 1:
            dist.all_reduce(whole)
        if self._guess is not None:
            passes.rescale(torch.where(whole > 0, self._guess / whole, 0.0))
        return _times(loss, own, torch.where(whole > 0, ranks / whole, 0.0))


def _times(loss: Tensor, weight: Tensor, factor: Tensor) -> Tensor | None:
    if weight.device.type == "cpu":
        return loss * (weight * factor).to(loss) if weight > 0 else None
    counted = torch.where(weight.to(loss.device) > 0, loss, torch.zeros_like(loss))
    return counted * (weight * factor).to(loss)


def _number(weight: float | Tensor) -> Tensor:
    if isinstance(weight, Tensor):
        if weight.numel() != 1:
            raise InputError(f"a weight has {weight.numel()} elements", where="run.backward", fix="give their sum")
        if weight.device.type != "cpu":  # not checked, because that would wait for the device
            return weight.detach().reshape(()).to(torch.float32 if weight.device.type == "mps" else torch.float64)
        weight = float(weight)
    if not math.isfinite(weight) or weight < 0:
        raise InputError(
            f"a weight is {weight}", where="run.backward", fix="give the number of tokens of the mean, ≥ 0"
        )
    return torch.tensor(float(weight), dtype=torch.float64)
