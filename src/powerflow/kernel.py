"""Compile frequently called functions with numba, but only if this saves time.

Such functions are called kernels. numba needs more memory than the rest of a controller, so it is loaded at the first
call that needs a compiled kernel. A controller with few decisions never needs numba. After a call of
`be_patient(seconds)`, kernels first run as plain Python, until they have used that much time in an hour or their input
is large.
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

#: Plain Python is fast enough for arrays of at most this many rows.
FEW = 64

Function = TypeVar("Function", bound=Callable[..., object])


def kernel(function: Function) -> Function:
    """Compile a function that creates no arrays and writes its results into arrays that it gets as arguments.

    Such a function is faster, because numba does not count references to its arguments. Counting can take up to nine
    tenths of the time of functions that pass many arrays on. Division by zero behaves as in numpy.
    """
    return cast(Function, _Later(function, _nrt=False, error_model="numpy"))


def array_kernel(function: Function) -> Function:
    """Compile a function that may create arrays. Division by zero raises an exception, as in Python."""
    return cast(Function, _Later(function))


def inlined(function: Function) -> Function:
    """Compile a function by copying its code into every kernel that calls the function."""
    return cast(Function, _Later(function, inline="always"))


def be_patient(seconds: float) -> None:
    """Run kernels as plain Python at first, and compile them when they have used more than ``seconds`` in an hour.

    A kernel whose arrays have many rows is compiled at once. Compiled and plain kernels give exactly the same results.
    """
    _Later.patience_s = seconds


def is_compiled() -> bool:
    """Return True if kernels are compiled from now on, and not plain Python any more."""
    return "numba" in sys.modules


class _Later:
    """Kernel that is compiled when a compiled version is needed for the first time.

    At this moment all kernels in all modules are replaced by their numba functions. Later calls then go to numba
    directly, and a compiled kernel finds the other kernels that it calls.
    """

    #: Shared by all kernels, so that no thread sees only some of them replaced.
    _lock = threading.RLock()
    #: Seconds of plain Python allowed per hour, seconds used, and the time when this hour began.
    patience_s = 0.0
    spent_s = 0.0
    since_s = 0.0
    #: True while a kernel runs as plain Python.
    _running = False

    def __init__(self, function: Callable[..., object], **options: Any) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._options = options

    def __call__(self, *arguments: object) -> object:
        with self._lock:
            if "made" not in self.__dict__:
                if _Later._running:  # called by a plain kernel, which ignores warnings and measures the time
                    return self._function(*arguments)
                if self._is_little(arguments):
                    return self._plainly(arguments)
                _replace_all()
            made = self.made
        return made(*arguments)

    @staticmethod
    def _is_little(arguments: Sequence[object]) -> bool:
        """Return True if kernels may still run as plain Python for some time and the input is small.

        The first array argument decides. It usually has one row per job; later arguments may be longer tables.
        """
        if time.perf_counter() - _Later.since_s > HOUR_S:
            _Later.spent_s, _Later.since_s = 0.0, time.perf_counter()
        if _Later.spent_s >= _Later.patience_s:
            return False
        rows = (len(each) for each in arguments if isinstance(each, np.ndarray) and each.ndim)
        return next(rows, 0) <= FEW

    def _plainly(self, arguments: Sequence[object]) -> object:
        """Run this kernel, and the kernels that it calls, as plain Python and without numpy warnings."""
        begun_s = time.perf_counter()
        _Later._running = True
        try:
            with np.errstate(all="ignore"):
                return self._function(*arguments)
        finally:
            _Later._running = False
            _Later.spent_s += time.perf_counter() - begun_s

    @functools.cached_property
    def made(self) -> Callable[..., object]:
        """Return the numba function for this kernel. numba compiles it when it is first called."""
        from numba import njit

        return cast(Callable[..., object], njit(cache=True, **self._options)(self._function))


def _replace_all() -> None:
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})
        for name, known in list(names.items()):
            if type(known) is _Later:
                names[name] = known.made
