"""Lets a script call ``optimizer.step()`` after every backward, and has it happen once per step.

A step may take several passes, and a pass may have failed because a peer was lost: the script need not know. Calls
that would change what is trained pass only when the gate is open, and are nothing otherwise.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

#: Takes a call that comes too early, to make it when it is due; False if it may be made now.
Defer = Callable[[Callable[[], object]], bool]


def gate(thing: Any, method: str, is_open: Callable[[], bool], defer: Defer = lambda _: False) -> None:
    """Have calls of one object's method do nothing (and return None) while the gate is shut, or they are deferred.

    A copy of the object, pickled or deep, is one without gates.
    """
    behind = getattr(thing, method)

    @functools.wraps(behind)
    def gated(_self: Any, *args: Any, **kwargs: Any) -> Any:
        if defer(lambda: behind(*args, **kwargs)):
            return None
        return behind(*args, **kwargs) if is_open() else None

    if method in getattr(thing, "__dict__", ()):
        setattr(thing, method, types.MethodType(gated, thing))  # bound: LR schedulers look for the function in it
        return
    # Not on the object itself: LR schedulers keep all of their own attributes in their state.
    kind: Any = type(thing)

    def reduce(self: Any, protocol: Any) -> Any:
        parts: tuple[Any, ...] = kind.__reduce_ex__(self, protocol)
        make, arguments, *rest = parts
        if getattr(make, "__name__", "") == "__newobj__":  # pickle would insist on the class that it finds
            make = kind.__new__
        return make, tuple(kind if argument is type(self) else argument for argument in arguments), *rest

    body = {method: gated, "__reduce_ex__": reduce, "__slots__": ()}
    body |= {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    thing.__class__ = type(kind)(kind.__name__, (kind,), body)


def gate_all(thing: Any, may_update: Callable[[], bool], may_follow: Callable[[], bool], defer: Defer) -> None:
    """Gate what an optimiser, LR scheduler, gradient scaler or average has, by the names of its methods.

    By name, because scripts bring their own: an optimiser that wraps another one knows nothing of torch's classes.

    Args:
        thing: What was registered.
        may_update: Asked by what uses gradients.
        may_follow: Asked by what does not.
        defer: Asked by schedules: a script may call them before its backward, which may have to be done again.
    """
    if isinstance(thing, torch.amp.GradScaler):
        for method in ("unscale_", "step", "update"):
            gate(thing, method, may_update)
        return
    if callable(getattr(thing, "step", None)):
        if _is_schedule(thing):
            gate(thing, "step", may_follow, defer)
        else:
            gate(thing, "step", may_update)
    if callable(getattr(thing, "update_parameters", None)):
        gate(thing, "update_parameters", may_follow)


def _is_schedule(thing: Any) -> bool:
    return isinstance(thing, LRScheduler) or hasattr(thing, "get_last_lr")
