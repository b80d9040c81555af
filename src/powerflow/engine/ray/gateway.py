"""Carry messages between a controller and the agents on the nodes of a Ray cluster, in a process of its own.

Ray ends every process that has joined a cluster about a minute after the cluster's GCS is lost, at once and without an
orderly end. So the controller does not join: this process does, and the controller starts it again when it has ended
(`powerflow.engine.ray.membership`).

Ray says which machines there are, starts an actor on each, and carries messages. Everything else is the agents': ranks
are children of the agents, and no actor, raylet or GCS that ends takes a rank with it. That Ray calls a node dead says
only that no message reaches it. The controller finds this out by itself, from the silence of the agent.

Only Ray's public Core API is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from powerflow.engine.cluster.frames import answer_frames, write_frame
from powerflow.engine.cluster.sessions import LAUNCH_S
from powerflow.engine.local.process import hide_memory
from powerflow.engine.ray.relay import Relay

#: How often Ray is asked for its nodes, seconds.
LOOK_S = 1.0
#: Wait before a link that has ended is made again, seconds.
LINK_AGAIN_S = 0.5
#: Most seconds until an actor runs, before operators are told.
PLACED_S = 10.0
#: Longest wait for the answer of an agent, longer than that of any order.
ANSWER_S = LAUNCH_S + 5.0
#: Seconds for an orderly end.
ENDING_S = 5.0
#: Namespace of the actors.
NAMESPACE = "powerflow"


class Gateway:
    """Keep a link between the controller and the agent of each Ray node that has GPUs.

    Args:
        path: Socket on which the controller takes links.
        directory, arguments: How agents are started, see `powerflow.engine.ray.membership.RayAgents`.
        token: Join token of the agents, as text.
        says: Where the controller reads notices, one JSON object a line.
    """

    def __init__(self, path: str, directory: str, arguments: list[str], token: str, says: Any) -> None:
        self._path, self._directory, self._arguments, self._token = path, directory, arguments, token
        self._says = says
        self._serving: dict[str, asyncio.Task[None]] = {}

    def say(self, **words: object) -> None:
        """Tell the controller something."""
        print(json.dumps(words), file=self._says, flush=True)

    async def follow(self) -> None:
        """Follow the nodes of Ray, until this process is no more a part of it."""
        loop, own = asyncio.get_running_loop(), ray.get_runtime_context().get_node_id()
        while True:
            nodes = await loop.run_in_executor(None, _alive)
            if all(node["NodeID"] != own for node in nodes):
                return  # the raylet of this machine was lost: the next process joins through its next raylet
            for node in nodes:
                task = self._serving.get(node["NodeID"])
                if node["Resources"].get("GPU", 0) > 0 and (task is None or task.done()):
                    self._serving[node["NodeID"]] = loop.create_task(self._serve(node))
            await asyncio.sleep(LOOK_S)

    async def _serve(self, node: dict[str, Any]) -> None:
        """Keep a link to the agent of one node, as long as Ray has the node."""
        node_id, what = node["NodeID"], f"agent of Ray node {node['NodeManagerHostname']}"
        try:
            actor = await asyncio.get_running_loop().run_in_executor(None, self._actor, node)
            placed = asyncio.ensure_future(actor.__ray_ready__.remote())
            while not (await asyncio.wait([placed], timeout=PLACED_S))[0]:
                self.say(note=what, why="Ray does not start its actor; do other programs of Ray use the node's GPUs?")
            placed.result()
            while await asyncio.get_running_loop().run_in_executor(None, _has, node_id):
                with contextlib.suppress(OSError):
                    await self._link(actor, what)
                await asyncio.sleep(LINK_AGAIN_S)
        except ray.exceptions.RayError as error:  # with the next look, the actor is made again
            self.say(note=what, why=_words(error))

    async def _link(self, actor: Any, what: str) -> None:
        """Give the controller a link to an actor, until the controller or Ray ends it."""
        reader, writer = await asyncio.open_unix_connection(self._path)

        async def answer(payload: bytes) -> bytes:
            try:
                async with asyncio.timeout(ANSWER_S):
                    return bytes(await actor.request.remote(payload, ANSWER_S))
            except (ray.exceptions.RayError, TimeoutError) as error:
                self.say(note=what, why=_words(error))
                writer.close()  # which ends the link
                return b""

        write_frame(writer, 0, what.encode())
        await answer_frames(reader, writer, answer)

    def _actor(self, node: dict[str, Any]) -> Any:
        """Return the actor of a node. It is made once, and found again by a later controller."""
        node_id = node["NodeID"]
        where = ["--name", node["NodeManagerHostname"], "--address", node["NodeManagerAddress"]]
        command = ["-c", "from powerflow.cli.main import run; run()", "agent", *where, *self._arguments]
        options = {
            "name": f"agent-{node_id}",
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "get_if_exists": True,
            "num_cpus": 0,
            "num_gpus": node["Resources"].get("GPU", 0),  # so that no other program of Ray uses them
            "max_restarts": -1,
            "max_task_retries": 0,
            "max_concurrency": 64,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False),
        }
        made = ray.remote(Relay).options(**options)
        return made.remote(self._directory, command, self._token)


def _alive() -> list[dict[str, Any]]:
    """Return the nodes that Ray has."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def _has(node_id: str) -> bool:
    return any(node["NodeID"] == node_id for node in _alive())


def _words(error: Exception) -> str:
    return (str(error).splitlines() or ["Ray does not answer"])[0]


def _connect(address: str | None, gpus: int | None) -> str:
    """Join the Ray cluster, or start one of this machine alone. Return why that is not possible, or ""."""
    options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options |= {"include_dashboard": False, "num_gpus": gpus}
    try:
        ray.init(address=address or "local", **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        return _words(error)
    return ""


def main() -> None:
    """Join Ray as the first line of stdin says, and carry messages until stdin ends or Ray is lost."""
    hide_memory()
    says = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever Ray prints
    given = json.loads(sys.stdin.readline())
    gateway = Gateway(given["path"], given["directory"], given["arguments"], given["token"], says)
    if why := _connect(given["address"], given["gpus"]):
        gateway.say(refused=why)
        return
    for number in (signal.SIGTERM, signal.SIGINT):  # the controller needs this process until its own end
        signal.signal(number, signal.SIG_IGN)
    gateway.say(joined=True)
    asyncio.run(_until_told(gateway))


async def _until_told(gateway: Gateway) -> None:
    loop, work = asyncio.get_running_loop(), asyncio.create_task(gateway.follow())

    def wait() -> None:
        sys.stdin.read()
        threading.Timer(ENDING_S, os._exit, [0]).start()
        loop.call_soon_threadsafe(work.cancel)

    threading.Thread(target=wait, daemon=True).start()
    try:
        await work
    except (ray.exceptions.RayError, ConnectionError, RuntimeError) as error:
        gateway.say(refused=_words(error))
    except asyncio.CancelledError:
        pass
    threading.Timer(ENDING_S, os._exit, [0]).start()
    ray.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
