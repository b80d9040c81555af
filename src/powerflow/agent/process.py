"""Run the agent of this machine as a process: dial the controller, or listen on a socket of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from powerflow import __version__
from powerflow.agent.about import LOOPBACK, address_towards, interface_of, versions
from powerflow.agent.devices import NodeDevices
from powerflow.agent.external import ExternalRanks
from powerflow.agent.metered_engine import MeteredEngine
from powerflow.agent.node_agent import NodeAgent
from powerflow.agent.shells import LocalShells
from powerflow.agent.slurm_notes import SlurmNotes
from powerflow.device.protocol import DeviceError, Gpu
from powerflow.engine.cluster.frames import answer_frames
from powerflow.engine.cluster.rows import node_row
from powerflow.engine.cluster.sealed import AgentSide, JoinToken, own_key
from powerflow.engine.local import LocalEngine
from powerflow.engine.protocol import EngineNode
from powerflow.errors import InputError
from powerflow.osutil.files import try_lock
from powerflow.osutil.processes import boot_id

#: Waits between two attempts to reach the controller, seconds.
_FIRST_WAIT_S, _MOST_WAIT_S = 0.2, 2.0
#: How often an agent looks whether its socket is still there, seconds.
_LOOK_S = 2.0
#: Time for the last answers to leave, seconds.
_LAST_ANSWERS_S = 0.05


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Settings of the agent of one machine.

    Attributes:
        directory: Folder for all files of the agent.
        token: The join token.
        controllers: Host and port of each controller; the one that was started last is obeyed. Empty to listen on a
            socket in ``directory`` instead.
        gpus: The GPUs of this machine. Their ``node`` and ``index`` are those of the cluster.
        machine: Name of this machine.
        address: Address at which other machines reach this one; "" for the address on the way to the controller.
        labels: What the site says about the machine: ``rack``, ``switch``, and others.
        preload: Modules that are imported once for the ranks of all Python scripts.
        devices, ranks: Folders for the GPUs and for the engine of the ranks; None for folders in ``directory``.
        owner: Owner of the ranks, see `LocalEngine`; "" for the controller of the join token.
        left_out: GPUs of this machine that cannot be used, and why.
        ready: Called when the agent can be reached.
    """

    directory: Path
    token: JoinToken
    controllers: Sequence[tuple[str, int]]
    gpus: Sequence[Gpu]
    machine: str = field(default_factory=platform.node)
    address: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    preload: Sequence[str] = ()
    devices: Path | None = None
    ranks: Path | None = None
    owner: str = ""
    left_out: Sequence[str] = ()
    ready: Callable[[], None] = lambda: None


def run_agent(settings: AgentSettings) -> None:
    """Run the agent until SIGTERM or Ctrl-C. Its ranks run on.

    Raises:
        InputError: Another agent has the folder, another process uses one of the GPUs, or a setting is wrong.
    """
    directory = settings.directory
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o711)  # the folders of jobs are below
    lock = try_lock(directory / "agent.lock", wait_s=5.0)
    if lock is None:
        raise InputError("another agent uses this folder", where=str(directory), fix="give each agent its own folder")
    try:
        asyncio.run(_run(settings))
    finally:
        os.close(lock)


async def _run(settings: AgentSettings) -> None:
    directory = settings.directory
    incarnation = f"{boot_id()}.{time.time_ns():x}"
    side = AgentSide(own_key(directory / "agent.key"), settings.token, incarnation)
    counts = Counter(gpu.node for gpu in settings.gpus)
    with contextlib.ExitStack() as undo:
        try:
            devices = NodeDevices(settings.devices or directory / "devices", settings.gpus, machine=settings.machine)
        except DeviceError as error:
            raise InputError(str(error), fix="stop that process first", exit_code=1) from error
        undo.callback(devices.close)
        owner = settings.owner or _owner(settings.token)
        local = LocalEngine(settings.ranks or directory / "ranks", counts, settings.preload, owner)
        undo.callback(local.close)
        local.renew()
        notes = SlurmNotes()
        undo.callback(notes.close)
        external = ExternalRanks(local, directory / "external.json", notes, tell=_say)
        engine = MeteredEngine(external, devices)
        about, shells = _about(settings, local, devices), LocalShells(local.open_shell)
        agent = NodeAgent(directory, about, engine, devices, side, local.shutdown, shells)
        devices.start()
        tasks = [asyncio.create_task(each) for each in (agent.run(), _talk(settings, agent), agent.left.wait())]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: [task.cancel() for task in tasks])
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                with contextlib.suppress(asyncio.CancelledError):
                    task.result()
            await asyncio.sleep(_LAST_ANSWERS_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            agent.close()


def _say(line: str) -> None:
    print(f"powerflow agent: {line}", flush=True)


def _owner(token: JoinToken) -> str:
    """Return the owner of the ranks of this machine: the controller, by its public key."""
    return f"controller-{token.controller.hex()[:16]}"


def _about(settings: AgentSettings, engine: LocalEngine, devices: NodeDevices) -> dict[str, Any]:
    address = settings.address
    if not address:
        address = address_towards(*settings.controllers[0]) if settings.controllers else LOOPBACK
    interface, found = interface_of(address), versions()
    types = {gpu.node: gpu.gpu_type for gpu in settings.gpus}
    counts = Counter(gpu.node for gpu in settings.gpus)
    nodes = [
        EngineNode(name, counts[name], True, kind, address, interface, labels=settings.labels, versions=found)
        for name, kind in types.items()
    ]
    return {
        "machine": settings.machine,
        "nodes": [node_row(node) for node in nodes],
        "gpus": devices.describe(),
        "limits": sorted(engine.limits()),
        "notices": list(engine.notices()),
        "left_out": list(settings.left_out),
        "interpreter": sys.executable,
        "user": os.geteuid(),
        "pid": os.getpid(),
        "version": __version__,
    }


async def _talk(settings: AgentSettings, agent: NodeAgent) -> None:
    if settings.controllers:
        await asyncio.gather(*(_dial(*each, agent) for each in settings.controllers))
    else:
        await _listen(settings.directory, agent, settings.ready)


async def _dial(host: str, port: int, agent: NodeAgent) -> None:
    """Keep a connection to the controller, for ever."""
    wait_s, said = _FIRST_WAIT_S, ""
    while True:
        try:
            async with asyncio.timeout(5.0):
                reader, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            if str(error) != said:
                said = str(error)
                print(f"powerflow agent: {host}:{port} cannot be reached: {error or 'no answer'}", flush=True)
        else:
            began_s = time.monotonic()
            print(f"powerflow agent: connected to {host}:{port}", flush=True)
            said = ""
            await answer_frames(reader, writer, agent.answer)
            if why := agent.refusal:
                print(f"powerflow agent: {host}:{port} is refused: {why}", flush=True)
            print(f"powerflow agent: the connection to {host}:{port} has ended; ranks run on", flush=True)
            if time.monotonic() - began_s > _MOST_WAIT_S:
                wait_s = _FIRST_WAIT_S
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, _MOST_WAIT_S)


async def _listen(directory: Path, agent: NodeAgent, ready: Callable[[], None]) -> None:
    """Answer controllers of this machine on a socket that only the agent's user may use."""
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(answer_frames(reader, writer, agent.answer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    path = directory / "agent.sock"
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(accept, str(path))
    finally:
        os.umask(before)
    ready()
    try:
        async with server:
            while path.exists():  # otherwise the folder was deleted, and nobody can reach this agent any more
                await asyncio.sleep(_LOOK_S)
    finally:
        for task in list(tasks):
            task.cancel()
