"""Calls that do not return hold up nobody for longer than their deadline, and nobody else at all."""

from __future__ import annotations

import threading
import time

import pytest

from powerflow.device.deadline import NotAnswering, OwnThread, thread_of
from powerflow.device.protocol import DeviceLost

SOON_S = 0.05


def test_an_answer_and_an_error_come_back_as_they_are() -> None:
    own = OwnThread("GPU 0")
    assert own.call(lambda: 7, 5.0) == 7

    def lost() -> None:
        raise DeviceLost("gone")

    with pytest.raises(DeviceLost, match="gone"):
        own.call(lost, 5.0)
    assert own.call(threading.current_thread, 5.0) is not threading.current_thread()


def test_a_call_that_is_stuck_is_given_up_and_the_next_ones_fail_at_once_until_it_returns() -> None:
    own, gate, done = OwnThread("GPU 3 of n0"), threading.Event(), []
    with pytest.raises(NotAnswering, match="GPU 3 of n0: its driver does not answer"):
        own.call(gate.wait, SOON_S)
    began_s = time.monotonic()
    for _ in range(100):
        with pytest.raises(NotAnswering):
            own.call(lambda: done.append(1), SOON_S)
    assert time.monotonic() - began_s < 100 * SOON_S  # they did not wait one after the other
    gate.set()
    deadline_s = time.monotonic() + 30.0
    while True:
        try:
            assert own.call(lambda: "again", 5.0) == "again"
            break
        except NotAnswering:
            assert time.monotonic() < deadline_s
    assert done == []  # what was refused is not done later


def test_several_are_begun_before_the_first_is_waited_for() -> None:
    gates = [threading.Event() for _ in range(5)]
    owns = [OwnThread(f"GPU {i}") for i in range(5)]
    began_s = time.monotonic()
    calls = [own.begin(gate.wait, 1.0) for own, gate in zip(owns, gates, strict=True)]
    for own, call in zip(owns, calls, strict=True):
        with pytest.raises(NotAnswering):
            own.end(call, 1.0)
    assert time.monotonic() - began_s < 4.0  # one after the other it would be five
    for gate in gates:
        gate.set()


def test_a_device_has_one_thread_however_often_it_is_opened() -> None:
    assert thread_of("GPU-x of a test", "a") is thread_of("GPU-x of a test", "b")
