"""What the engine of many machines believes of a machine whose link has ended."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nacl.public import PrivateKey

from powerflow.engine.cluster import sessions
from powerflow.engine.cluster.engine import ClusterEngine
from powerflow.engine.cluster.listen import serve_shown
from powerflow.engine.cluster.rows import node_row
from powerflow.engine.cluster.sealed import AgentSide
from powerflow.engine.protocol import EngineError, EngineNode, RankName, RankSpec, RankState

_starts = itertools.count()
KEY = PrivateKey.generate()


class Agent:
    """A link to an agent without ranks and GPUs; a new one is a new start of the agent."""

    what = "test"

    def __init__(self, engine: ClusterEngine) -> None:
        self._side = AgentSide(KEY, engine.token, f"boot.{next(_starts)}")
        self._end = asyncio.Event()

    async def request(self, payload: bytes, timeout_s: float) -> bytes:
        if self._end.is_set():
            raise ConnectionResetError("the link has ended")
        if self._side.greets(payload):
            return self._side.answer_hello(payload)
        session, number, order = self._side.open(payload)
        answers: dict[str, dict[str, Any]] = {
            "describe": {
                "machine": "m",
                "nodes": [node_row(EngineNode("m", 1))],
                "gpus": [],
                "limits": [],
                "notices": [],
                "interpreter": "",
                "user": 0,
                "time_s": time.time(),
            },
            "changes": {"version": 1, "ranks": [], "gone": [], "letters": []},
            "launch": {
                "ranks": [{"name": "7.1.0", "node": "m", "state": "exited", "code": 0}],
                "fences": {},
                "devices": {"at": "a.1", "age_s": 0.0},
            },
            # as agents of an earlier version answer an order that they do not know
            "log_offset": {"error": "this agent's version does not know the order 'log_offset'", "retry": False},
        }
        await asyncio.sleep(0.02)
        return self._side.seal(session, number, answers.get(order["do"], {}))

    async def closed(self) -> None:
        await self._end.wait()

    def close(self) -> None:
        self._end.set()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ClusterEngine]:
    engine = ClusterEngine(tmp_path / "controller", tmp_path / "mail", term=1)
    yield engine
    engine.close()


def dial(engine: ClusterEngine) -> Agent:
    """Let an agent start and dial."""

    async def made() -> Agent:
        return Agent(engine)

    agent = engine.run(made())
    asyncio.run_coroutine_threadsafe(engine.serve(agent), engine.loop)
    return agent


def is_up(engine: ClusterEngine) -> bool:
    return any(node.up for node in engine.nodes())


def until(engine: ClusterEngine, up: bool, within_s: float) -> float:
    """Wait until the machine answers, or does not; return the seconds."""
    began_s = time.monotonic()
    while is_up(engine) is not up:
        assert time.monotonic() < began_s + within_s
        time.sleep(0.01)
    return time.monotonic() - began_s


def test_a_machine_whose_agent_is_started_anew_is_not_lost(
    engine: ClusterEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "SILENT_S", 2.0)
    agent = dial(engine)
    until(engine, True, 10.0)
    for _ in range(3):
        engine.loop.call_soon_threadsafe(agent.close)
        end_s = time.monotonic() + 0.5
        while time.monotonic() < end_s:
            assert is_up(engine)
            time.sleep(0.01)
        agent = dial(engine)
    end_s = time.monotonic() + 3.0
    while time.monotonic() < end_s:  # what was planned when the links ended has no effect
        assert is_up(engine)
        time.sleep(0.01)


def test_a_machine_whose_agent_does_not_come_back_is_lost_in_time(
    engine: ClusterEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "SILENT_S", 1.0)
    agent = dial(engine)
    until(engine, True, 10.0)
    engine.loop.call_soon_threadsafe(agent.close)
    assert 0.5 < until(engine, False, 10.0) < 5.0
    dial(engine)
    until(engine, True, 10.0)


def test_the_notice_of_a_refused_agent_goes_when_it_has_joined(engine: ClusterEngine) -> None:
    engine.refused("agent at 10.0.0.9", "its join token is that of another controller")

    async def made() -> Agent:
        return Agent(engine)

    agent = engine.run(made())
    engine.begin(serve_shown(engine, agent, "agent at 10.0.0.9"))
    deadline_s = time.monotonic() + 10.0
    while engine.notices():
        assert time.monotonic() < deadline_s, engine.notices()
        time.sleep(0.01)
    assert is_up(engine)


def test_a_rank_that_ends_at_once_brings_the_report_with_its_energy(engine: ClusterEngine) -> None:
    dial(engine)
    until(engine, True, 10.0)
    assert engine.devices.report("m") is None
    engine.launch_all([RankSpec(RankName("7", 1, 0), "m", ("true",), {}, "/tmp")])
    deadline_s = time.monotonic() + 10.0
    while not any(status.state is RankState.EXITED for status in engine.ranks()):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    report = engine.devices.report("m")
    assert report is not None
    assert report["at"] == "a.1"


def test_an_agent_that_knows_no_times_of_output_gives_no_wrong_answer(engine: ClusterEngine) -> None:
    dial(engine)
    until(engine, True, 10.0)
    name = RankName("7", 1, 0)
    with pytest.raises(KeyError):
        engine.log_offset(name, 0.0)
    engine.launch_all([RankSpec(name, "m", ("true",), {}, "/tmp")])
    with pytest.raises(EngineError, match="this agent's version does not know the order 'log_offset'") as refused:
        engine.log_offset(name, 0.0)
    assert not refused.value.retry
