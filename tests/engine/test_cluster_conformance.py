"""The engine of many machines passes what any engine must pass, with one agent on this machine."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from powerflow.cluster.spec import Node
from powerflow.engine.cluster.engine import ClusterEngine
from powerflow.engine.cluster.listen import keep_connected
from powerflow.engine.local import LocalEngine
from powerflow.testing.engine_conformance_process import ProcessConformance
from tests.agent.here import run_here
from tests.processes import CONTEXT

NODES = [Node(i, name, "A100", 4, "rack-0") for i, name in enumerate(("n1", "n2"))]


class OneMachine:
    """A controller's folder, the folder of an agent that listens on a socket, and every engine opened over them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.opened: list[ClusterEngine] = []
        self.agent: BaseProcess | None = None

    def __call__(self) -> ClusterEngine:
        engine = ClusterEngine(self.home / "controller", self.home / "mail", term=1)
        self.opened.append(engine)
        if self.agent is None:
            self.agent = CONTEXT.Process(target=run_here, args=(self.home / "agent", engine.token, NODES))
            self.agent.start()
        asyncio.run_coroutine_threadsafe(
            keep_connected(engine, self.home / "agent" / "agent.sock", lambda: None), engine.loop
        )
        deadline_s = time.monotonic() + 30.0
        while not any(node.up for node in engine.nodes()):
            assert time.monotonic() < deadline_s, engine.notices()
            engine.wait(0.05)
        return engine


@pytest.fixture
def place(tmp_path: Path) -> Iterator[OneMachine]:
    there = OneMachine(tmp_path)
    yield there
    for engine in there.opened:
        engine.close()
    if there.agent is not None:
        assert there.agent.pid is not None
        os.kill(there.agent.pid, signal.SIGTERM)
        there.agent.join()
        LocalEngine(tmp_path / "agent" / "ranks").shutdown(kill=True)


class TestClusterEngine(ProcessConformance):
    """`place` comes from this module."""
