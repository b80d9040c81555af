"""Compiled functions that are called so often that the call itself counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., object])


def kernel(function: Function) -> Function:
    """Compile a function that creates no array: what it has to say goes into arrays that it is given.

    So numba need not count references to its arguments. For every array that costs more than to pass it, and in
    functions that pass many arrays on to others, nine tenths of their time. Division by zero is as numpy's.
    """
    compiled: Function = njit(cache=True, _nrt=False, error_model="numpy")(function)  # type: ignore[call-overload]
    return compiled
