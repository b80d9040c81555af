"""Follow the nodes of a Ray cluster, and give an engine a link to the agent of each.

Ray says which machines there are, starts an actor on each, and carries messages. Everything else is the agents': ranks
are children of the agents, and no actor, raylet or GCS that ends takes a rank with it. That Ray calls a node dead says
only that no message reaches it. The engine finds this out by itself, from the silence of the agent.

Only Ray's public Core API is used.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from powerflow.engine.cluster.engine import ClusterEngine
from powerflow.engine.cluster.sealed import NotGenuine
from powerflow.engine.protocol import EngineError
from powerflow.engine.ray.relay import Relay
from powerflow.errors import InputError

#: How often Ray is asked for its nodes, seconds.
LOOK_S = 1.0
#: Wait before a link that has ended is made again, seconds.
AGAIN_S = 0.5
#: Namespace of the actors.
NAMESPACE = "powerflow"


@dataclass(frozen=True, slots=True)
class RayAgents:
    """How agents are started on nodes of Ray where the site has started none.

    Attributes:
        directory: Folder of the agent on each node.
        arguments: Arguments of ``powerflow agent`` besides the name, the folder and the join token.
    """

    directory: str
    arguments: Sequence[str] = ()


class RayLink:
    """A link through an actor."""

    def __init__(self, actor: Any, what: str) -> None:
        self.what = what
        self._actor = actor
        self._ended = asyncio.Event()

    async def request(self, payload: bytes, timeout_s: float) -> bytes:
        """Send a payload through the actor, and return the answer. See `Link.request`."""
        try:
            async with asyncio.timeout(timeout_s):
                return bytes(await self._actor.request.remote(payload, timeout_s))
        except ray.exceptions.RayError as error:
            raise ConnectionResetError(str(error).splitlines()[0]) from None

    async def closed(self) -> None:
        """Wait until the link has ended."""
        await self._ended.wait()

    def close(self) -> None:
        """End the link. The actor stays for the next one."""
        self._ended.set()


class RayMembership:
    """Give an engine a link to each node of a Ray cluster, until `close`.

    Args:
        engine: The engine.
        agents: How agents are started.
        address: Address of the Ray cluster, ``HOST:PORT``; None to start an embedded one on this machine.

    Raises:
        InputError: Ray cannot be reached, or refuses this process.
    """

    def __init__(self, engine: ClusterEngine, agents: RayAgents, address: str | None) -> None:
        self._engine, self._agents = engine, agents
        self.closed = False
        self._serving: dict[str, asyncio.Task[None]] = {}
        self._connected = not ray.is_initialized()
        if self._connected:
            _connect(address)
        self._task = asyncio.run_coroutine_threadsafe(self._follow(), engine.loop)

    def close(self) -> None:
        """Leave the Ray cluster. Agents and ranks run on."""
        self.closed = True
        self._task.cancel()
        if self._connected:
            ray.shutdown()

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                with contextlib.suppress(ray.exceptions.RayError, ConnectionError, RuntimeError):
                    for node in await loop.run_in_executor(None, _alive):
                        task = self._serving.get(node["NodeID"])
                        if task is None or task.done():
                            self._serving[node["NodeID"]] = loop.create_task(self._serve(node))
                await asyncio.sleep(LOOK_S)
        finally:
            for task in list(self._serving.values()):
                task.cancel()

    async def _serve(self, node: dict[str, Any]) -> None:
        """Keep a link to the agent of one node, as long as Ray has the node."""
        node_id, what = node["NodeID"], f"agent of Ray node {node['NodeManagerHostname']}"
        actor = await asyncio.get_running_loop().run_in_executor(None, self._actor, node)
        while True:
            link = RayLink(actor, what)
            try:
                await self._engine.serve(link)
            except (NotGenuine, EngineError) as error:
                self._engine.refused(what, str(error))
            except (TimeoutError, ConnectionError, OSError):
                pass
            except ray.exceptions.RayError as error:
                self._engine.refused(what, str(error).splitlines()[0])
            else:
                self._engine.refused(what, "")
            if not await asyncio.get_running_loop().run_in_executor(None, _has, node_id):
                return
            await asyncio.sleep(AGAIN_S)

    def _actor(self, node: dict[str, Any]) -> Any:
        """Return the actor of a node. It is made once, and found again by a later controller."""
        node_id = node["NodeID"]
        where = ["--name", node["NodeManagerHostname"], "--address", node["NodeManagerAddress"]]
        arguments = ["agent", *where, *self._agents.arguments]
        command = ["-c", "from powerflow.cli.main import run; run()", *arguments]
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
        return made.remote(self._agents.directory, command, self._engine.token.text())


def _alive() -> list[dict[str, Any]]:
    """Return the nodes that Ray has and that have GPUs."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"] and node["Resources"].get("GPU", 0) > 0]


def _has(node_id: str) -> bool:
    return any(node["NodeID"] == node_id for node in _alive())


def _connect(address: str | None) -> None:
    options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(address=address or "local", include_dashboard=False if address is None else None, **options)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        where, why = f"--ray-address {address}" if address else "--engine ray", str(error).splitlines()[0]
        raise InputError(f"Ray does not take this controller ({why})", where=where, exit_code=5) from None
