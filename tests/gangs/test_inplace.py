"""In-place gangs: who stays, who comes, who leaves, and what is mended."""

from __future__ import annotations

import json
import shutil
import signal
import stat
from pathlib import Path

import pytest

from powerflow.elastic.mailbox import Mailbox
from powerflow.engine.protocol import EngineError, RankName
from powerflow.gangs.context import prepare
from powerflow.gangs.types import (
    GangCompleted,
    GangFailed,
    Progressed,
    RankLost,
    Rescaled,
    Started,
    Vacated,
    backoff_s,
)
from tests.gangs.bench import PYTHON, Bench, order, spec_of
from tests.gangs.fake_rank import FakeRank, Habits
from tests.gangs.inplace import start, step


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
    assert [backoff_s(retry) for retry in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, 8.0]
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


def test_ranks_of_an_earlier_version_are_replaced_together_when_new_ones_are_needed(bench: Bench) -> None:
    """Ranks of two versions cannot form a group: without this, each attempt to grow would fail."""
    old = start(bench, "a0", "a1", "a2")
    for name in old:
        player = bench.engine.players[name]
        assert isinstance(player, FakeRank)
        player.protocol = 0
    bench.turn()
    bench.turn()
    bench.gangs.apply([order(2, "a0", "a1")])  # to shrink, the old ranks need no new one
    bench.hear(Rescaled)
    bench.until(lambda: bench.engine.running("j") == old[:2])
    before = step(bench)
    bench.gangs.apply([order(3, "a0", "a1", "a3")])
    bench.until(lambda: bench.engine.placed("j") == {("a", 0), ("a", 1), ("a", 3)})
    assert not set(old) & set(bench.engine.running("j"))
    bench.until(lambda: step(bench) > before)
    assert not bench.told(RankLost)
