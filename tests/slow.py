"""Tests that take long, and whose like also runs every time."""

import os

import pytest

#: True if all tests run, with all of their cases.
ALL = bool(os.environ.get("POWERFLOW_TEST_ALL"))
#: Mark of such a test, or of one of its cases.
slow = pytest.mark.skipif(not ALL, reason="takes long, and others like it run; POWERFLOW_TEST_ALL=1 runs it")


def examples(count: int) -> int:
    """Return how many examples of a property are tried: so many if all tests run, two in five otherwise."""
    return count if ALL else 2 * count // 5
