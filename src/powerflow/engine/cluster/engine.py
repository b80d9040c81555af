"""Run ranks on many machines: the `Engine` of a cluster of machines, each with an agent.

Callers never wait for a slow machine, except in `log`, `check` and `launch`. What happens between the controller and
one agent is in `powerflow.engine.cluster.sessions`.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from powerflow.engine.cluster.devices import ClusterDevices
from powerflow.engine.cluster.known import FolderState, KeptState
from powerflow.engine.cluster.link import Link
from powerflow.engine.cluster.mail import Mailroom
from powerflow.engine.cluster.rows import spec_row
from powerflow.engine.cluster.sealed import NotGenuine, own_key, own_token
from powerflow.engine.cluster.sessions import ANSWER_S, LAUNCH_S, Answer, Sessions, run_in
from powerflow.engine.cluster.shells import ClusterShells
from powerflow.engine.cluster.tables import ClusterTables
from powerflow.engine.local.records import check_epoch, check_gang, check_spec
from powerflow.engine.protocol import (
    EngineError,
    EngineNode,
    Fenced,
    RankName,
    RankSpec,
    RankState,
    RankStatus,
    not_started,
)

#: Longest wait at the end for orders that were given, such as to restore clocks.
FLUSH_S = 1.0

_T = TypeVar("_T")


class ClusterEngine:
    """Engine over the agents of many machines. Any thread may use it.

    Links are given to it by what makes them: a listener for agents that dial in, or a distributed engine such as Ray.

    Args:
        directory: Folder for the controller's key, the join token, and what must outlive the controller.
        mail: Folder with the controller's copies of the jobs' mailboxes.
        kept: Where the known machines and fences are kept; None for a folder in ``directory``.
        term: Lead at once with this term, see `lead`; None to wait for a call of `lead`.
        interpreter: This process's Python; where its folder is the first of a rank's PATH, a machine puts its own.
        pins: True to refuse another agent under the name of a known machine.

    Attributes:
        token: The join token of this cluster's agents.
        devices: The GPUs of all machines.
        shells: The shells beside all ranks.
        loop: The event loop of all links, which runs in a thread of its own.
    """

    shares_mailboxes = False

    def __init__(
        self,
        directory: Path,
        mail: Path,
        *,
        kept: KeptState | None = None,
        term: int | None = None,
        interpreter: str = "",
        pins: bool = True,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.token = own_token(directory)
        key = own_key(directory / "controller.key")
        self._tables = ClusterTables(kept or FolderState(directory / "known"))
        self._changed = self._tables.changed
        self._sessions = Sessions(self._tables, Mailroom(mail), key, self.token, interpreter, pins=pins)
        self.devices = ClusterDevices(self._tables, self._replace)
        self.shells = ClusterShells(self._ask_soon, lambda node, order: self._soon(self._put, node, order))
        self._seen = threading.local()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="powerflow-engine", daemon=True)
        self._thread.start()
        if term is not None:
            self.lead(term)

    # -- nodes --------------------------------------------------------------------------------------------------------

    def nodes(self) -> Sequence[EngineNode]:
        """Return all nodes of all machines that have ever joined and have not left."""
        with self._changed:
            self._tables.refuse_if_closed()
            return [node for machine in self._tables.machines.values() for node in machine.listed()]

    def limits(self) -> frozenset[str]:
        """Return the limits that every machine can enforce."""
        with self._changed:
            found = [machine.limits for machine in self._tables.machines.values()]
        return frozenset.intersection(*found) if found else frozenset()

    def notices(self) -> Sequence[str]:
        """Return what operators should know about machines, one line each."""
        with self._changed:
            return list(self._tables.notices.values())

    def check(self, spec: RankSpec) -> str:
        """Return why a rank cannot run on its node, as the node says; "" if nothing is known against it."""
        return str(self._ask_node(spec.node, {"do": "check", "spec": spec_row(spec)})["why"])

    def declare_off(self, node: str) -> None:
        """Accept an operator's word that an unreachable node is off. See `Engine.declare_off`."""
        with self._changed:
            machine = self._tables.of_node(node)
            if machine is None:
                raise EngineError(f"there is no node {node!r}")
            if machine.up:
                raise EngineError(f"{node} answers: it is not off")
            machine.declare_off(time.time())
            self._tables.keep(machine)
            self._tables.tell()
        # a machine that comes back begins with the ranks that it must end
        self._soon(self._sessions.drop_link, machine.name)

    def remove(self, node: str) -> None:
        """Let the machine of a node leave the cluster, with all its nodes. Its agent may join again later.

        Raises:
            EngineError: A rank may run there, or there is no such node.
        """
        with self._changed:
            machine = self._tables.of_node(node)
            if machine is None:
                raise EngineError(f"there is no node {node!r}")
            if any(map(machine.may_run, machine.ranks)):
                raise EngineError(f"ranks may run on {machine.name}: drain it first, or declare it off")
            self._tables.drop(machine)
        self._soon(self._sessions.put, machine.name, {"do": "leave"})

    # -- ranks --------------------------------------------------------------------------------------------------------

    def launch(self, spec: RankSpec) -> RankStatus:
        """Start a rank, and wait until it runs. See `Engine.launch`."""
        (status,) = self.launch_all([spec])
        deadline_s, tables = time.monotonic() + LAUNCH_S, self._tables
        with self._changed:
            while status.state is RankState.STARTING:
                if not self._changed.wait(deadline_s - time.monotonic()):
                    raise EngineError(f"{spec.node} has not said whether {spec.name} runs", retry=True)
                status = tables.status(spec.name) or status
            if status.state is not RankState.NOT_STARTED:
                return status
            if (machine := tables.of_rank(spec.name)) is not None:  # the caller hears of it now, and nobody later
                del machine.ranks[spec.name]
                tables.keep(machine)
                tables.tell()
            fenced = tables.fences.get(spec.name.gang, 0) > spec.name.epoch
        raise (Fenced if fenced else EngineError)(status.why, retry=status.retry, final=status.final)

    def launch_all(self, specs: Sequence[RankSpec]) -> Sequence[RankStatus]:
        """Begin to start ranks, without waiting for their machines. See `Engine.launch_all`."""
        checked = [spec if spec.directory == "" else check_spec(spec) for spec in specs]
        with self._changed:
            self._tables.refuse_if_closed()
            for spec in checked:
                least = self._tables.fences.get(spec.name.gang, 0)
                if least > spec.name.epoch and not self._tables.is_launched(spec.name):
                    raise Fenced(f"{spec.name} is refused: {spec.name.gang} is at epoch {least} already")
            batches: dict[str, list[RankSpec]] = {}
            answers = [self._begin(spec, batches) for spec in checked]
            for name in batches:  # the intent is on disk before a machine hears of it
                self._tables.keep(self._tables.machines[name])
            self._tables.tell()
        for name, batch in batches.items():
            self._soon(self._sessions.launch, name, batch)
        return answers

    def _begin(self, spec: RankSpec, batches: dict[str, list[RankSpec]]) -> RankStatus:
        """Return the status of a rank that shall start; add it to the batch of its machine if it can be launched."""
        tables = self._tables
        known = tables.status(spec.name)
        if known is not None and tables.is_launched(spec.name):
            return known
        status = RankStatus(spec.name, spec.node, RankState.STARTING, 0, None, time.time(), math.nan)
        try:
            machine = tables.answering(spec.node)
        except EngineError as error:
            return not_started(status, error)
        if (before := tables.of_rank(spec.name)) is not None:
            del before.ranks[spec.name]
        machine.begin(status)
        tables.specs[spec.name] = spec
        batches.setdefault(machine.name, []).append(spec)
        return status

    def fence(self, gang: str, epoch: int) -> None:
        """Refuse later launches of a gang with an epoch lower than ``epoch``, on every machine."""
        check_gang(gang)
        with self._changed:
            self._tables.refuse_if_closed()
            if self._tables.fences.get(gang, -1) >= check_epoch(epoch):
                return
            self._tables.raise_fences([(gang, epoch)])
            names = list(self._tables.machines)
        for name in names:
            self._soon(self._sessions.put, name, {"do": "fence", "fences": {gang: epoch}})

    def signal(self, name: RankName, number: int) -> bool:
        """Send a signal to a rank; return False if the rank has ended.

        Raises:
            EngineError: The rank's machine does not answer.
        """
        with self._changed:
            machine = self._tables.of_rank(name)
            if machine is None or not machine.may_run(name):
                return False
            if not machine.up:
                raise EngineError(f"{machine.ranks[name].node} does not answer", retry=True)
        self._soon(self._sessions.put, machine.name, {"do": "signal", "name": str(name), "number": int(number)})
        return True

    def ranks(self) -> Sequence[RankStatus]:
        """Return the status of every rank that was not deleted with `forget`."""
        with self._changed:
            self._tables.refuse_if_closed()
            self._seen.version = self._tables.version
            return self._tables.statuses()

    def wait(self, timeout_s: float) -> bool:
        """Wait until a rank has changed since this thread last called `ranks` or `wait`."""
        before, tables = getattr(self._seen, "version", -1), self._tables
        with self._changed:
            tables.refuse_if_closed()
            self._changed.wait_for(lambda: tables.version != before or tables.closed, max(0.0, timeout_s))
            self._seen.version = tables.version
            return tables.version != before

    def log(self, name: RankName, offset: int = 0, limit: int = 65536) -> tuple[bytes, int]:
        """Return a part of what a rank wrote, and the offset after it. See `Engine.log`."""
        answer = self._ask_node(self._node_of(name), {"do": "log", "name": str(name), "offset": offset, "limit": limit})
        if answer["text"] is None:
            raise KeyError(name)
        return bytes.fromhex(answer["text"]), int(answer["offset"])

    def log_offset(self, name: RankName, since_s: float) -> int:
        """Return where in a rank's log the output since a time begins. See `Engine.log_offset`."""
        answer = self._ask_node(self._node_of(name), {"do": "log_offset", "name": str(name), "since_s": since_s})
        if answer["offset"] is None:
            raise KeyError(name)
        return int(answer["offset"])

    def forget(self, name: RankName) -> None:
        """Delete the status and the log of a rank that has ended."""
        with self._changed:
            machine = self._tables.of_rank(name)
            if machine is None or machine.may_run(name):
                return
            del machine.ranks[name]
            self._tables.keep(machine)
            self._tables.tell()
        self._soon(self._sessions.put, machine.name, {"do": "forget", "name": str(name)})

    def post(self, gang: str, file: str, text: str) -> None:
        """Send a file of a job's mailbox to all machines of its gang. See `Engine.post`."""
        with self._changed:
            names = self._tables.of_gang(gang)
        for name in names:
            self._soon(self._sessions.put, name, {"do": "post", "letters": [[gang, file, text]]})

    # -- for those who make links -------------------------------------------------------------------------------------

    def lead(self, term: int) -> None:
        """Give orders from now on. Until then, agents are only asked what they are.

        Args:
            term: Number that rises with each controller that leads. Agents obey the highest that they have heard.
        """
        self._soon(self._sessions.lead, term)

    def await_machines(self, timeout_s: float) -> bool:
        """Wait until a machine has described itself, now or earlier; return False after the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._tables.machines), timeout_s)

    def await_described(self, timeout_s: float, since: str = "") -> dict[str, Any] | None:
        """Return what the only agent has said of itself; None if it has said nothing before the timeout.

        Args:
            timeout_s: Longest wait.
            since: Incarnation of an agent that does not count.
        """
        described = self._tables.described

        def found() -> dict[str, Any] | None:
            return next((about for about in described.values() if about["incarnation"] != since), None)

        with self._changed:
            return self._changed.wait_for(found, timeout_s)

    def await_up(self, timeout_s: float) -> bool:
        """Wait until a machine answers and obeys; return False after the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: any(m.up for m in self._tables.machines.values()), timeout_s)

    def end_agent(self, machine: str, *, kill: bool) -> None:
        """End an agent, and what starts the ranks of its machine.

        Raises:
            EngineError: Ranks run and ``kill`` is False, or the agent does not answer.
        """
        try:
            self.run(self._sessions.flush(FLUSH_S))
            self.run(self._sessions.ask(machine, {"do": "shutdown", "kill": kill}))
        except (TimeoutError, ConnectionError, NotGenuine) as error:
            raise EngineError(f"the agent of {machine} does not answer ({error})", retry=True) from None

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin a coroutine in the event loop's thread, which runs until `close`."""
        asyncio.run_coroutine_threadsafe(work, self.loop)

    async def serve(self, link: Link, joined: Callable[[], None] = lambda: None) -> None:
        """Work with an agent over a link until the link ends. See `Sessions.serve`; call it in the event loop."""
        await self._sessions.serve(link, joined)

    def run(self, work: Coroutine[Any, Any, _T], timeout_s: float | None = None) -> _T:
        """Run a coroutine in the event loop's thread, and return its result."""
        found: _T = run_in(self.loop, work, timeout_s)
        return found

    def refused(self, what: str, why: str) -> None:
        """Show operators that an agent could not join; an empty ``why`` withdraws this."""
        with self._changed:
            self._tables.note(what, why)

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Disconnect from all agents; their ranks continue to run."""
        self._tables.close()
        if self._thread.is_alive():
            self.run(self._close())
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()

    async def _close(self) -> None:
        await self._sessions.flush(FLUSH_S)
        self._sessions.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- small parts --------------------------------------------------------------------------------------------------

    def _soon(self, act: Callable[..., None], *args: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(act, *args)
        except RuntimeError:
            raise EngineError("this engine object was closed") from None

    def _replace(self, machine: str, order: Answer) -> None:
        self._soon(lambda: self._sessions.put(machine, order, key=order["do"]))

    def _node_of(self, name: RankName) -> str:
        with self._changed:
            machine = self._tables.of_rank(name)
            if machine is None:
                raise KeyError(name)
            return machine.ranks[name].node

    def _ask_node(self, node: str, order: Answer) -> Answer:
        self._tables.refuse_if_closed()
        return self.run(self._asked(node, order))

    async def _ask_soon(self, node: str, order: Answer, wait_s: float) -> Answer:
        """Ask the machine of a node from another event loop than the engine's; do not block it."""
        self._tables.refuse_if_closed()
        work = asyncio.run_coroutine_threadsafe(self._asked(node, order, wait_s), self.loop)
        return await asyncio.wrap_future(work)

    async def _asked(self, node: str, order: Answer, wait_s: float = 0.0) -> Answer:
        """Return the answer of a node's machine, which may take ``wait_s`` longer than other answers."""
        with self._changed:
            machine = self._tables.answering(node)
        try:
            return await self._sessions.ask(machine.name, order, ANSWER_S + wait_s)
        except (TimeoutError, ConnectionError, NotGenuine) as error:
            why = f" ({error})" if str(error) else ""
            raise EngineError(f"{node} does not answer{why}", retry=True) from None

    def _put(self, node: str, order: Answer) -> None:
        with self._changed:
            machine = self._tables.of_node(node)
        if machine is not None:
            self._sessions.put(machine.name, order)
