"""Whose a process is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from powerflow.device.foreign import parent_of, strangers


@pytest.fixture
def grandchild() -> Iterator[tuple[int, int]]:
    """A process of ours and its child, which waits."""
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=sys.stdin)\n"
        "print(child.pid, flush=True)\nchild.wait()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.pid, int(process.stdout.readline())
    process.communicate("\n")


def test_descendants_of_ours_are_ours_and_others_are_named(grandchild: tuple[int, int]) -> None:
    child, below = grandchild
    assert parent_of(below) == child
    assert parent_of(child) == os.getpid()
    assert strangers([below, child], {child}) == ()
    assert strangers([below], {os.getpid()}) == ()
    (named,) = strangers([child], {below})
    assert f"(process {child} of " in named
    assert named.startswith("python")


def test_a_process_that_this_system_does_not_know_is_nobodys(grandchild: tuple[int, int]) -> None:
    assert strangers([2**22 + 1], set()) == ()
    assert parent_of(2**22 + 1) == 0
