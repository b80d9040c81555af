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
from powerflow.engine.protocol import EngineError, RankName, RankSpec
from powerflow.engine.shells import NoShell, ShellSpec, Terminal
from powerflow.testing.engine_conformance_process import ProcessConformance, alive
from tests.agent.here import run_here
from tests.engine.shells import Talk, ran
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
            self.start_agent()
        asyncio.run_coroutine_threadsafe(
            keep_connected(engine, self.home / "agent" / "agent.sock", lambda: None), engine.loop
        )
        deadline_s = time.monotonic() + 30.0
        while not any(node.up for node in engine.nodes()):
            assert time.monotonic() < deadline_s, engine.notices()
            engine.wait(0.05)
        return engine

    def start_agent(self) -> None:
        self.agent = CONTEXT.Process(target=run_here, args=(self.home / "agent", self.opened[0].token, NODES))
        self.agent.start()

    def end_agent(self, number: int) -> None:
        """End the agent with a signal. Its ranks run on."""
        assert self.agent is not None
        assert self.agent.pid is not None
        os.kill(self.agent.pid, number)
        self.agent.join()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[OneMachine]:
    there = OneMachine(tmp_path)
    yield there
    for engine in there.opened:
        engine.close()
    if there.agent is not None:
        there.end_agent(signal.SIGTERM)
        LocalEngine(tmp_path / "agent" / "ranks").shutdown(kill=True)


class TestClusterEngine(ProcessConformance):
    """`place` comes from this module."""


class TestShells:
    """Shells beside the ranks of an agent, by orders of its controller."""

    RANK = RankName("g", 0, 0)

    @pytest.fixture
    def engine(self, place: OneMachine) -> ClusterEngine:
        engine = place()
        engine.launch(RankSpec(self.RANK, "n1", ("sleep", "600"), {"PATH": "/usr/bin:/bin", "TOKEN": "t7"}, "/"))
        return engine

    def test_commands_and_terminals(self, engine: ClusterEngine) -> None:
        async def talk() -> None:
            given = bytes(range(256)) * 1000
            done = await ran(engine.shells, "n1", self.RANK, "sh", "-c", "cat; echo $TOKEN >&2; exit 3", stdin=given)
            assert done == (3, given, b"t7\n")
            shell = await Talk(engine.shells, "n1", self.RANK).open("sh", terminal=Terminal("xterm", 30, 100))
            await shell.send(b"PS1='> '; stty size\r")
            await shell.says(b"30 100\r\n> ")
            await engine.shells.resize(shell.key, 31, 101)
            await shell.send(b"stty size; exit 4\r")
            await shell.says(b"31 101\r\n")
            assert (await shell.ended()).code == 4
            with pytest.raises(NoShell):
                await engine.shells.read(shell.key, 0, 0.0)
            with pytest.raises(EngineError, match=r"rank h\.0\.0 does not run any more"):
                await engine.shells.open("other", "n1", ShellSpec(RankName("h", 0, 0), ("true",)))
            with pytest.raises(EngineError, match="there is no node 'n7'"):
                await engine.shells.open("other", "n7", ShellSpec(self.RANK, ("true",)))

        asyncio.run(talk())

    def test_a_node_that_is_away_is_named_and_its_next_agent_knows_of_no_shell(
        self, place: OneMachine, engine: ClusterEngine
    ) -> None:
        async def lose_the_agent() -> None:
            shell = await Talk(engine.shells, "n1", self.RANK).open("sh", "-c", "echo $$; cat")
            await shell.until(lambda: shell.out.endswith(b"\n"))
            place.end_agent(signal.SIGKILL)
            with pytest.raises(EngineError, match="n1 does not answer"):
                await engine.shells.read(shell.key, shell.last.number, 0.1)
            deadline_s = time.monotonic() + 60.0
            while alive(int(shell.out)) and time.monotonic() < deadline_s:
                await asyncio.sleep(0.01)
            assert not alive(int(shell.out)), "it is hung up, because nobody has the other end of its files"
            place.start_agent()
            while time.monotonic() < deadline_s:
                try:
                    await engine.shells.read(shell.key, shell.last.number, 0.1)
                except NoShell:
                    break
                except EngineError:
                    await asyncio.sleep(0.05)
            assert (await ran(engine.shells, "n1", self.RANK, "true")).code == 0, "the rank runs on"

        asyncio.run(lose_the_agent())

    def test_the_shells_of_an_earlier_controller_are_hung_up(self, engine: ClusterEngine) -> None:
        """As when a controller was killed: the next one has a higher term."""

        async def lead_again() -> None:
            shell = await Talk(engine.shells, "n1", self.RANK).open("cat")
            engine.lead(2)
            engine.run(_drop_links(engine))
            deadline_s = time.monotonic() + 60.0
            while True:
                assert time.monotonic() < deadline_s
                try:
                    await engine.shells.read(shell.key, 0, 0.1)
                except NoShell:
                    return
                except EngineError:
                    await asyncio.sleep(0.05)

        asyncio.run(lead_again())


async def _drop_links(engine: ClusterEngine) -> None:
    engine._sessions.close()
