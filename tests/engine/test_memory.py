"""The double passes what any engine must pass, and plays the parts that it is given."""

import signal

import pytest

from powerflow.engine.protocol import RankName, RankSpec, RankState
from powerflow.testing.engine_conformance import EngineConformance, Place, ended, status_of
from powerflow.testing.memory_engine import MemoryCluster, MemoryEngine, Part


class TestMemoryEngine(EngineConformance):
    @pytest.fixture
    def place(self) -> Place:
        stage = MemoryCluster({"n1": 4, "n2": 4})
        return lambda: MemoryEngine(stage)


def rank(number: int, node: str = "n1") -> RankSpec:
    return RankSpec(RankName("g", 0, number), node, ("python", "train.py"))


def test_parts_are_played() -> None:
    stage = MemoryCluster({"n1": 4}, lambda spec: Part(says=b"hi\n", answers={signal.SIGTERM: 0, signal.SIGINT: None}))
    engine = MemoryEngine(stage)
    engine.launch(rank(0))
    stage.write(rank(0).name, b"step 1\n")
    assert engine.log(rank(0).name) == (b"hi\nstep 1\n", 10)
    assert engine.signal(rank(0).name, signal.SIGINT)
    assert status_of(engine, rank(0).name).state is RankState.RUNNING  # type: ignore[union-attr]
    assert engine.signal(rank(0).name, signal.SIGTERM)
    assert ended(engine, rank(0).name).code == 0
    engine.launch(rank(1))
    stage.end(rank(1).name, 17)
    assert ended(engine, rank(1).name).code == 17


def test_a_node_is_lost_with_its_ranks() -> None:
    stage = MemoryCluster({"n1": 4, "n2": 4}, lambda spec: Part())
    engine = MemoryEngine(stage)
    engine.launch(rank(0))
    engine.launch(rank(1, "n2"))
    stage.lose("n2")
    assert ended(engine, rank(1).name).state is RankState.LOST
    assert ended(engine, rank(1).name).code is None
    assert status_of(engine, rank(0).name).state is RankState.RUNNING  # type: ignore[union-attr]
    assert [node.up for node in engine.nodes()] == [True, False]
