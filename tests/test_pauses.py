"""The measure of a rescale pause, on logs worked out by hand."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from benchmarks.pauses import Step, StepLog, p95, pauses, read_steps, rising


def steps(rank: str, gang: int, begin_s: float, step_s: float, count: int, cpu_s: float = 0.0) -> list[Step]:
    """Lines of a rank; each step takes half its time of CPU, and ``cpu_s`` was spent before the first."""
    return [Step(begin_s + k * step_s, gang, f"steps-{rank}", cpu_s + k * step_s / 2) for k in range(count)]


def test_a_pause_is_the_gap_less_a_step_of_a_rank() -> None:
    """Two ranks end steps of 1 s a tenth apart, and one of them joins a third after 6.9 s."""
    old = [*steps("h1-1", 1, 0.0, 1.0, 5), *steps("h1-2", 1, 0.1, 1.0, 5)]  # the last ends at 4.1 s
    new = [*steps("h1-1", 2, 11.0, 2.0, 4, cpu_s=4.0), *steps("h2-1", 2, 11.3, 2.0, 4)]  # the first ends at 11 s
    (pause,) = pauses(sorted([*old, *new]))
    assert pause.pause_s == pytest.approx(11.0 - 4.1 - 2.0)
    assert (pause.before, pause.after, pause.stayed, pause.hosts) == (2, 2, 1, 2)
    assert pause.cpu_s == pytest.approx(4.0 - 2.0 - 1.0)  # from 2 s at its last step; a new step takes 1 s


def test_each_change_is_a_pause_and_numbers_may_come_again() -> None:
    lines = [*steps("h-1", 1, 0.0, 1.0, 3), *steps("h-2", 2, 10.0, 1.0, 3), *steps("h-3", 1, 30.0, 1.0, 3)]
    assert [pause.pause_s for pause in pauses(lines)] == [pytest.approx(7.0), pytest.approx(17.0)]
    assert pauses(steps("h-1", 1, 0.0, 1.0, 3)) == []


def test_what_a_rank_that_leaves_says_late_is_left_out() -> None:
    lines = sorted([*steps("h-1", 1, 0.0, 1.0, 3), *steps("h-1", 2, 5.0, 1.0, 3), *steps("h-2", 1, 5.5, 1.0, 1)])
    assert [step.gang for step in rising(lines)] == [1, 1, 1, 2, 2, 2]
    assert len(pauses(rising(lines))) == 1


def test_a_log_is_read_as_it_was_written(tmp_path: Path) -> None:
    log = StepLog(tmp_path)
    for gang in (1, 1, 2):
        log.step(gang)
    log.close()
    found = read_steps(tmp_path)
    assert [step.gang for step in found] == [1, 1, 2]
    assert {step.host for step in found} == {os.uname().nodename.replace("-", "_")}
    assert all(a.when_s <= b.when_s and a.cpu_s <= b.cpu_s for a, b in itertools.pairwise(found))


def test_the_95th_percentile() -> None:
    assert p95(range(1, 102)) == 96
    assert p95([3.0]) == 3.0
