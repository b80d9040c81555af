"""Compiled functions that are called so often that the call itself counts.

numba is loaded at the first call: it takes more memory than all else in a controller, and one that has nothing to
decide needs none of it. One that has little to decide needs none either: after `be_patient` kernels are the Python that
they are written in, until that has taken long, or until there is much to go through.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from powerflow.units import HOUR_S

#: Arrays of so many rows Python goes through in no time.
FEW = 64

Function = TypeVar("Function", bound=Callable[..., object])


def kernel(function: Function) -> Function:
    """Compile a function that creates no array: what it has to say goes into arrays that it is given.

    So numba need not count references to its arguments. For every array that costs more than to pass it, and in
    functions that pass many arrays on to others, nine tenths of their time. Division by zero is as numpy's.
    """
    return cast(Function, _Later(function, _nrt=False, error_model="numpy"))


def array_kernel(function: Function) -> Function:
    """Compile a function that may create arrays. Division by zero is as Python's."""
    return cast(Function, _Later(function))


def inlined(function: Function) -> Function:
    """Compile a function into each one that calls it."""
    return cast(Function, _Later(function, inline="always"))


def be_patient(seconds: float) -> None:
    """Let kernels be plain Python until they have taken so long within an hour, or are given many rows.

    They say the same, bit by bit; the whole test-suite of the decision core passes with either.
    """
    _Later.patience_s = seconds


class _Later:
    """A kernel until the first call of any: then each module gets what numba made of those that it knows.

    So later calls go to numba directly, and numba finds its own where a kernel calls others.
    """

    #: One for all: no other thread may see some kernels made and others not.
    _lock = threading.RLock()
    #: So long in an hour kernels may be plain Python, so long they have been, and since when that is counted.
    patience_s = 0.0
    spent_s = 0.0
    since_s = 0.0
    _depth = 0

    def __init__(self, function: Callable[..., object], **options: Any) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._options = options

    def __call__(self, *arguments: object) -> object:
        with self._lock:
            if "made" not in self.__dict__:
                if _Later._depth or self._is_little(arguments):
                    return self._plainly(arguments)
                _replace_all()
            made = self.made
        return made(*arguments)

    @staticmethod
    def _is_little(arguments: Sequence[object]) -> bool:
        """Whether there is patience left, and no more to go through than Python does in no time.

        What a kernel goes through, mostly jobs, comes first; tables may be longer.
        """
        if time.perf_counter() - _Later.since_s > HOUR_S:
            _Later.spent_s, _Later.since_s = 0.0, time.perf_counter()
        if _Later.spent_s >= _Later.patience_s:
            return False
        rows = (len(each) for each in arguments if isinstance(each, np.ndarray) and each.ndim)
        return next(rows, 0) <= FEW

    def _plainly(self, arguments: Sequence[object]) -> object:
        """As Python, with the kernels that it calls; integers wrap and nothing is said of divisions by zero."""
        begun_s = time.perf_counter()
        _Later._depth += 1
        try:
            with np.errstate(all="ignore"):
                return self._function(*arguments)
        finally:
            _Later._depth -= 1
            if not _Later._depth:
                _Later.spent_s += time.perf_counter() - begun_s

    @functools.cached_property
    def made(self) -> Callable[..., object]:
        """What numba makes of it; it compiles when it is called."""
        from numba import njit

        return cast(Callable[..., object], njit(cache=True, **self._options)(self._function))


def _replace_all() -> None:
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})
        for name, known in list(names.items()):
            if type(known) is _Later:
                names[name] = known.made
