"""In-place gangs: who stays, who comes, who leaves, and what is mended."""

from __future__ import annotations

import json
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from powerflow.elastic.mailbox import Mailbox, Phase
from powerflow.engine.protocol import EngineError, RankName
from powerflow.gangs.context import prepare
from powerflow.gangs.types import (
    GangCompleted,
    GangFailed,
    Hung,
    Progressed,
    RankLost,
    Rescaled,
    Started,
    Vacated,
    backoff_s,
)
from tests.gangs.bench import PYTHON, Bench, order, spec_of
from tests.gangs.fake_engine import Script
from tests.gangs.fake_rank import Habits


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.gangs.close()


def start(bench: Bench, *slots: str, job_id: str = "j") -> list[RankName]:
    bench.gangs.apply([order(1, *slots, job_id=job_id)])
    bench.hear(Started, job_id)
    return bench.engine.running(job_id)


def step(bench: Bench, job_id: str = "j") -> int:
    return max(int(rank["step"]) for rank in bench.gangs.standing(job_id) if "step" in rank)


def test_starts_one_rank_per_gpu_and_tells_progress(bench: Bench) -> None:
    start(bench, "a0", "a1", "b2")
    assert bench.engine.placed("j") == {("a", 0), ("a", 1), ("b", 2)}
    told = bench.hear(Progressed)
    assert (told.gpus, told.nodes, told.global_batch, told.local_batch) == (3, 2, 64, 21)
    assert told.timed_steps == told.step
    spec = bench.engine.specs[RankName("j", 1, 2)]
    assert spec.command == (PYTHON, "train.py")
    assert spec.python
    assert (spec.env["POWERFLOW_RANK"], spec.env["POWERFLOW_GPUS"], spec.env["SEES"]) == ("j.1.2", "2", "2")
    assert bench.gangs.holding() == {("a", 0): "j", ("a", 1): "j", ("b", 2): "j"}


def test_grows_and_shrinks_with_survivors_first(bench: Bench) -> None:
    old = start(bench, "a1", "a2")
    bench.gangs.apply([order(2, "a0", "a2", "a3")])  # one GPU stays, one goes, two come
    bench.hear(Started)
    target = Mailbox(bench.directory / "jobs" / "j").target()
    assert target is not None
    assert [member.name for member in target.members] == [str(old[1]), "j.2.0", "j.2.1"]
    assert target.generation == 2  # all in one switch
    rescaled = bench.told(Rescaled)
    assert [(event.gpus_before, event.gpus, event.pause_s) for event in rescaled] == [(2, 3, 0.1)]
    bench.until(lambda: bench.engine.placed("j") == {("a", 0), ("a", 2), ("a", 3)})
    assert not bench.engine.signals  # everyone left by themselves
    assert not bench.told(RankLost)


def test_gangs_that_swap_gpus_shrink_first(bench: Bench) -> None:
    start(bench, "a0", "a1", job_id="x")
    start(bench, "a2", "a3", job_id="y")
    before = {job: step(bench, job) for job in "xy"}
    bench.gangs.apply([order(2, "a0", "a2", job_id="x"), order(2, "a1", "a3", job_id="y")])
    bench.hear(Started, "x")
    assert {job: bench.engine.placed(job) for job in "xy"} == {"x": {("a", 0), ("a", 2)}, "y": {("a", 1), ("a", 3)}}
    sizes = [(event.gpus_before, event.gpus) for event in bench.told(Rescaled) if event.job_id == "x"]
    assert sizes == [(2, 1), (1, 2)]
    assert all(step(bench, job) > before[job] for job in "xy")
    assert not bench.engine.signals


def test_no_gpu_in_common_goes_through_the_checkpoint(bench: Bench) -> None:
    old = start(bench, "a0", "a1")
    bench.hear(Progressed)
    bench.gangs.apply([order(2, "b0", "b1", "b2")])
    bench.until(lambda: len(bench.engine.launches) > len(old))
    assert not set(old) & set(bench.engine.running())  # nobody new while the old ones may still write
    saved = json.loads(Mailbox(bench.directory / "jobs" / "j").checkpoint.read_text("utf-8"))
    assert saved > 0
    bench.hear(Started)
    assert bench.engine.placed("j") == {("b", 0), ("b", 1), ("b", 2)}
    assert step(bench) >= saved
    assert not bench.told(Vacated)
    (rescaled,) = bench.told(Rescaled)
    assert (rescaled.gpus_before, rescaled.gpus) == (2, 3)
    assert rescaled.pause_s >= 0


def test_preempted_job_tells_what_is_safe_and_comes_back(bench: Bench) -> None:
    start(bench, "a0", "a1")
    bench.hear(Progressed)
    bench.gangs.apply([order(2)])
    vacated = bench.hear(Vacated)
    assert vacated.epoch == 2
    assert vacated.steps_safe == json.loads(Mailbox(bench.directory / "jobs" / "j").checkpoint.read_text("utf-8")) > 0
    assert bench.gangs.holding() == {}
    bench.turn()
    assert len(bench.told(Vacated)) == 1
    bench.gangs.apply([order(3, "b3")])
    bench.hear(Started)
    assert step(bench) >= (vacated.steps_safe or 0)


def test_jobs_may_keep_their_checkpoints_in_one_folder_and_read_only_their_own(bench: Bench, tmp_path: Path) -> None:
    home = tmp_path / "home"
    spec = spec_of(directory=str(home), checkpoint={"dir": "ck", "grace": 4})
    for job_id, slot in (("x", "a0"), ("y", "a1")):
        bench.gangs.apply([order(1, slot, job_id=job_id, spec=spec)])
        bench.hear(Progressed, job_id)
    bench.until(lambda: step(bench, "x") > step(bench, "y") + 2)  # x began earlier
    safe = {}
    for job_id in "xy":
        bench.gangs.apply([order(2, job_id=job_id, spec=spec)])
        safe[job_id] = bench.hear(Vacated, job_id).steps_safe
    kept = {path.name.split("-")[1]: json.loads(path.read_text("utf-8")) for path in (home / "ck").iterdir()}
    assert kept == safe
    assert not Mailbox(bench.directory / "jobs" / "x").checkpoint.exists()
    bench.restart()
    bench.gangs.apply([order(3, "a0", job_id="y", spec=spec)])
    bench.hear(Started, "y")
    assert step(bench, "y") < kept["x"]
    assert step(bench, "y") >= kept["y"]


def test_another_clusters_job_of_the_same_number_has_another_checkpoint(bench: Bench, tmp_path: Path) -> None:
    spec = spec_of(checkpoint={"dir": str(tmp_path / "ck")})
    for directory in ("one", "other"):
        bench.gangs.close()
        bench = Bench(tmp_path / directory)
        bench.gangs.apply([order(1, "a0", spec=spec)])
        bench.hear(Progressed)
        bench.gangs.apply([order(2, spec=spec)])
        bench.hear(Vacated)
    assert len(list((tmp_path / "ck").iterdir())) == 2


def test_a_rank_that_does_not_leave_is_made_to(bench: Bench) -> None:
    bench.habits = lambda spec: Habits(lingers=None)
    names = start(bench, "a0", "a1")
    bench.engine.stubborn = {names[1]}
    bench.hear(Progressed)
    bench.gangs.apply([order(2)])
    vacated = bench.hear(Vacated)
    assert [entry for entry in bench.engine.signals if entry[0] == names[0]] == [(names[0], signal.SIGTERM)]
    assert [number for name, number in bench.engine.signals if name == names[1]] == [signal.SIGTERM, signal.SIGKILL]
    assert vacated.steps_safe is not None
    assert vacated.steps_safe > 0


def test_completes_once(bench: Bench) -> None:
    bench.steps_total = 5
    start(bench, "a0", "a1")
    assert bench.hear(GangCompleted).steps == 5
    for _ in range(10):
        assert bench.turn() == []
    bench.restart(order(1, "a0", "a1"))  # it may be that nobody heard it
    assert [type(event) for event in bench.turn()] == [GangCompleted]
    assert len(bench.engine.launches) == 2


def test_a_newcomer_that_is_not_needed_any_more_is_ended(bench: Bench) -> None:
    bench.steps_total = 8
    bench.habits = lambda spec: Habits(builds=10_000 if spec.name.epoch == 2 else 1)
    start(bench, "a0")
    bench.gangs.apply([order(2, "a0", "a1")])
    assert bench.hear(GangCompleted).steps == 8
    assert not bench.engine.running()


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
        == "its script does not use powerflow.elastic; use it (docs/elastic.md), or give rescale: restart or none"
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


def test_an_older_order_changes_nothing(bench: Bench) -> None:
    bench.gangs.apply([order(5, "a0")])
    bench.hear(Started)
    bench.gangs.apply([order(4, "b0"), order(5, "b0")])
    for _ in range(10):
        bench.turn()
    assert bench.engine.placed("j") == {("a", 0)}


def test_launches_that_may_work_later_are_tried_again(bench: Bench) -> None:
    bench.engine.refusals = [EngineError("agent is away", retry=True)]
    bench.gangs.apply([order(1, "a0")])
    bench.turn()
    assert "agent is away" in bench.gangs.troubles()["j"]
    bench.hear(Started)
    assert bench.engine.launches == [RankName("j", 1, 0)]
    assert bench.gangs.troubles() == {}


def test_launches_that_cannot_work_fail_the_job(bench: Bench) -> None:
    bench.engine.refusals = [EngineError("no such directory")]
    bench.gangs.apply([order(1, "a0", "a1")])
    failed = bench.hear(GangFailed)
    assert failed.code is None
    assert "no such directory" in failed.text
    assert not bench.engine.running()


def test_a_full_disk_stops_nothing_that_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    names = start(bench, "a0")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("powerflow.gangs.state_file.replace_json", full)
        bench.gangs.apply([order(2, "a0", "a1")])
        for _ in range(5):
            bench.turn()
        assert "No space left" in bench.gangs.troubles()["j"]
        assert bench.engine.running() == names
    bench.hear(Started)
    assert bench.engine.placed("j") == {("a", 0), ("a", 1)}


def test_nonsense_about_the_gang_is_not_heard(bench: Bench) -> None:
    start(bench, "a0", "a1")
    for player in bench.engine.players.values():
        player.advance = lambda: None  # type: ignore[method-assign]
    mailbox = Mailbox(bench.directory / "jobs" / "j")
    for name in ("switch.json", "target.json"):
        for content in ("", "[1]", '{"target": 3}', '{"target":' + "[" * 200_000, '{"target": {"generation": 1e999}}'):
            (mailbox.directory / name).write_text(content, "utf-8")
            bench.turn()
            assert bench.gangs.standing("j")
    assert not bench.told(GangFailed)


@pytest.mark.parametrize("content", ["[1]", '{"name": "j.1.0", "pid": 1, "generation": "x", "phase": "done"}'])
def test_nonsense_of_a_rank_about_itself_fails_its_job(bench: Bench, content: str) -> None:
    """It can only be on purpose, or of a program that is not ours: another try would end in the same way."""
    names = start(bench, "a0", "a1")
    (Mailbox(bench.directory / "jobs" / "j").directory / "ranks" / f"{names[1]}.json").write_text(content, "utf-8")
    for player in bench.engine.players.values():
        player.advance = lambda: None  # type: ignore[method-assign]
    failed = bench.hear(GangFailed)
    assert failed.final
    assert f"the report of {names[1]} is rejected: it" in failed.text
    assert not bench.engine.running()


def test_links_in_the_mailbox_lead_nowhere(bench: Bench, tmp_path: Path) -> None:
    """A controller that is root must not do elsewhere what a job's user could not do there."""
    start(bench, "a0", "a1")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    (elsewhere / "theirs.json").write_text("{}", "utf-8")
    ranks = bench.directory / "jobs" / "j" / "ranks"
    shutil.rmtree(ranks)
    ranks.symlink_to(elsewhere)
    bench.gangs.apply([order(2, "b0", "b1")])  # no GPU in common: what was said in the last life is swept away
    for _ in range(40):
        bench.turn()
    assert (elsewhere / "theirs.json").exists()
    with pytest.raises(NotADirectoryError):
        prepare(Mailbox(ranks.parent), "root")
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o755


def test_backoff_doubles_up_to_a_most() -> None:
    assert [backoff_s(attempt) for attempt in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, 8.0]
    assert backoff_s(10_000) == 300.0


def test_job_ids_that_are_no_file_names_are_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="cannot be a job's id"):
        bench.gangs.apply([order(1, "a0", job_id="../x")])


def test_local_batch_and_checkpoint_are_passed_on(bench: Bench) -> None:
    spec = spec_of(batch={"global": 64, "local_max": 16}, checkpoint={"every": "10m"})
    bench.gangs.apply([order(1, "a0", "b0", spec=spec)])
    bench.turn()
    target = Mailbox(bench.directory / "jobs" / "j").target()
    assert target is not None
    assert (target.local_batch_max, target.checkpoint_s, target.nodes) == (16, 600.0, 2)


def test_limits_are_those_of_every_rank(bench: Bench) -> None:
    bench.gangs.apply([order(1, "a0", "b0", spec=spec_of(limits={"memory": "1GiB", "cpus": 2}))])
    bench.gangs.apply([order(1, "a1", job_id="k")])
    bench.until(lambda: len(bench.engine.specs) == 3)
    limits = {str(spec.name): (spec.memory_bytes, spec.cpus) for spec in bench.engine.specs.values()}
    assert limits == {"j.1.0": (1 << 30, 2.0), "j.1.1": (1 << 30, 2.0), "k.1.0": (0, 0.0)}


def test_who_sets_no_local_limit_has_none(bench: Bench) -> None:
    """The script knows its batch; what the scheduler takes it for must not cut its passes small."""
    bench.gangs.apply([order(1, "a0", spec=spec_of(gpus="1..4"))])
    bench.turn()
    target = Mailbox(bench.directory / "jobs" / "j").target()
    assert target is not None
    assert target.local_batch_max == 0


def test_a_job_that_is_killed_after_its_end_tells_how_it_ended(bench: Bench) -> None:
    bench.steps_total = 5
    bench.habits = lambda spec: Habits(crashes_building=spec.name.gang == "k")
    bench.gangs.apply([order(1, "a0"), order(1, "a1", job_id="k")])
    bench.hear(GangFailed, "k")
    bench.hear(GangCompleted)
    bench.gangs.kill("j")
    bench.gangs.kill("k")
    assert {(type(event), event.job_id) for event in bench.turn()} == {(Vacated, "j"), (GangFailed, "k")}
    bench.gangs.kill("j")
    assert bench.turn() == []  # not once more


def test_a_job_that_was_killed_runs_again_when_it_is_given_gpus(bench: Bench) -> None:
    bench.habits = lambda spec: Habits(lingers=None)
    names = start(bench, "a0", "a1")
    bench.engine.stubborn = set(names)
    bench.gangs.kill("j")
    bench.turn()
    bench.gangs.apply([order(2, "a0")])  # while its ranks have their grace, which goes on
    bench.until(lambda: not set(names) & set(bench.engine.running()))
    bench.hear(GangFailed)
    bench.gangs.apply([order(3, "a0")])
    bench.hear(Started)
    assert bench.engine.placed("j") == {("a", 0)}
    assert not bench.told(Vacated)
