"""Ranks whose processes another scheduler starts: they hold GPUs, and nothing else."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from powerflow.agent.external import EXTERNAL_JOB, ExternalRanks
from powerflow.agent.slurm_notes import SlurmNotes
from powerflow.engine.protocol import EngineError, Fenced, RankName, RankSpec, RankState
from powerflow.testing.memory_cluster import MemoryCluster
from powerflow.testing.memory_engine import MemoryEngine

NODES = {"n0": 4}


@dataclass(frozen=True)
class Told:
    since_s: float


class FakeNotes:
    """Notes that a test writes."""

    def __init__(self) -> None:
        self.now: dict[str, Told] = {}
        self.lines: list[str] = []
        self._seen: object = None

    def notices(self) -> list[str]:
        return self.lines

    def changed(self) -> bool:
        before, self._seen = self._seen, (dict(self.now), list(self.lines))
        return before != self._seen

    def look(self) -> Mapping[str, Told]:
        return dict(self.now)


def external(number: int = 0, job: str = "slurm:4711@100", epoch: int = 1) -> RankSpec:
    return RankSpec(RankName("7", epoch, number), "n0", (), {EXTERNAL_JOB: job}, "", gpus=(0,))


def ranks(path: Path, notes: FakeNotes | SlurmNotes | None = None, boot: str = "a") -> ExternalRanks:
    return ExternalRanks(
        MemoryEngine(MemoryCluster(NODES)), path / "external.json", notes, boot=boot, clock=lambda: 50.0
    )


def states(engine: ExternalRanks) -> dict[str, RankState]:
    return {str(rank.name): rank.state for rank in engine.ranks()}


def test_it_runs_from_its_launch_to_a_signal(tmp_path: Path) -> None:
    engine = ranks(tmp_path)
    first = engine.launch(external())
    assert (first.state, first.pid, first.started_s) == (RankState.RUNNING, 0, 50.0)
    assert engine.launch(external()) == first
    assert engine.wait(0.0)
    assert engine.signal(first.name, signal.SIGTERM)
    assert not engine.signal(first.name, signal.SIGKILL)
    (ended,) = engine.ranks()
    assert (ended.state, ended.code, ended.ended_s) == (RankState.EXITED, 0, 50.0)
    engine.forget(first.name)
    assert engine.ranks() == []


def test_it_outlives_its_agent_but_not_a_boot(tmp_path: Path) -> None:
    ranks(tmp_path).launch(external())
    assert states(ranks(tmp_path)) == {"7.1.0": RankState.RUNNING}
    (rank,) = ranks(tmp_path, boot="b").ranks()
    assert (rank.state, rank.rebooted) == (RankState.EXITED, True)


def test_an_earlier_placement_is_refused(tmp_path: Path) -> None:
    engine = ranks(tmp_path)
    engine.launch(external(epoch=3))
    engine.fence("7", 4)
    with pytest.raises(Fenced):
        engine.launch(external(number=1, epoch=3))
    with pytest.raises(Fenced):
        ranks(tmp_path).launch(external(number=1, epoch=3))
    assert engine.launch(external(epoch=4)).state is RankState.RUNNING


def test_others_are_the_engines(tmp_path: Path) -> None:
    engine = ranks(tmp_path)
    own = engine.launch(RankSpec(RankName("8", 1, 0), "n0", ("sleep", "60"), gpus=(1,)))
    engine.launch(external())
    assert set(states(engine)) == {"7.1.0", "8.1.0"}
    engine.signal(own.name, signal.SIGKILL)
    assert states(engine)["7.1.0"] is RankState.RUNNING
    assert engine.log(RankName("7", 1, 0)) == (b"", 0)


def test_a_full_disk_starts_nothing(tmp_path: Path) -> None:
    engine = ranks(tmp_path / "missing")
    with pytest.raises(EngineError, match="cannot be written"):
        engine.launch(external())
    assert engine.ranks() == []


def test_it_ends_with_the_note_of_its_job(tmp_path: Path) -> None:
    notes = FakeNotes()
    engine = ranks(tmp_path, notes)
    engine.launch(external())
    engine.wait(0.0)  # no hooks are installed, or the Prolog has not run yet
    assert states(engine) == {"7.1.0": RankState.RUNNING}
    notes.now = {"4711": Told(10.0), "4712": Told(10.0)}
    engine.wait(0.0)
    assert states(engine) == {"7.1.0": RankState.RUNNING}
    del notes.now["4711"]
    assert ranks(tmp_path, notes).wait(0.0)  # another agent finds that the note is gone
    assert states(ranks(tmp_path, notes)) == {"7.1.0": RankState.EXITED}


def test_each_trouble_with_notes_is_told_once(tmp_path: Path) -> None:
    notes, told = FakeNotes(), list[str]()
    engine = ExternalRanks(MemoryEngine(MemoryCluster(NODES)), tmp_path / "external.json", notes, tell=told.append)
    notes.lines = ["it cannot be read"]
    engine.wait(0.0)
    engine.wait(0.0)
    assert told == ["it cannot be read"]


def test_the_note_of_a_later_start_ends_it_too(tmp_path: Path) -> None:
    notes = FakeNotes()
    engine = ranks(tmp_path, notes)
    engine.launch(external())
    notes.now = {"4711": Told(10.0)}
    engine.wait(0.0)
    notes.now = {"4711": Told(90.0)}  # it was requeued, and runs again
    engine.wait(0.0)
    assert states(engine) == {"7.1.0": RankState.EXITED}


@pytest.mark.parametrize("looks", [0, 1])
def test_it_ends_with_a_note_that_was_there_before_it(tmp_path: Path, looks: int) -> None:
    notes = FakeNotes()
    notes.now = {"4711": Told(10.0)}
    engine = ranks(tmp_path, notes)
    engine.wait(0.0)
    engine.launch(external())
    for _ in range(looks):
        engine.wait(0.0)
    notes.now = {}
    engine.wait(0.0)
    assert states(engine) == {"7.1.0": RankState.EXITED}


def test_it_ends_with_a_note_that_comes_a_moment_later(tmp_path: Path) -> None:
    notes = FakeNotes()
    engine = ranks(tmp_path, notes)
    engine.launch(external())
    engine.wait(0.0)
    notes.now = {"4711": Told(10.0)}
    engine.wait(0.0)
    notes.now = {}
    engine.wait(0.0)
    assert states(engine) == {"7.1.0": RankState.EXITED}
