"""The double passes what any engine must pass, and plays the parts that it is given."""

import signal

import pytest

from powerflow.engine.protocol import EngineError, EngineNode, Fenced, RankName, RankSpec, RankState
from powerflow.testing.bed import Bed
from powerflow.testing.engine_conformance import EngineConformance, Place, ended, status_of
from powerflow.testing.engine_conformance_nodes import MultiNodeConformance
from powerflow.testing.memory_engine import MemoryCluster, MemoryEngine, Part


class TestMemoryEngine(EngineConformance):
    @pytest.fixture
    def place(self) -> Place:
        stage = MemoryCluster({"n1": 4, "n2": 4})
        return lambda: MemoryEngine(stage)


class TestSeveralNodes(MultiNodeConformance):
    @pytest.fixture
    def bed(self) -> Bed:
        stage = MemoryCluster({"n1": 4, "n2": 4, "n3": 4})
        return Bed(
            lambda: MemoryEngine(stage),
            cut=stage.cut,
            mend=stage.mend,
            crash=stage.crash,
            boot=stage.boot,
            kill_agent=stage.kill_agent,
            start_agent=stage.start_agent,
            delay=stage.delay,
            fence_of=stage.fence_of,
            add=lambda name: stage.add(name, 4),
            leave=stage.leave,
        )


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


@pytest.fixture
def stage() -> MemoryCluster:
    return MemoryCluster({"n1": 4, "n2": 4}, lambda spec: Part())


def state(engine: MemoryEngine, number: int) -> RankState:
    status = status_of(engine, rank(number).name)
    assert status is not None
    return status.state


def test_a_node_that_is_cut_keeps_its_ranks(stage: MemoryCluster) -> None:
    engine = MemoryEngine(stage)
    engine.launch(rank(0))
    before = engine.launch(rank(1, "n2"))
    ends = engine.launch(rank(2, "n2"))
    stage.cut("n2")
    assert [state(engine, number) for number in range(3)] == [
        RankState.RUNNING,
        RankState.UNREACHABLE,
        RankState.UNREACHABLE,
    ]
    assert [node.up for node in engine.nodes()] == [True, False]
    stage.end(ends.name, 3)
    for ask in (
        lambda: engine.signal(before.name, signal.SIGTERM),
        lambda: engine.log(before.name),
        lambda: engine.check(rank(3, "n2")),
        lambda: engine.launch(rank(3, "n2")),
    ):
        with pytest.raises(EngineError, match="n2 does not answer") as raised:
            ask()
        assert raised.value.retry
    engine.forget(before.name)  # may run: it is kept
    stage.mend("n2")
    assert status_of(engine, before.name) == before
    assert ended(engine, ends.name).code == 3


def test_a_node_that_crashed_loses_its_ranks_when_it_is_up_again(stage: MemoryCluster) -> None:
    engine = MemoryEngine(stage)
    engine.launch(rank(1, "n2"))
    first = engine.nodes()[1].incarnation
    stage.crash("n2")
    assert state(engine, 1) is RankState.UNREACHABLE
    assert stage.running() == []
    stage.boot("n2")
    end = ended(engine, rank(1).name)
    assert (end.state, end.code, end.rebooted) == (RankState.LOST, None, True)
    assert engine.nodes()[1].up
    assert engine.nodes()[1].incarnation != first


def test_ranks_outlive_the_agent_of_their_node(stage: MemoryCluster) -> None:
    engine = MemoryEngine(stage)
    before = engine.launch(rank(1, "n2"))
    first = engine.nodes()[1].incarnation
    stage.kill_agent("n2")
    assert state(engine, 1) is RankState.UNREACHABLE
    stage.start_agent("n2")
    assert status_of(engine, before.name) == before
    assert engine.nodes()[1].incarnation != first


def test_ranks_of_a_node_declared_off_are_ended_when_it_answers(stage: MemoryCluster) -> None:
    engine = MemoryEngine(stage)
    engine.launch(rank(1, "n2"))
    for node in ("n2", "n9"):
        with pytest.raises(EngineError):
            engine.declare_off(node)
    stage.cut("n2")
    engine.declare_off("n2")
    assert state(engine, 1) is RankState.LOST
    assert [status.name for status in stage.running()] == [rank(1).name]
    stage.mend("n2")
    assert state(engine, 1) is RankState.LOST
    assert stage.running() == []


def test_a_slow_node_keeps_no_launch_waiting(stage: MemoryCluster) -> None:
    engine = MemoryEngine(stage)
    stage.delay("n2", 3600.0)
    found = engine.launch_all([rank(number, "n2") for number in range(512)])
    assert {status.state for status in found} == {RankState.STARTING}
    assert stage.starts == []
    stage.cut("n2")
    assert state(engine, 0) is RankState.UNREACHABLE
    engine.fence("g", 1)
    stage.mend("n2")
    stage.delay("n2", 0.0)
    assert state(engine, 0) is RankState.NOT_STARTED  # the fence was heard first
    assert stage.starts == []
    with pytest.raises(Fenced):
        engine.launch_all([RankSpec(RankName("g", 1, 0), "n2", ("x",)), rank(0, "n2")])
    assert RankName("g", 1, 0) not in {status.name for status in engine.ranks()}


def test_a_batch_tells_of_each_rank(stage: MemoryCluster) -> None:
    engine = MemoryEngine(stage)
    stage.cut("n2")
    bad = RankSpec(RankName("g", 0, 2), "n1", ())
    runs, waits, fails = engine.launch_all([rank(0), rank(1, "n2"), bad])
    assert [each.state for each in (runs, waits, fails)] == [RankState.RUNNING] + 2 * [RankState.NOT_STARTED]
    assert [each.retry for each in (waits, fails)] == [True, False]
    assert waits.why == "node n2 does not answer"
    stage.mend("n2")
    again = engine.launch_all([rank(0), rank(1, "n2")])
    assert again[0] == runs
    assert again[1].state is RankState.RUNNING


def test_nodes_join_and_leave(stage: MemoryCluster) -> None:
    engine = MemoryEngine(stage)
    stage.add("n3", EngineNode("n3", 2, address="10.0.0.3", interface="eth0", labels={"rack": "r2"}))
    assert engine.nodes()[2].labels == {"rack": "r2"}
    engine.launch(rank(0, "n3"))
    engine.signal(rank(0).name, signal.SIGKILL)
    stage.leave("n3")
    assert [node.name for node in engine.nodes()] == ["n1", "n2"]
    assert ended(engine, rank(0).name).code == -signal.SIGKILL
