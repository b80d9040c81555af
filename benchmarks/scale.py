"""Measures the engine of many machines with light agents and light ranks: how many machines does a controller carry?

    python -m benchmarks.scale [AGENTS] [RANKS]

The agents are real (`NodeAgent`, sealed orders, TCP on this machine), several in each process. Their ranks are virtual
(`MemoryEngine`) and their GPUs silent, so that what is measured is the controller's side: its CPU time, its memory, how
long launches take until the controller knows that they run, and how old the last word of a machine gets. The agents
share this machine's cores with it, so times are upper ends. Each agent takes one of the kernel's inotify instances, of
which a user has 128 unless ``fs.inotify.max_user_instances`` says otherwise: more agents need more of them here. A real
machine has one agent.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from powerflow.agent.node_agent import NodeAgent
from powerflow.engine.cluster.engine import ClusterEngine
from powerflow.engine.cluster.frames import answer_frames
from powerflow.engine.cluster.listen import AgentListener
from powerflow.engine.cluster.rows import node_row
from powerflow.engine.cluster.sealed import AgentSide, JoinToken, own_key
from powerflow.engine.protocol import EngineNode, RankName, RankSpec, RankState
from powerflow.testing.memory_engine import MemoryCluster, MemoryEngine

AGENTS, RANKS, AT_ONCE = 100, 2000, 512
PROCESSES, WATCH_S = 8, 10.0


class SilentDevices:
    """GPUs that never have anything to report."""

    def report(self, since: int = 0) -> dict[str, Any]:
        """Return a report that is never new."""
        return {"at": ""}


async def _agent(folder: Path, name: str, port: int, token: JoinToken) -> None:
    folder.mkdir()
    side = AgentSide(own_key(folder / "key"), token, name)
    node = EngineNode(name, 16)
    about = {"machine": name, "nodes": [node_row(node)], "gpus": [], "limits": [], "notices": []}
    engine = MemoryEngine(MemoryCluster({name: 16}))
    agent = NodeAgent(folder, about, engine, SilentDevices(), side, lambda **_: None)  # type: ignore[arg-type]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(agent.run(), answer_frames(reader, writer, agent.answer))


def agents(folder: Path, names: list[str], port: int, token: JoinToken) -> None:
    """Run some agents in this process, for ever."""

    async def run() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(len(names) + 4))
        await asyncio.gather(*(_agent(folder / name, name, port, token) for name in names))

    asyncio.run(run())


def _until(engine: ClusterEngine, reached: Callable[[], bool], within_s: float = 300.0) -> float:
    began_s = time.monotonic()
    while not reached():
        assert time.monotonic() - began_s < within_s, "it takes too long"
        engine.wait(0.05)
    return time.monotonic() - began_s


def _launch(engine: ClusterEngine, gang: str, names: list[str], count: int) -> tuple[float, float]:
    """Launch ranks in one call; return the seconds of the call, and until all run."""
    specs = [
        RankSpec(RankName(gang, 0, i), names[i % len(names)], ("sleep", "100000"), {"A": "x" * 500}, "/")
        for i in range(count)
    ]
    began_s = time.monotonic()
    engine.launch_all(specs)
    called_s = time.monotonic() - began_s
    _until(engine, lambda: sum(s.state is RankState.RUNNING and s.name.gang == gang for s in engine.ranks()) == count)
    return called_s, time.monotonic() - began_s


def main() -> int:
    """Measure and print."""
    count, ranks = (
        (int(sys.argv[1]) if len(sys.argv) > 1 else AGENTS),
        (int(sys.argv[2]) if len(sys.argv) > 2 else RANKS),
    )
    names = [f"n{i:04d}" for i in range(count)]
    me = psutil.Process()
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        engine = ClusterEngine(home / "controller", home / "mail", term=1)
        listener = AgentListener(engine, "127.0.0.1", 0)
        empty = me.memory_info().rss
        processes = [
            multiprocessing.get_context("spawn").Process(
                target=agents, args=(home, names[i::PROCESSES], listener.port, engine.token), daemon=True
            )
            for i in range(min(PROCESSES, count))
        ]
        for process in processes:
            process.start()
        joined_s = _until(engine, lambda: sum(node.up for node in engine.nodes()) == count)
        joined = me.memory_info().rss
        print(f"{count} agents joined in {joined_s:.1f} s; {(joined - empty) / count / 1024:.0f} KiB each")
        before = time.process_time()
        called_s, all_s = _launch(engine, "many", names, ranks)
        spent_s = time.process_time() - before
        full = me.memory_info().rss
        print(
            f"{ranks} ranks run after {all_s:.2f} s (the call took {called_s:.2f} s, {spent_s:.2f} s of CPU);"
            f" {(full - joined) / ranks / 1024:.1f} KiB each"
        )
        called_s, all_s = _launch(engine, "at-once", names, AT_ONCE)
        print(f"{AT_ONCE} more run after {all_s:.2f} s (the call took {called_s:.2f} s)")
        before, began_s, oldest_s = time.process_time(), time.monotonic(), 0.0
        while time.monotonic() - began_s < WATCH_S:
            now_s = time.time()
            oldest_s = max(oldest_s, *(now_s - node.seen_s for node in engine.nodes()))
            lost = sum(not node.up for node in engine.nodes())
            assert not lost, f"{lost} machines count as unreachable"
            time.sleep(0.1)
        share = (time.process_time() - before) / WATCH_S
        print(f"at rest: {share:.1%} of a core; the oldest word of a machine was {oldest_s:.1f} s old")
        before = time.process_time()
        for _ in range(100):
            engine.nodes()
            engine.ranks()
        print(f"nodes() and ranks() take {(time.process_time() - before) * 10:.2f} ms")
        for process in processes:
            process.kill()
        listener.close()
        engine.close()
    print(f"cores: {os.cpu_count()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
