"""Lets a script call ``optimizer.step()`` after every backward, and has it happen once per step.

A step may take several passes, and a pass may have failed because a peer was lost: the script need not know. Calls
that would change what is trained pass only when the gate is open, and are nothing otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def gate(thing: Any, method: str, is_open: Callable[[], bool]) -> None:
    """Have calls of one object's method do nothing (and return None) while the gate is shut."""
    behind = getattr(thing, method)

    @functools.wraps(behind)
    def gated(*args: Any, **kwargs: Any) -> Any:
        return behind(*args, **kwargs) if is_open() else None

    if method in vars(thing):
        setattr(thing, method, gated)
    else:  # not on the object itself: LR schedulers keep all of their own attributes in their state
        kind = type(thing)
        thing.__class__ = type(kind.__name__, (kind,), {method: staticmethod(gated), "__module__": kind.__module__})


def gate_all(thing: Any, may_update: Callable[[], bool], may_clear: Callable[[], bool]) -> None:
    """Gate what changes the model, its optimiser, LR scheduler or gradient scaler; other things are left alone."""
    if isinstance(thing, Optimizer):
        gate(thing, "step", may_update)
        gate(thing, "zero_grad", may_clear)
    elif isinstance(thing, LRScheduler):
        gate(thing, "step", may_update)
    elif isinstance(thing, torch.amp.GradScaler):
        for method in ("unscale_", "step", "update"):
            gate(thing, method, may_update)
