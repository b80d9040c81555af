"""Records of gangs, as earlier versions wrote them: a controller that is upgraded goes on with the same ranks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from powerflow.gangs.state_file import GangFailure, GangRecord, RankEntry
from powerflow.gangs.types import GangFailed, Progressed, RankLost, Started
from tests.gangs.bench import Bench, order, spec_of

#: Written before gangs had named states: one rank trains, one is to be launched, and one was told to leave.
WRITTEN = (
    '{"epoch": 2, "number": 1, "generation": 3, "members": ["j.1.0", "j.2.0"], "ranks": {"j.1.0": {"node": "a",'
    ' "gpus": [0], "launched": true}, "j.1.1": {"node": "a", "gpus": [1], "launched": true}, "j.2.0": {"node": "b",'
    ' "gpus": [2], "launched": false}}, "leaving": ["j.1.1"], "ended": ["j.0.0"], "joined": true, "trained_gpus": 2,'
    ' "steps_safe": 40, "port": 29500, "mark": "0badcafe", "left_gpus": 3, "left_s": 12.5, "first_step": 1,'
    ' "gap_s": 0.5, "done": false, "steps": 0, "killed": false, "failure": null}'
)
FAILURE = {"code": -9, "text": "was lost", "rank": "j.1.0", "final": False, "excused": True, "places": [["a", [0, 1]]]}


def load(folder: Path, text: str) -> GangRecord:
    (folder / "j.json").write_text(text, "utf-8")
    return GangRecord.load(folder / "j.json")


def test_a_record_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    record = load(tmp_path, WRITTEN)
    assert record == GangRecord(
        epoch=2,
        number=1,
        generation=3,
        members=["j.1.0", "j.2.0"],
        ranks={
            "j.1.0": RankEntry("a", (0,), True),
            "j.1.1": RankEntry("a", (1,), True),
            "j.2.0": RankEntry("b", (2,), False),
        },
        leaving=["j.1.1"],
        ended=["j.0.0"],
        joined=True,
        trained_gpus=2,
        steps_safe=40,
        port=29500,
        mark="0badcafe",
        left_gpus=3,
        left_s=12.5,
        first_step=1,
        gap_s=0.5,
    )
    record.save(tmp_path / "k.json")
    assert json.loads((tmp_path / "k.json").read_text("utf-8")) == json.loads(WRITTEN)


def test_a_failure_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    record = load(tmp_path, json.dumps(json.loads(WRITTEN) | {"failure": FAILURE, "killed": True}))
    assert record.failure == GangFailure(-9, "was lost", "j.1.0", excused=True, places=(("a", (0, 1)),))
    before = {key: value for key, value in FAILURE.items() if key != "places"}  # of the version before that
    assert load(tmp_path, json.dumps(json.loads(WRITTEN) | {"failure": before})).failure is not None


@pytest.mark.parametrize("rescale", ["in-place", "restart"])
def test_an_upgraded_controller_goes_on_with_the_same_ranks(tmp_path: Path, rescale: str) -> None:
    bench, spec = Bench(tmp_path), spec_of(rescale=rescale)
    bench.gangs.apply([order(1, "a0", "a1", spec=spec)])
    bench.hear(Started)
    names = bench.engine.running()
    path = tmp_path / "gangs" / "j.json"
    now = json.loads(path.read_text("utf-8"))
    assert now.keys() == json.loads(WRITTEN).keys()
    path.write_text(json.dumps(json.loads(WRITTEN) | now), "utf-8")
    bench.events.clear()
    bench.restart(order(1, "a0", "a1", spec=spec))
    for _ in range(20):
        bench.turn()
    assert bench.engine.running() == bench.engine.launches == names
    assert not bench.engine.signals
    assert bench.told(Started) == [Started("j", 1)]
    assert not bench.told(RankLost)
    assert not bench.told(GangFailed)
    assert bool(bench.told(Progressed)) == (rescale == "in-place")
    bench.gangs.close()


def test_a_failure_that_an_earlier_version_wrote_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (tmp_path / "gangs").mkdir()
    ended = {"ranks": {}, "members": [], "leaving": [], "epoch": 1, "failure": FAILURE}
    (tmp_path / "gangs" / "j.json").write_text(json.dumps(json.loads(WRITTEN) | ended), "utf-8")
    bench.restart(order(1, "a0"))
    failed = bench.hear(GangFailed)
    assert (failed.code, failed.text, failed.excused, failed.steps_safe) == (-9, "was lost", True, 40)
    assert failed.places == (("a", (0, 1)),)
    assert not bench.engine.launches
    bench.gangs.close()


def test_every_field_of_the_record_is_in_the_file() -> None:
    fields = [field.name for field in dataclasses.fields(GangRecord)]
    assert [name for name in fields if name != "cut"] == list(json.loads(WRITTEN))


def test_ranks_that_a_gang_goes_on_without_are_kept(tmp_path: Path) -> None:
    record = load(tmp_path, WRITTEN)
    record.set_apart("j.1.1")
    assert (record.leaving, record.members, list(record.cut)) == ([], ["j.1.0", "j.2.0"], ["j.1.1"])
    record.set_apart("j.1.0")
    assert record.members == ["j.2.0"]
    record.save(tmp_path / "k.json")
    assert GangRecord.load(tmp_path / "k.json") == record
    assert record.cut == {"j.1.1": RankEntry("a", (1,), True), "j.1.0": RankEntry("a", (0,), True)}
