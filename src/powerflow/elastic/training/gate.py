"""Let a script call ``optimizer.step()`` after each backward, although the call takes effect only once per step.

A step may have several passes, and a pass may fail because another rank is lost. Scripts need not know this. Each
method that changes what is trained gets a gate: a call takes effect only when the gate is open.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

#: Stores a call that comes too early, to make it later; returns False if it can be made now.
Defer = Callable[[Callable[[], object]], bool]


def gate(thing: Any, method: str, is_open: Callable[[], bool], defer: Defer = lambda _: False) -> None:
    """Give a gate to one method of an object.

    While the gate is closed, a call of the method does nothing and returns None.

    Copies of the object (pickled or deep) have no gate.

    Args:
        thing: The object.
        method: Name of the method.
        is_open: Function that returns True while the gate is open.
        defer: Function that may store a call that comes too early, to make it later. It returns True if it has stored
            the call.
    """
    behind = getattr(thing, method)

    @functools.wraps(behind)
    def gated(_self: Any, *args: Any, **kwargs: Any) -> Any:
        if defer(lambda: behind(*args, **kwargs)):
            return None
        return behind(*args, **kwargs) if is_open() else None

    if method in getattr(thing, "__dict__", ()):
        setattr(
            thing, method, types.MethodType(gated, thing)
        )  # a bound method, because LR schedulers read its function
        return
    # in a class of its own, not on the object: LR schedulers save all their own attributes in their state
    kind: Any = type(thing)

    def reduce(self: Any, protocol: Any) -> Any:
        parts: tuple[Any, ...] = kind.__reduce_ex__(self, protocol)
        make, arguments, *rest = parts
        if getattr(make, "__name__", "") == "__newobj__":  # pickle checks that the class can be found by name
            make = kind.__new__
        return make, tuple(kind if argument is type(self) else argument for argument in arguments), *rest

    namespace = {method: gated, "__reduce_ex__": reduce, "__slots__": ()}
    namespace |= {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    thing.__class__ = type(kind)(kind.__name__, (kind,), namespace)


def gate_all(thing: Any, may_update: Callable[[], bool], may_follow: Callable[[], bool], defer: Defer) -> None:
    """Give gates to the methods of an optimiser, LR scheduler, gradient scaler or average.

    Methods are found by name, because an optimiser that a script brings may not have a class of torch.

    Args:
        thing: The object, which was given to ``run.wrap``.
        may_update: Returns True while the gate is open for methods that use gradients.
        may_follow: Returns True while the gate is open for the other methods.
        defer: Stores calls of LR schedulers for later. A script may call a scheduler before its backward, and this
            backward may have to be repeated.
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
