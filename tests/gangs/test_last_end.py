"""When the last process of a job has ended, as far as anybody knows."""

from __future__ import annotations

from dataclasses import replace

from tests.gangs.acts import A0, start_script, turns
from tests.gangs.bench import Bench

WALL_S = 1.7e9


def ends(bench: Bench, ended_s: float, code: int | None = 0) -> None:
    """Let the only rank end, at a time that its machine says."""
    bench.engine.end(A0, code)
    bench.engine.statuses[A0] = replace(bench.engine.statuses[A0], ended_s=ended_s)


def test_it_is_what_the_machine_says(bench: Bench) -> None:
    start_script(bench, "a0")
    turns(bench, 4)
    assert bench.gangs.last_end_s("j") is None, "it runs"
    ended_s = WALL_S + bench.engine.now_s + 7.0
    ends(bench, ended_s)
    turns(bench, 40)
    assert bench.gangs.last_end_s("j") == ended_s


def test_it_is_not_before_the_rank_was_seen_to_run(bench: Bench) -> None:
    """The machine's clock is five minutes late."""
    start_script(bench, "a0")
    turns(bench, 4)
    seen_s = WALL_S + bench.engine.now_s
    ends(bench, seen_s - 300.0)
    turns(bench, 1)
    assert bench.gangs.last_end_s("j") == seen_s


def test_it_is_not_known_of_a_rank_that_was_lost(bench: Bench) -> None:
    start_script(bench, "a0")
    turns(bench, 4)
    ends(bench, WALL_S + bench.engine.now_s, None)
    turns(bench, 1)
    assert bench.gangs.last_end_s("j") is None
    assert bench.gangs.last_end_s("another") is None
