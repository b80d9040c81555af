"""Ctrl-C waits for jobs between two placements; a second one does not."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Sequence
from typing import Any, cast

import pytest

from powerflow.cli.ending import Ending
from powerflow.cli.running import settle


class Moving:
    """A controller with two jobs between two placements, for as long as nobody is in a hurry."""

    def __init__(self, *, second: bool) -> None:
        self._second = second

    def settle(self, most_s: float, hurry: threading.Event) -> Sequence[str]:
        if most_s and self._second:
            os.kill(os.getpid(), signal.SIGINT)
            assert hurry.wait(30)
        return [] if most_s and not self._second else ["3", "4"]


def said(capsys: pytest.CaptureFixture[str], controller: Any) -> list[str]:
    before = signal.getsignal(signal.SIGINT)
    watch = Ending(1e6, lambda code: None, io.StringIO())
    settle(cast(Any, controller), watch)
    watch.done()
    assert signal.getsignal(signal.SIGINT) is before
    return capsys.readouterr().err.splitlines()


def test_it_says_what_it_waits_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, Moving(second=False)) == [
        "powerflow: brings jobs 3 and 4 to new GPUs first; Ctrl-C ends at once"
    ]


def test_a_second_ctrl_c_ends_at_once_and_says_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, Moving(second=True))[1:] == [
        "powerflow: jobs 3 and 4 stay between two placements: the next controller goes on with this"
    ]


def test_nothing_is_said_if_there_is_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    class Still:
        def settle(self, most_s: float, hurry: threading.Event) -> Sequence[str]:
            assert most_s == 0.0
            return []

    assert said(capsys, Still()) == []
