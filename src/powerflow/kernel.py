"""Compiled functions that are called so often that the call itself counts.

numba is loaded at the first call: it takes more memory than all else in a controller, and one that has nothing to
decide needs none of it.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

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


class _Later:
    """A kernel until the first call of any: then each module gets what numba made of those that it knows.

    So later calls go to numba directly, and numba finds its own where a kernel calls others.
    """

    #: One for all: no other thread may see some kernels made and others not.
    _lock = threading.RLock()

    def __init__(self, function: Callable[..., object], **options: Any) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._options = options

    def __call__(self, *arguments: object) -> object:
        with self._lock:
            if "made" not in self.__dict__:
                _replace_all()
            made = self.made
        return made(*arguments)

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
