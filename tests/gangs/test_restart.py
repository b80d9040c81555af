"""Scripts that know nothing of us: stopped and launched anew, or run once with all their GPUs."""

from __future__ import annotations

import re
import signal
from collections.abc import Container, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from powerflow.engine.protocol import RankName, RankSpec
from powerflow.gangs.types import Continued, GangCompleted, GangFailed, Progressed, Rescaled, Started, Vacated
from tests.gangs.bench import PYTHON, Bench, order, spec_of
from tests.gangs.fake_engine import Player, Script

RESTART = spec_of(rescale="restart", progress=r"step (?P<step>\d+)/(?P<total>\d+)")
NONE = spec_of(rescale="none", run="./train --all > out.txt")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)

    def play(spec: RankSpec) -> Player:
        return Script(1000, line="step {turn}/1000\n")

    bench.engine.play = play
    yield bench
    bench.gangs.close()


def start(bench: Bench, *slots: str) -> list[RankName]:
    bench.gangs.apply([order(1, *slots, spec=RESTART)])
    bench.hear(Started)
    return bench.engine.running()


def test_gives_what_torchrun_gives(bench: Bench) -> None:
    names = start(bench, "a1", "a3", "b0")
    env = [bench.engine.specs[name].env for name in names]
    assert [entry["RANK"] for entry in env] == ["0", "1", "2"]
    assert [entry["LOCAL_RANK"] for entry in env] == ["0", "1", "0"]
    assert [entry["LOCAL_WORLD_SIZE"] for entry in env] == ["2", "2", "1"]
    assert {entry["WORLD_SIZE"] for entry in env} == {"3"}
    assert [entry["GROUP_RANK"] for entry in env] == ["0", "0", "1"]
    assert len({entry["MASTER_PORT"] for entry in env}) == 1
    assert {entry["MASTER_ADDR"] for entry in env} == {"127.0.0.1"}
    assert [entry["POWERFLOW_GPUS"] for entry in env] == ["1", "3", "0"]
    assert [entry["SEES"] for entry in env] == ["1,3", "1,3", "0"]  # LOCAL_RANK counts among these


@pytest.mark.parametrize(
    ("keys", "folder"),
    [
        ({}, "{state}/jobs/j"),
        ({"directory": "/home/ada"}, "{state}/jobs/j"),
        ({"directory": "/home/ada", "checkpoint": {"dir": "ck"}}, "/home/ada/ck"),
        ({"checkpoint": {"dir": "ck"}}, "{state}/jobs/j/ck"),
        ({"directory": "/home/ada", "checkpoint": {"dir": "/data/ck"}}, "/data/ck"),
    ],
)
def test_learns_where_to_keep_its_state(bench: Bench, keys: dict[str, Any], folder: str) -> None:
    bench.gangs.apply([order(1, "a0", spec=spec_of(rescale="restart", **keys))])
    bench.hear(Started)
    (name,) = bench.engine.running()
    assert bench.engine.specs[name].env["POWERFLOW_CHECKPOINT_DIR"] == folder.format(state=bench.directory)


def test_reads_steps_from_the_log_of_the_first_rank(bench: Bench) -> None:
    start(bench, "a0", "a1")
    told = bench.hear(Progressed)
    assert (told.steps_total, told.gpus, told.global_batch) == (1000, 2, 0)
    bench.until(lambda: bench.told(Progressed)[-1].step >= 20)
    last = bench.told(Progressed)[-1]
    assert last.timed_s / last.timed_steps == 0.5  # a turn is half a second


def test_another_number_of_gpus_is_a_restart(bench: Bench) -> None:
    old = start(bench, "a0", "a1")
    bench.engine.stubborn = {old[1]}
    bench.gangs.apply([order(2, "a1", "a2", "a3", spec=RESTART)])
    bench.hear(Started)
    assert [entry for entry in bench.engine.signals if entry[0] == old[0]] == [(old[0], signal.SIGTERM)]
    assert [number for name, number in bench.engine.signals if name == old[1]] == [signal.SIGTERM, signal.SIGKILL]
    assert bench.engine.placed("j") == {("a", 1), ("a", 2), ("a", 3)}
    assert {bench.engine.specs[name].env["WORLD_SIZE"] for name in bench.engine.running()} == {"3"}
    assert not bench.told(GangFailed)
    told = bench.hear(Progressed)
    assert told.generation == 2


def test_a_change_is_told_with_its_pause_once_it_trains_again(bench: Bench) -> None:
    start(bench, "a0", "a1")
    bench.hear(Progressed)
    bench.engine.play = lambda spec: Diary(range(10, 1000))  # a turn is half a second
    bench.gangs.apply([order(2, "a1", "a2", "a3", spec=RESTART)])
    rescaled = bench.hear(Rescaled)
    assert (rescaled.gpus_before, rescaled.gpus) == (2, 3)
    assert rescaled.pause_s == pytest.approx(0.5 + 10 * 0.5)  # a turn to leave, ten to the first step
    assert bench.told(Progressed)[-1].generation == 2
    bench.gangs.apply([order(3, "b1", "b2", "b3", spec=RESTART)])
    bench.turn()
    bench.restart(order(3, "b1", "b2", "b3", spec=RESTART))
    moved = bench.hear(Rescaled)
    assert (moved.gpus_before, moved.gpus) == (3, 3)
    for _ in range(20):
        bench.turn()
    assert len(bench.told(Rescaled)) == 2


def test_a_change_of_who_tells_no_steps_is_told_at_the_launch(bench: Bench) -> None:
    spec = spec_of(rescale="restart")
    bench.gangs.apply([order(1, "a0", spec=spec)])
    bench.hear(Started)
    bench.gangs.apply([order(2, "a0", "a1", spec=spec)])
    rescaled = bench.hear(Rescaled)
    assert (rescaled.gpus_before, rescaled.gpus, rescaled.pause_s) == (1, 2, 1.0)  # a turn to leave, one to be seen


def test_who_was_preempted_has_failed_or_had_not_trained_is_not_rescaled(bench: Bench) -> None:
    start(bench, "a0")
    bench.hear(Progressed)
    bench.gangs.apply([order(2, "a1", spec=RESTART), order(3, spec=RESTART)])
    bench.hear(Vacated)
    bench.engine.play = lambda spec: Script(10, 3)
    bench.gangs.apply([order(4, "a0", "a1", spec=RESTART)])
    bench.turn()
    bench.gangs.apply([order(5, "a0", spec=RESTART)])  # before its first step
    bench.hear(GangFailed)
    bench.engine.play = lambda spec: Diary(range(1000))
    bench.gangs.apply([order(6, "a0", "a1", spec=RESTART)])
    bench.hear(Progressed)
    assert not bench.told(Rescaled)


def test_a_new_epoch_on_the_same_gpus_changes_nothing(bench: Bench) -> None:
    old = start(bench, "a0", "a1")
    bench.gangs.apply([order(2, "a0", "a1", spec=RESTART)])
    bench.hear(Started)
    assert bench.engine.running() == old


def test_preempted_and_completed(bench: Bench) -> None:
    start(bench, "a0")
    bench.gangs.apply([order(2, spec=RESTART)])
    assert bench.hear(Vacated).steps_safe is None
    bench.engine.play = lambda spec: Script(7, line="step {turn}/7\r")
    bench.gangs.apply([order(3, "a0", "a1", spec=RESTART)])
    assert bench.hear(GangCompleted).steps == 7
    assert bench.gangs.holding() == {}
    for _ in range(5):
        assert bench.turn() == []


def test_one_failure_ends_all_and_is_told_with_its_last_lines(bench: Bench) -> None:
    def play(spec: RankSpec) -> Player:
        return Script(*((5, 3, "no such file\n") if spec.env["RANK"] == "1" else (1000, 0, "")))

    bench.engine.play = play
    bench.gangs.apply([order(1, "a0", "a1", spec=RESTART)])
    failed = bench.hear(GangFailed)
    assert (failed.code, failed.steps_safe) == (3, None)
    assert failed.last_lines[-1] == "no such file"
    assert "j.1.1 exited with code 3" in failed.text
    assert not bench.engine.running()
    assert bench.gangs.last_lines("j", 2, "j.1.1") == ["no such file"] * 2


class Diary(Script):
    """Tells a step in these turns only."""

    def __init__(self, turns: Container[int], total: int = 1000) -> None:
        super().__init__(2000, line="step {turn}/" + f"{total}\n")
        self.tells, self.text = turns, self.line

    def advance(self) -> int | None:
        self.line = self.text if self.turns + 1 in self.tells else ""
        return super().advance()


def test_a_script_whose_steps_stand_still_is_ended(bench: Bench) -> None:
    bench.engine.play = lambda spec: Diary(range(20))
    start(bench, "a0", "a1")
    failed = bench.hear(GangFailed)
    assert re.fullmatch(r"the log of j\.1\.0 showed no new step for 3\d s", failed.text)  # 30 s is the least
    assert not bench.engine.running()
    bench.gangs.apply([order(2, "a0", "a1", spec=RESTART)])  # and now not one step
    bench.engine.play = lambda spec: Diary(())
    assert "j.2.0 showed no new step for 3" in bench.hear(GangFailed).text


def test_a_script_that_hung_before_a_restart_is_ended_after_it(bench: Bench) -> None:
    bench.engine.play = lambda spec: Diary(range(20))
    start(bench, "a0")
    bench.until(lambda: bench.told(Progressed)[-1:] != [] and bench.told(Progressed)[-1].step == 19)
    bench.restart(order(1, "a0", spec=RESTART))
    assert "showed no new step for" in bench.hear(GangFailed).text


@pytest.mark.parametrize(
    ("player", "keys"),
    [
        (Diary({40, 80, 160, 270}), {}),  # two turns a second: gaps of 20, 20, 40 and 55 s, then for 3 × 55 s
        (Diary(range(20), total=19), {}),  # the last step is done, and the rest takes as long as it takes
        (Diary(range(20)), {"work": {"iterations": 19}, "progress": r"step (?P<step>\d+)"}),
        (Diary(range(20)), {"progress": None}),
        (Diary(()), {}),  # nothing is known of how long a step takes
    ],
)
def test_who_may_only_seem_to_hang_is_left_alone(bench: Bench, player: Diary, keys: dict[str, Any]) -> None:
    bench.engine.play = lambda spec: player
    bench.gangs.apply([order(1, "a0", spec=spec_of(**{"rescale": "none", "progress": RESTART.progress, **keys}))])
    for _ in range(600):
        bench.turn()
    assert bench.engine.running()


def test_a_lost_node_is_a_failure(bench: Bench) -> None:
    names = start(bench, "a0", "b0")
    bench.engine.end(names[1], None)
    failed = bench.hear(GangFailed)
    assert failed.code is None
    assert "it is not known how it ended" in failed.text


def test_adoption_reads_the_log_on_and_leaves_ranks_alone(bench: Bench) -> None:
    names = start(bench, "a0", "a1")
    bench.until(lambda: bench.told(Progressed)[-1:] != [] and bench.told(Progressed)[-1].step > 10)
    bench.restart(order(1, "a0", "a1", spec=RESTART))
    assert bench.hear(Progressed).step > 10
    assert bench.engine.launches == names


def test_adoption_goes_on_with_a_stop(bench: Bench) -> None:
    names = start(bench, "a0", "a1")
    bench.engine.stubborn = set(names)
    bench.gangs.apply([order(2, spec=RESTART)])
    bench.turn()
    bench.restart(order(2, spec=RESTART))
    bench.hear(Vacated)
    assert not bench.told(GangFailed)


def test_rigid_commands_run_once_with_all_gpus(bench: Bench) -> None:
    bench.gangs.apply([order(1, "a0", "a1", "a2", spec=NONE)])
    bench.hear(Started)
    (name,) = bench.engine.running()
    spec = bench.engine.specs[name]
    assert spec.command == ("/bin/sh", "-c", "./train --all > out.txt")
    assert not spec.python
    assert spec.env["POWERFLOW_GPUS"] == spec.env["SEES"] == "0,1,2"
    assert "RANK" not in spec.env
    assert bench.gangs.holding() == {("a", gpu): "j" for gpu in range(3)}


def test_rigid_commands_need_one_node(bench: Bench) -> None:
    bench.gangs.apply([order(1, "a0", "b0", spec=NONE)])
    assert "on one node" in bench.hear(GangFailed).text
    assert not bench.engine.launches


def test_two_python_scripts_wait_for_each_others_gpus(bench: Bench) -> None:
    for job, slots in (("x", ("a0", "a1")), ("y", ("a2", "a3"))):
        bench.gangs.apply([order(1, *slots, job_id=job, spec=RESTART)])
        bench.hear(Started, job)
    bench.gangs.apply([order(2, "a2", "a3", job_id="x", spec=RESTART), order(2, "a0", "a1", job_id="y", spec=RESTART)])
    bench.until(lambda: len([event for event in bench.told(Started) if event.epoch == 2]) == 2)
    assert bench.engine.placed("x") == {("a", 2), ("a", 3)}
    assert {bench.engine.specs[name].command for name in bench.engine.running()} == {(PYTHON, "train.py")}


def test_forgets_only_what_is_over(bench: Bench) -> None:
    start(bench, "a0")
    bench.gangs.forget("j")
    assert bench.gangs.log("j")[0]
    bench.gangs.kill("j")
    bench.hear(Vacated)
    bench.gangs.forget("j")
    assert bench.gangs.ranks("j") == []
    assert not bench.engine.statuses
    with pytest.raises(KeyError):
        bench.gangs.log("j")


#: Linear, and slow all the same: RE2 follows hundreds of ways at once.
SLOW = r"(?P<step>(a|b|ab)*a(a|b){600}c)"
SLOW_LINES = ("".join(Random(1).choice("ab") for _ in range(1999)) + "\n") * 60


def test_a_pattern_that_was_given_up_is_told_until_the_job_is_over(bench: Bench) -> None:
    bench.engine.play = lambda spec: Script(20, line=SLOW_LINES)
    bench.gangs.apply([order(1, "a0", spec=spec_of(rescale="restart", progress=SLOW))])
    bench.until(lambda: bool(bench.gangs.troubles()))
    assert "takes too long" in bench.gangs.troubles()["j"]
    bench.hear(GangCompleted)
    bench.turn()
    assert bench.gangs.troubles() == {}


def test_only_the_latest_logs_are_kept(bench: Bench) -> None:
    bench.gangs = bench.controller()
    for epoch in range(1, 41):
        bench.gangs.apply([order(epoch, f"a{epoch % 2}", spec=RESTART)])
        bench.hear(Started)
    bench.turn()
    assert len(bench.engine.statuses) <= 34
    assert bench.gangs.ranks("j")[0] == "j.40.0"


def test_who_is_launched_again_went_on_or_began_again_as_its_first_step_shows(bench: Bench) -> None:
    line = "step {turn}/1000\n"
    bench.engine.play = lambda spec: Script(2000, line=line)
    bench.gangs.apply([order(1, "a0", spec=RESTART)])
    bench.until(lambda: bool(bench.told(Progressed)) and bench.told(Progressed)[-1].step >= 100)
    assert not bench.told(Continued)
    bench.engine.play = lambda spec: Script(2000, line=line, turns=89)
    bench.gangs.apply([order(2, "a0", "a1", spec=RESTART)])
    assert bench.hear(Continued) == Continued("j", 90, went_on=True)
    bench.restart(order(2, "a0", "a1", spec=RESTART))
    bench.engine.play = lambda spec: Script(2000, line=line)
    bench.gangs.apply([order(3, "b0", spec=RESTART)])
    assert bench.hear(Continued) == Continued("j", 1, went_on=False)
    events = [event for event in bench.events if isinstance(event, Continued | Progressed)]
    assert isinstance(
        events[events.index(bench.told(Continued)[-1]) + 1], Progressed
    )  # who knows of it knows how far it was


def test_a_launch_whose_first_lines_are_read_together_began_again(bench: Bench) -> None:
    bench.engine.play = lambda spec: Script(2000, line="step {turn}/1000\n")
    bench.gangs.apply([order(1, "a0", spec=RESTART)])
    bench.until(lambda: bool(bench.told(Progressed)) and bench.told(Progressed)[-1].step >= 10)
    bench.engine.play = lambda spec: Script(2000, line="step 1/1000\nstep 2/1000\nstep 3/1000\n")
    bench.gangs.apply([order(2, "b0", spec=RESTART)])
    assert bench.hear(Continued) == Continued("j", 1, went_on=False)
