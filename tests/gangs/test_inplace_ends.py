"""In-place gangs whose script never joins, or ends early."""

from __future__ import annotations

import signal

import pytest

from powerflow.elastic.mailbox import Phase
from powerflow.engine.protocol import RankName
from powerflow.gangs.types import (
    GangCompleted,
    GangFailed,
    Progressed,
    RankLost,
    Started,
    Vacated,
)
from tests.gangs.bench import Bench, order
from tests.gangs.fake_engine import Script
from tests.gangs.fake_rank import Habits
from tests.gangs.inplace import start, step


def test_a_script_that_never_joins_runs_once(bench: Bench) -> None:
    """It may still be importing, so it is asked for more GPUs' sake again and again; but nobody runs it again."""
    bench.engine.play = lambda spec: Script(20)
    bench.gangs.apply([order(1, "a0")])
    bench.turn()
    bench.gangs.apply([order(2, "a0", "a1")])
    for _ in range(5):
        bench.turn()
    bench.restart(order(3, "b0"))
    ended = bench.hear(GangCompleted)
    assert bench.engine.launches == [RankName("j", 1, 0)]
    assert ended.steps is None
    assert (
        ended.note
        == "its script does not use powerflow.elastic; use it (`powerflow elastic check` names the lines to change), or"
        " give rescale: restart or none"
    )
    bench.restart(order(3, "b0"))
    assert bench.turn() == [ended]


def test_a_script_that_never_joins_and_ran_on_several_gpus_has_failed(bench: Bench) -> None:
    bench.engine.play = lambda spec: Script(20 + 5 * spec.name.number)
    bench.gangs.apply([order(1, "a0", "a1")])
    failed = bench.hear(GangFailed)
    assert "its script does not use powerflow.elastic" in failed.text
    assert failed.final  # again it would do the same
    assert len(bench.engine.launches) == 2
    assert not bench.told(GangCompleted)


def test_a_script_that_never_joins_can_be_made_to_leave(bench: Bench) -> None:
    bench.engine.play = lambda spec: Script(1000)
    bench.gangs.apply([order(1, "a0", "a1")])
    bench.turn()
    bench.gangs.apply([order(2, "a1")])
    bench.until(lambda: bench.engine.placed("j") == {("a", 1)})
    bench.gangs.apply([order(3)])
    bench.hear(Vacated)
    assert len(bench.engine.launches) == 2


def test_a_script_that_never_says_a_word_is_told_why_it_was_ended(bench: Bench) -> None:
    bench.engine.play = lambda spec: Script(1000)
    bench.gangs.apply([order(1, "a0")])
    assert "reported nothing for 30 s; its script does not use powerflow.elastic" in bench.hear(GangFailed).text


def test_who_starts_slowly_grows_once_it_speaks(bench: Bench) -> None:
    bench.engine.play = lambda spec: Script(1000)
    bench.gangs.apply([order(1, "a0")])
    bench.turn()
    bench.gangs.apply([order(2, "a0", "a1")])
    for _ in range(5):
        bench.turn()
    name = RankName("j", 1, 0)
    bench.engine.play = lambda spec: bench.engine.fake_rank(spec, bench.steps_total)
    bench.engine.players[name] = bench.engine.play(bench.engine.specs[name])
    bench.hear(Started)
    assert bench.engine.placed("j") == {("a", 0), ("a", 1)}


@pytest.mark.parametrize("builds", [1, 10_000])
def test_a_script_that_stops_early_has_completed_whoever_still_comes(bench: Bench, builds: int) -> None:
    """Its newcomer waits for a gang that never forms, or has not even built."""
    bench.habits = lambda spec: Habits(builds=builds) if spec.name.epoch == 2 else Habits(stops_at=9)
    start(bench, "a0", "a1")
    bench.until(lambda: step(bench) == 8)
    bench.gangs.apply([order(2, "a0", "a1", "a2")])
    assert bench.hear(GangCompleted).steps in (9, 10)
    assert not bench.engine.running()
    assert not bench.told(GangFailed)


def test_one_that_stops_early_is_enough(bench: Bench) -> None:
    bench.habits = lambda spec: Habits(stops_at=9 if spec.name.number else None)
    names = start(bench, "a0", "a1")
    assert bench.hear(GangCompleted).steps == 9
    assert (names[0], signal.SIGTERM) in bench.engine.signals  # after its grace: it waits for a gang of nobody
    assert bench.engine.launches == names


@pytest.mark.parametrize(("turns", "ends_itself"), [(50, True), (500, False)])
def test_who_left_the_loop_early_too_may_save_for_long_but_not_for_ever(
    bench: Bench, turns: int, ends_itself: bool
) -> None:
    """50 turns are 25 s, more than its grace of 4 s; a rank hangs after 30 s."""
    names = start(bench, "a0", "a1")
    bench.until(lambda: step(bench) == 5)
    for name in names:
        bench.engine.players[name].report(Phase.COMPUTING)  # type: ignore[attr-defined]
    bench.engine.players[names[0]], bench.engine.players[names[1]] = Script(turns), Script(1)
    assert bench.hear(GangCompleted).steps in (5, 6)
    assert bench.engine.statuses[names[0]].code == (0 if ends_itself else -signal.SIGKILL)


def test_newcomers_to_a_gang_that_has_trained_all_are_ended_while_its_script_goes_on(bench: Bench) -> None:
    bench.steps_total = 8
    bench.habits = lambda spec: Habits(builds=10_000) if spec.name.epoch == 2 else Habits(evaluates=100)
    names = start(bench, "a0", "a1")
    bench.gangs.apply([order(2, "a0", "a1", "a2")])
    bench.until(lambda: step(bench) == 8)
    for _ in range(5):
        bench.turn()
    assert bench.engine.running() == names
    for _ in range(20):
        bench.turn()
    assert len(bench.engine.launches) == 3  # and nobody is launched in its place
    assert bench.hear(GangCompleted).steps == 8
    assert not bench.told(RankLost)


def test_a_newcomer_that_sees_for_itself_that_it_comes_too_late_is_no_loss(bench: Bench) -> None:
    bench.steps_total = 8
    bench.habits = lambda spec: Habits(builds=10_000) if spec.name.epoch == 2 else Habits(evaluates=20)
    start(bench, "a0")
    bench.gangs.apply([order(2, "a0", "a1")])
    bench.until(lambda: step(bench) == 7)
    while step(bench) < 8:
        bench.engine.tick()
    bench.engine.players[RankName("j", 2, 0)].report(Phase.RELEASED)  # type: ignore[attr-defined]
    bench.engine.end(RankName("j", 2, 0), 0)
    assert bench.hear(GangCompleted).steps == 8
    assert not bench.told(RankLost)
    assert len(bench.engine.launches) == 2


def test_who_was_told_to_leave_by_somebody_else_has_not_completed(bench: Bench) -> None:
    """As when the machine goes down: SIGTERM to all, and each rank saves and ends with code 0."""
    names = start(bench, "a0", "a1")
    bench.hear(Progressed)
    for name in names:
        bench.engine.players[name].report(Phase.RELEASED)  # type: ignore[attr-defined]
        bench.engine.end(name, 0)
    assert "another program told it to leave" in bench.hear(GangFailed).text
    assert not bench.told(GangCompleted)
