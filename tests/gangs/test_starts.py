"""The logs that tell the story of a job: those of the first rank of each start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from powerflow.engine.protocol import EngineError
from powerflow.gangs.starts import Start, Starts, read_starts
from powerflow.gangs.state_file import GangRecord, RankEntry
from powerflow.gangs.types import GangFailed, Progressed, RankLost, Rescaled, Started, Vacated
from tests.gangs.bench import Bench, order, spec_of
from tests.gangs.fake_engine import Script

RESTART = spec_of(rescale="restart")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.gangs.close()


def firsts(bench: Bench) -> list[tuple[int, list[str]]]:
    return [(start.number, start.ranks) for start in bench.gangs.starts("j")]


def scripts(bench: Bench) -> None:
    bench.engine.play = lambda spec: Script(1000, line="step {turn}\n")


def test_each_launch_of_a_script_is_a_start(bench: Bench) -> None:
    scripts(bench)
    bench.gangs.apply([order(1, "a0", "a1", spec=RESTART)])
    bench.hear(Started)
    bench.gangs.apply([order(2, "a2", "a3", spec=RESTART)])
    bench.until(lambda: len(bench.told(Started)) == 2)
    assert firsts(bench) == [(1, ["j.1.0"]), (2, ["j.2.0"])]
    bench.restart(order(2, "a2", "a3", spec=RESTART))
    bench.turn()
    assert firsts(bench) == [(1, ["j.1.0"]), (2, ["j.2.0"])]
    bench.engine.end(bench.engine.running()[1], 1)
    bench.hear(GangFailed)
    bench.gangs.apply([order(3, "b0", spec=RESTART)])
    bench.until(lambda: 3 in [event.epoch for event in bench.told(Started)])
    assert firsts(bench) == [(1, ["j.1.0"]), (2, ["j.2.0"]), (3, ["j.3.0"])]


def test_two_launches_in_one_epoch_are_two_starts(bench: Bench) -> None:
    """A node falls silent for too long: the ranks are stopped, and launched again when it answers."""
    scripts(bench)
    bench.gangs.apply([order(1, "a0", "b0", spec=RESTART)])
    bench.hear(Started)
    bench.engine.cut("b")
    bench.until(lambda: not bench.engine.running(), turns=1000)
    bench.engine.boot("b")
    bench.until(lambda: len(bench.engine.running()) == 2)
    assert firsts(bench) == [(1, ["j.1.0"]), (2, ["j.1.2"])]


def test_what_never_started_is_no_start(bench: Bench) -> None:
    bench.engine.refusals = [EngineError("no such program")]
    bench.gangs.apply([order(1, "a0", spec=RESTART)])
    bench.hear(GangFailed)
    assert firsts(bench) == []
    bench.gangs.apply([order(2, "a0", spec=RESTART)])
    bench.hear(Started)
    assert firsts(bench) == [(1, ["j.2.0"])]


def test_an_in_place_job_is_one_start_while_a_rank_lives(bench: Bench) -> None:
    bench.gangs.apply([order(1, "a0", "a1")])
    bench.hear(Progressed)
    bench.gangs.apply([order(2, "a0", "a1", "b0")])  # grows: the main rank stays
    bench.hear(Rescaled)
    assert firsts(bench) == [(1, ["j.1.0"])]
    bench.engine.end(bench.engine.running()[0], -9)  # the main rank is lost: the next one is main
    bench.hear(RankLost)
    bench.until(lambda: len(bench.engine.running()) == 3)
    assert firsts(bench) == [(1, ["j.1.0", "j.1.1"])]
    bench.gangs.apply([order(3)])  # preempted: all save and leave
    bench.hear(Vacated)
    bench.gangs.apply([order(4, "b1", "b2")])
    bench.until(lambda: 4 in [event.epoch for event in bench.told(Started)])
    assert firsts(bench) == [(1, ["j.1.0", "j.1.1"]), (2, ["j.4.0"])]


def test_the_main_rank_that_leaves_has_a_successor_in_the_same_start(bench: Bench) -> None:
    bench.gangs.apply([order(1, "a0", "a1")])
    bench.hear(Progressed)
    bench.gangs.apply([order(2, "a1", "b0")])
    bench.until(lambda: bench.engine.placed("j") == {("a", 1), ("b", 0)} and len(bench.engine.running()) == 2)
    assert firsts(bench) == [(1, ["j.1.0", "j.1.1"])]


def test_a_job_of_an_earlier_version_has_one_start(bench: Bench) -> None:
    scripts(bench)
    bench.gangs.apply([order(1, "a0", "a1", spec=RESTART)])
    bench.hear(Started)
    (bench.directory / "gangs" / "j.attempts.json").unlink()
    bench.restart(order(1, "a0", "a1", spec=RESTART))
    assert firsts(bench) == [(1, ["j.1.0"])]


def test_all_is_forgotten_with_the_job(bench: Bench) -> None:
    bench.gangs.apply([order(1, "a0")])
    bench.hear(Started)
    bench.gangs.kill("j")
    bench.hear(Vacated)
    bench.gangs.forget("j")
    assert firsts(bench) == []
    assert not [*(bench.directory / "gangs").iterdir()]


def test_first_ranks_are_kept_longer_than_others(tmp_path: Path) -> None:
    """Of jobs with more ranks than logs are kept, the logs of earlier starts would be lost without this."""
    starts = Starts(tmp_path / "j.attempts.json", most=4)
    ended: list[str] = []
    for epoch in range(1, 5):
        names = [f"j.{epoch}.{number}" for number in range(6)]
        record = GangRecord(members=names, ranks={name: RankEntry("a", (0,)) for name in names})
        starts.note(record, started=ended)
        kept = starts.keep([*ended, *reversed(names)])
        starts.forget([name for name in ended if name not in kept])
        ended = kept
    assert ended == ["j.3.0", "j.4.2", "j.4.1", "j.4.0"]
    assert read_starts(tmp_path / "j.attempts.json") == [Start(3, ["j.3.0"]), Start(4, ["j.4.0"])]


def test_few_ranks_are_kept_as_they_ended(tmp_path: Path) -> None:
    starts = Starts(tmp_path / "j.attempts.json", most=3)
    assert starts.keep(["a", "b"]) == ["a", "b"]
    assert starts.keep(["a", "b", "c", "d"]) == ["b", "c", "d"]
