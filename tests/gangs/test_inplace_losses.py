"""In-place gangs that lose ranks, hang, fail, or are adopted by another controller."""

from __future__ import annotations

import pytest

from powerflow.elastic.mailbox import Mailbox
from powerflow.engine.protocol import RankName
from powerflow.gangs.types import (
    GangFailed,
    Hung,
    Progressed,
    RankLost,
    Rescaled,
    Started,
    Vacated,
)
from tests.gangs.bench import Bench, order
from tests.gangs.fake_engine import Script
from tests.gangs.fake_rank import Habits
from tests.gangs.inplace import start, step


def test_a_lost_rank_is_replaced_and_at_most_a_step_repeated(bench: Bench) -> None:
    names = start(bench, "a0", "a1", "b0")
    bench.hear(Progressed)
    at = step(bench)
    bench.engine.end(names[0], -9)
    lost = bench.hear(RankLost)
    assert (lost.rank, lost.code) == (str(names[0]), -9)
    assert "SIGKILL" in lost.reason
    bench.until(lambda: [event.gpus for event in bench.told(Rescaled)] == [2, 3])
    assert bench.engine.placed("j") == {("a", 0), ("a", 1), ("b", 0)}
    assert set(names[1:]) < set(bench.engine.running())  # the others lived on
    assert step(bench) >= at
    assert not bench.told(GangFailed)


def test_all_ranks_dead_is_the_controllers_business(bench: Bench) -> None:
    bench.habits = lambda spec: Habits(crashes_at=3)
    bench.gangs.apply([order(1, "a0", "a1")])
    failed = bench.hear(GangFailed)
    assert (failed.code, failed.epoch) == (1, 1)
    assert "exited with code 1" in failed.text
    assert bench.gangs.holding() == {}
    for _ in range(20):
        assert bench.turn() == []
    assert len(bench.engine.launches) == 2
    bench.habits = lambda spec: Habits()
    bench.gangs.apply([order(2, "a0", "a1")])
    bench.hear(Started)


def test_a_refused_script_is_not_tried_again(bench: Bench) -> None:
    """By one rank while the others train: they would lose it again and again."""
    bench.habits = lambda spec: Habits(refuses_at=3 if spec.name.number == 1 else None)
    bench.gangs.apply([order(1, "a0", "a1", "a2")])
    failed = bench.hear(GangFailed)
    assert failed.final
    assert failed.text == "j.1.1 was refused: train.py:7: use rescale: restart"
    assert not bench.told(RankLost)
    assert bench.gangs.holding() == {}
    assert len(bench.engine.launches) == 3


@pytest.mark.parametrize(
    ("line", "final"),
    [
        ("    dist.init_process_group('nccl')\nValueError: environment variable RANK expected, but not set\n", True),
        ("ValueError: a mistake\n", False),
    ],
)
def test_a_script_that_opens_a_group_of_its_own_is_told_to_be_restarted(bench: Bench, line: str, final: bool) -> None:
    """FSDP scripts do, as soon as they start, and nobody has set an address."""
    bench.engine.play = lambda spec: Script(3, code=1, line=line)
    bench.gangs.apply([order(1, "a0", "a1")])
    failed = bench.hear(GangFailed)
    assert failed.final is final
    assert ("submit the job with rescale: restart" in failed.text) is final


def test_failure_is_told_again_after_a_restart(bench: Bench) -> None:
    bench.habits = lambda spec: Habits(crashes_building=True)
    bench.gangs.apply([order(1, "a0")])
    failed = bench.hear(GangFailed)
    bench.restart(order(1, "a0"))
    assert bench.turn() == [failed]
    assert len(bench.engine.launches) == 1


def test_losses_without_a_step_in_between_are_bounded(bench: Bench) -> None:
    bench.habits = lambda spec: Habits(crashes_at=6 if spec.name.number > 1 else None)
    names = start(bench, "a0", "a1")
    for name in names:
        rank = bench.engine.players[name]
        rank.habits.hangs_at = 6  # type: ignore[attr-defined]
    bench.until(lambda: step(bench) == 6)
    bench.hear(Hung, turns=200)
    failed = bench.hear(GangFailed, turns=2000)
    assert failed.epoch == 1
    assert not bench.engine.running()


def test_a_newcomer_that_cannot_start_does_not_stop_the_others(bench: Bench) -> None:
    start(bench, "a0")
    bench.habits = lambda spec: Habits(crashes_building=True)
    bench.gangs.apply([order(2, "a0", "a1")])
    for _ in range(6):
        bench.hear(RankLost)
    assert not bench.told(GangFailed)
    at = step(bench)
    bench.hear(Progressed)
    assert step(bench) > at
    bench.habits = lambda spec: Habits()
    bench.hear(Started)


def test_a_rank_that_hangs_is_killed_and_replaced(bench: Bench) -> None:
    bench.habits = lambda spec: Habits(hangs_at=4 if spec.name == RankName("j", 1, 1) else None)
    start(bench, "a0", "a1", "a2")
    hung = bench.hear(Hung)
    assert hung.rank == "j.1.1"
    assert bench.hear(RankLost).rank == "j.1.1"
    bench.until(lambda: [event.gpus for event in bench.told(Rescaled)][-1:] == [3])
    assert len(bench.told(Hung)) == 1


def test_long_work_of_all_ranks_is_no_hang(bench: Bench) -> None:
    start(bench, "a0", "a1")
    bench.until(lambda: step(bench) == 3)
    for name in bench.engine.running():
        bench.engine.players[name].habits.hangs_at = 4  # type: ignore[attr-defined]
    for _ in range(40):  # 20 s: longer than hang_s
        bench.turn()
    assert not bench.told(Hung)
    for name in bench.engine.running():
        bench.engine.players[name].habits.hangs_at = None  # type: ignore[attr-defined]
    bench.hear(Progressed)


def test_a_group_that_could_not_be_formed_is_formed_anew(bench: Bench) -> None:
    names = start(bench, "a0", "a1")
    bench.habits = lambda spec: Habits(quarrels=2)
    bench.gangs.apply([order(2, "a0", "a1", "a2")])
    bench.hear(Started)
    assert set(names) < set(bench.engine.running())
    assert not bench.told(RankLost)


def test_a_group_that_can_never_be_formed_fails(bench: Bench) -> None:
    bench.habits = lambda spec: Habits(quarrels=100)
    bench.gangs.apply([order(1, "a0", "a1")])
    assert "cannot form a group" in bench.hear(GangFailed).text
    assert not bench.engine.running()


def test_kill_ends_all_at_once(bench: Bench) -> None:
    names = start(bench, "a0", "a1")
    bench.gangs.kill("j")
    bench.hear(Vacated)
    assert {name for name, _ in bench.engine.signals} == set(names)
    assert not bench.engine.running()
    bench.gangs.kill("unknown")


def test_adoption_leaves_healthy_ranks_alone(bench: Bench) -> None:
    names = start(bench, "a0", "a1")
    bench.hear(Progressed)
    bench.restart(order(1, "a0", "a1"))
    at = step(bench)
    bench.until(lambda: step(bench) > at + 5)
    assert bench.engine.running() == names
    assert bench.engine.launches == names
    assert not bench.engine.signals
    target = Mailbox(bench.directory / "jobs" / "j").target()
    assert target is not None
    assert target.generation == 1


def test_adoption_ends_ranks_of_jobs_that_are_over(bench: Bench) -> None:
    start(bench, "a0")
    start(bench, "b0", job_id="k")
    bench.restart(order(1, "b0", job_id="k"))
    assert ("a", 0) in bench.gangs.holding()
    bench.until(lambda: not bench.engine.running("j"))
    assert bench.engine.running("k")


def test_adoption_sees_who_died_meanwhile(bench: Bench) -> None:
    names = start(bench, "a0", "a1")
    bench.engine.end(names[1], -9)
    bench.restart(order(1, "a0", "a1"))
    assert bench.hear(RankLost).rank == str(names[1])
    bench.hear(Started)
