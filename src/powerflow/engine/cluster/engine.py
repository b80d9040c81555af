"""Run ranks on many machines: the `Engine` of a cluster of machines, each with an agent.

One thread runs an event loop for all machines. Each agent is asked all the time for what has changed since the last
answer. An agent that has nothing to say answers after a second, so silence means that the machine cannot be reached.
Callers never wait for a slow machine, except in `log`, `check` and `launch`.

What happens when a link to an agent begins:

1. Both sides prove who they are (`powerflow.engine.cluster.sealed`).
2. The agent describes its machine. The name of a machine belongs to the first agent that used it.
3. The agent hears the term of this controller, all fences, and which ranks it must end. Before this it obeys nothing.
   An agent that has heard a higher term obeys this controller no more: another controller has taken over.
4. It sends all its ranks. A rank that was launched there and that it does not know is lost.
5. It gets the mailboxes of its gangs, and the orders that have waited.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from powerflow.engine.cluster.known import FolderState, KeptState
from powerflow.engine.cluster.link import Link
from powerflow.engine.cluster.machine import Machine
from powerflow.engine.cluster.mail import Letter, Mailroom, is_for_ranks, may_come_from
from powerflow.engine.cluster.orders import Outbox, ask
from powerflow.engine.cluster.rows import spec_row
from powerflow.engine.cluster.sealed import Hello, NotGenuine, Session, own_key, own_token
from powerflow.engine.devices import Report, aged
from powerflow.engine.local.records import check_epoch, check_gang, check_spec
from powerflow.engine.protocol import EngineError, EngineNode, Fenced, RankName, RankSpec, RankState, RankStatus

#: An agent that says nothing for this long cannot be reached.
SILENT_S = 4.0
#: An agent that has nothing to say answers after this time.
BEAT_S = 1.0
#: Longest wait for an answer to a question of a caller.
ANSWER_S = 5.0
#: Longest time to start the ranks of one order, and most ranks of one order.
LAUNCH_S, BATCH = 60.0, 64
#: How often an unchanged wish for clocks is renewed.
RENEW_S = 5.0

_T = TypeVar("_T")


class ClusterEngine:
    """Engine over the agents of many machines. Any thread may use it.

    Links are given to it by what makes them: a listener for agents that dial in, or a distributed engine such as Ray.

    Args:
        directory: Folder for the controller's key, the join token, and what must outlive the controller.
        mail: Folder with the controller's copies of the jobs' mailboxes.
        kept: Where the known machines and fences are kept; None for a folder in ``directory``.
        term: Lead at once with this term, see `lead`; None to wait for a call of `lead`.
        interpreter: Python interpreter in the commands of ranks, which each machine replaces by its own.
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
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.token = own_token(directory)
        self._key = own_key(directory / "controller.key")
        self._kept = kept or FolderState(directory / "known")
        self._interpreter = interpreter
        self._mailroom = Mailroom(mail)
        self._changed = threading.Condition()  # guards the tables below
        self._version = 0
        self._closed = False
        self._seen = threading.local()
        self._snapshot: tuple[int, tuple[RankStatus, ...]] = (-1, ())
        self._machines: dict[str, Machine] = {}
        self._fences: dict[str, int] = {}
        self._notices: dict[str, str] = {}
        self._specs: dict[RankName, RankSpec] = {}  # of ranks that are about to start
        self._where: dict[str, str] = {}  # machine by node
        self._wishes: dict[str, tuple[Mapping[str, float], float]] = {}  # clocks by machine, and when it was told
        self._load()
        # used by the event loop's thread only
        self._links: dict[str, tuple[Link, Session]] = {}
        self._outboxes: dict[str, Outbox] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="powerflow-engine", daemon=True)
        self._thread.start()
        self._leads, self._term = asyncio.Event(), 0
        if term is not None:
            self.lead(term)

    def _load(self) -> None:
        for key, value in self._kept.load().items():
            if key == "fences":
                self._fences = {gang: int(epoch) for gang, epoch in value.items()}
            elif key.startswith("machine."):
                machine = Machine.from_row(value)
                self._machines[machine.name] = machine
                self._where.update(dict.fromkeys(machine.nodes, machine.name))

    # -- the protocol -------------------------------------------------------------------------------------------------

    def nodes(self) -> Sequence[EngineNode]:
        """Return all nodes of all machines that have ever joined and have not left."""
        with self._changed:
            self._refuse_if_closed()
            return [node for machine in self._machines.values() for node in machine.listed()]

    def limits(self) -> frozenset[str]:
        """Return the limits that every machine can enforce."""
        with self._changed:
            found = [machine.limits for machine in self._machines.values()]
        return frozenset.intersection(*found) if found else frozenset()

    def notices(self) -> Sequence[str]:
        """Return what operators should know about machines, one line each."""
        with self._changed:
            return list(self._notices.values())

    def launch(self, spec: RankSpec) -> RankStatus:
        """Start a rank, and wait until it runs. See `Engine.launch`."""
        (status,) = self.launch_all([spec])
        deadline_s = time.monotonic() + LAUNCH_S
        with self._changed:
            while status.state is RankState.STARTING:
                if not self._changed.wait(deadline_s - time.monotonic()):
                    raise EngineError(f"{spec.node} has not said whether {spec.name} runs", retry=True)
                status = self._status(spec.name) or status
            if status.state is not RankState.NOT_STARTED:
                return status
            if (machine := self._machine_of(spec.name)) is not None:  # the caller hears of it now, and nobody later
                del machine.ranks[spec.name]
                self._keep(machine)
                self._tell()
            fenced = self._fences.get(spec.name.gang, 0) > spec.name.epoch
        raise (Fenced if fenced else EngineError)(status.why, retry=status.retry)

    def launch_all(self, specs: Sequence[RankSpec]) -> Sequence[RankStatus]:
        """Begin to start ranks, without waiting for their machines. See `Engine.launch_all`."""
        checked = [spec if spec.directory == "" else check_spec(spec) for spec in specs]
        batches: dict[str, list[RankSpec]] = {}
        answers = []
        with self._changed:
            for spec in checked:
                least = self._fences.get(spec.name.gang, 0)
                if least > spec.name.epoch and not self._is_launched(spec.name):
                    raise Fenced(f"{spec.name} is refused: {spec.name.gang} is at epoch {least} already")
            for spec in checked:
                known = self._status(spec.name)
                if known is not None and self._is_launched(spec.name):
                    answers.append(known)
                    continue
                machine = self._machines.get(self._where.get(spec.node, ""))
                if machine is None or not machine.up:
                    why = f"there is no node {spec.node!r}" if machine is None else f"{spec.node} does not answer"
                    answers.append(_not_started(spec, why, retry=machine is not None))
                    continue
                status = RankStatus(spec.name, spec.node, RankState.STARTING, 0, None, time.time(), math.nan)
                if (before := self._machine_of(spec.name)) is not None:
                    del before.ranks[spec.name]
                machine.begin(status)
                self._specs[spec.name] = spec
                batches.setdefault(machine.name, []).append(spec)
                answers.append(status)
            for name in batches:  # the intent is on disk before a machine hears of it
                self._keep(self._machines[name])
            self._tell()
        for name, batch in batches.items():
            for first in range(0, len(batch), BATCH):
                self._soon(self._send_launches, name, batch[first : first + BATCH])
        return answers

    def check(self, spec: RankSpec) -> str:
        """Return why a rank cannot run on its node, as the node says; "" if nothing is known against it."""
        return str(self._ask_node(spec.node, {"do": "check", "spec": spec_row(spec)})["why"])

    def declare_off(self, node: str) -> None:
        """Accept an operator's word that an unreachable node is off. See `Engine.declare_off`."""
        with self._changed:
            machine = self._machines.get(self._where.get(node, ""))
            if machine is None:
                raise EngineError(f"there is no node {node!r}")
            if machine.up:
                raise EngineError(f"{node} answers: it is not off")
            machine.declare_off(time.time())
            self._keep(machine)
            self._tell()
        self._soon(self._drop_link, machine.name)  # a machine that comes back begins with the ranks that it must end

    def fence(self, gang: str, epoch: int) -> None:
        """Refuse later launches of a gang with an epoch lower than ``epoch``, on every machine."""
        check_gang(gang)
        with self._changed:
            if self._fences.get(gang, -1) >= check_epoch(epoch):
                return
            self._fences[gang] = epoch
            self._kept.put("fences", dict(self._fences))
            names = list(self._machines)
        for name in names:
            self._soon(self._put, name, {"do": "fence", "fences": {gang: epoch}})

    def signal(self, name: RankName, number: int) -> bool:
        """Send a signal to a rank; return False if the rank has ended.

        Raises:
            EngineError: The rank's machine does not answer.
        """
        with self._changed:
            machine = self._machine_of(name)
            if machine is None or not machine.may_run(name):
                return False
            if not machine.up:
                raise EngineError(f"{machine.ranks[name].node} does not answer", retry=True)
        self._soon(self._put, machine.name, {"do": "signal", "name": str(name), "number": int(number)})
        return True

    def ranks(self) -> Sequence[RankStatus]:
        """Return the status of every rank that was not deleted with `forget`."""
        with self._changed:
            self._refuse_if_closed()
            if self._snapshot[0] != self._version:
                found = tuple(status for machine in self._machines.values() for status in machine.statuses())
                self._snapshot = self._version, found
            self._seen.version = self._version
            return self._snapshot[1]

    def wait(self, timeout_s: float) -> bool:
        """Wait until a rank has changed since this thread last called `ranks` or `wait`."""
        before = getattr(self._seen, "version", -1)
        with self._changed:
            self._refuse_if_closed()
            self._changed.wait_for(lambda: self._version != before or self._closed, max(0.0, timeout_s))
            self._seen.version = self._version
            return self._version != before

    def log(self, name: RankName, offset: int = 0, limit: int = 65536) -> tuple[bytes, int]:
        """Return a part of what a rank wrote, and the offset after it. See `Engine.log`."""
        with self._changed:
            machine = self._machine_of(name)
            if machine is None:
                raise KeyError(name)
            node = machine.ranks[name].node
        answer = self._ask_node(node, {"do": "log", "name": str(name), "offset": offset, "limit": limit})
        if answer["text"] is None:
            raise KeyError(name)
        return bytes.fromhex(answer["text"]), int(answer["offset"])

    def forget(self, name: RankName) -> None:
        """Delete the status and the log of a rank that has ended."""
        with self._changed:
            machine = self._machine_of(name)
            if machine is None or machine.may_run(name):
                return
            del machine.ranks[name]
            self._keep(machine)
            self._tell()
        self._soon(self._put, machine.name, {"do": "forget", "name": str(name)})

    def remove(self, node: str) -> None:
        """Let the machine of a node leave the cluster, with all its nodes. Its agent may join again later.

        Raises:
            EngineError: A rank may run there, or there is no such node.
        """
        with self._changed:
            machine = self._machines.get(self._where.get(node, ""))
            if machine is None:
                raise EngineError(f"there is no node {node!r}")
            if any(map(machine.may_run, machine.ranks)):
                raise EngineError(f"ranks may run on {machine.name}: drain it first, or declare it off")
            del self._machines[machine.name]
            self._where = {name: each.name for each in self._machines.values() for name in each.nodes}
            self._kept.put(f"machine.{machine.name}", None)
            self._tell()
        self._soon(self._put, machine.name, {"do": "leave"})

    def post(self, gang: str, file: str, text: str) -> None:
        """Send a file of a job's mailbox to all machines of its gang. See `Engine.post`."""
        with self._changed:
            names = self._machines_of(gang)
        for name in names:
            self._soon(self._put, name, {"do": "post", "letters": [[gang, file, text]]})

    # -- the GPUs: a `DeviceSource` -----------------------------------------------------------------------------------

    def machines(self) -> Sequence[str]:
        """Return the names of all machines."""
        with self._changed:
            return list(self._machines)

    def describe(self, machine: str) -> Sequence[Mapping[str, Any]]:
        """Return the GPUs of a machine. See `DeviceSource.describe`."""
        with self._changed:
            return self._machines[machine].gpus if machine in self._machines else []

    def report(self, machine: str) -> Report | None:
        """Return the last report of a machine; None if this controller has got none, or the machine does not answer."""
        with self._changed:
            found = self._machines.get(machine)
            if found is None or not found.up or found.report is None:
                return None
            return aged(found.report, time.monotonic() - found.report_s)

    def want(self, machine: str, clocks_mhz: Mapping[str, float]) -> None:
        """Ask for clocks (MHz) by UUID. See `DeviceSource.want`."""
        now_s = time.monotonic()
        wish, sent_s = self._wishes.get(machine, ({}, -math.inf))
        if clocks_mhz == wish and now_s - sent_s < RENEW_S:
            return
        self._wishes[machine] = dict(clocks_mhz), now_s
        order = {"do": "want", "clocks_mhz": dict(clocks_mhz)}
        self._soon(lambda: self._put(machine, order, key="want"))

    def acknowledge(self, machine: str, ledger: str, version: int, audit: int) -> None:
        """Tell a machine what has been stored. See `DeviceSource.acknowledge`."""
        order = {"do": "acknowledge", "ledger": ledger, "version": version, "audit": audit}
        self._soon(lambda: self._put(machine, order, key="acknowledge"))

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Disconnect from all agents; their ranks continue to run."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self.run(self._close())
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()

    # -- for those who make links -------------------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, _T], timeout_s: float | None = None) -> _T:
        """Run a coroutine in the event loop's thread, and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)

    def lead(self, term: int) -> None:
        """Give orders from now on. Until then, agents are only asked what they are.

        Args:
            term: Number that rises with each controller that leads. Agents obey the highest that they have heard.
        """
        self._term = term
        self._soon(self._leads.set)

    def await_machines(self, timeout_s: float) -> bool:
        """Wait until a machine has described itself, now or earlier; return False after the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._machines), timeout_s)

    async def serve(self, link: Link) -> None:
        """Work with an agent over a link until the link ends. Call this in the event loop's thread.

        Raises:
            NotGenuine: The agent does not belong to this cluster, or was started anew.
            EngineError: The agent was refused, or has refused this controller.
            TimeoutError, ConnectionError: The link has ended.
        """
        hello = Hello(self._key, self.token.secret)
        session = hello.accept(await link.request(hello.message(), ANSWER_S))
        about = await ask(link, session, {"do": "describe"}, ANSWER_S)
        machine = self._admit(about, session)
        if machine.name in self._links:  # its agent has dialled again, before the loss of the old link was noticed
            self._links[machine.name][0].close()
        mine = self._links[machine.name] = link, session
        work: list[asyncio.Task[None]] = []
        try:
            await self._leads.wait()
            end = sorted(map(str, machine.ended_by_word))
            welcome = {"do": "welcome", "term": self._term, "fences": self._fences, "end": end}
            await ask(link, session, welcome, LAUNCH_S)
            await self._take_all(link, session, machine)
            work = [asyncio.create_task(each) for each in self._work(link, session, machine)]
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in work:
                task.cancel()
            if self._links.get(machine.name) is mine:
                del self._links[machine.name]
                self._is_up(machine, False)

    def refused(self, what: str, why: str) -> None:
        """Show operators that an agent could not join; an empty ``why`` withdraws this."""
        with self._changed:
            if why:
                self._notices[what] = f"{what}: {why}"
            else:
                self._notices.pop(what, None)

    # -- one agent ----------------------------------------------------------------------------------------------------

    def _admit(self, about: dict[str, Any], session: Session) -> Machine:
        """Take an agent's description of its machine, if the machine's name is free or its own.

        Raises:
            EngineError: Another agent has the name of this machine, or of one of its nodes.
        """
        name, key = str(about["machine"]), session.agent.hex()
        with self._changed:
            machine = self._machines.get(name) or Machine(name, key)
            if machine.key != key:
                raise EngineError(f"another agent has joined as machine {name!r} before; its key was another one")
            for row in about["nodes"]:
                owner = self._where.get(row["name"], name)
                if owner != name:
                    raise EngineError(f"node {row['name']!r} is a node of machine {owner!r} already")
            machine.described(about, session.incarnation)
            self._machines[name] = machine
            self._where = {node: each.name for each in self._machines.values() for node in each.nodes}
            self._keep(machine)
            self._tell()
            return machine

    async def _take_all(self, link: Link, session: Session, machine: Machine) -> None:
        answer = await ask(link, session, {"do": "changes", "since": 0, "wait_s": 0.0, "report": ""}, ANSWER_S)
        with self._changed:
            again = machine.take(answer["ranks"], (), whole=True)
            machine.version = answer["version"]
            specs = [self._specs[name] for name in again if name in self._specs]
            for name in again:
                if name not in self._specs:  # launched by an earlier controller; its environment is kept nowhere
                    why = "the controller ended before the node had heard of the rank"
                    status = machine.ranks[name]
                    machine.ranks[name] = _ended(status, why)
            gangs = {name.gang for name in machine.ranks}
            machine.heard(answer.get("devices"), time.monotonic())
            self._keep(machine)
        self._is_up(machine, True)
        if specs:
            self._send_launches(machine.name, specs)
        letters = [list(letter) for gang in gangs for letter in self._mailroom.letters(gang)]
        if letters:
            self._put(machine.name, {"do": "post", "letters": letters})
        self._mail(machine, answer["letters"])

    def _work(self, link: Link, session: Session, machine: Machine) -> list[Coroutine[Any, Any, None]]:
        outbox = self._outboxes.setdefault(machine.name, Outbox())
        return [self._follow(link, session, machine), self._send(outbox, link, session), link.closed()]

    async def _send(self, outbox: Outbox, link: Link, session: Session) -> None:
        while True:
            with contextlib.suppress(TimeoutError):  # a slow machine is not a lost one: try again
                await outbox.send(link, session)

    async def _follow(self, link: Link, session: Session, machine: Machine) -> None:
        """Ask again and again what has changed."""
        while True:
            at = machine.report["at"] if machine.report else ""
            order = {"do": "changes", "since": machine.version, "wait_s": BEAT_S, "report": at}
            try:
                answer = await ask(link, session, order, SILENT_S)
            except TimeoutError:
                self._is_up(machine, False)
                continue
            with self._changed:
                machine.seen_s = time.time()
                if answer["ranks"] or answer["gone"]:
                    before = dict(machine.ranks)
                    machine.take(answer["ranks"], answer["gone"], whole=False)
                    if machine.ranks != before:  # otherwise the answer to a launch has told it already
                        self._keep(machine)
                        self._tell()
                machine.version = answer["version"]
                machine.heard(answer.get("devices"), time.monotonic())
            self._is_up(machine, True)
            self._mail(machine, answer["letters"])

    def _is_up(self, machine: Machine, up: bool) -> None:
        with self._changed:
            if up:
                machine.seen_s = time.time()
            if machine.up is not up:
                machine.up = up
                self._tell()

    def _mail(self, machine: Machine, letters: Iterable[Sequence[str]]) -> None:
        """Take letters from a machine, and pass them on to the other machines of their gangs."""
        passed: dict[str, list[list[str]]] = {}
        with self._changed:
            launched = {str(name) for name in machine.ranks}
        for gang, file, text in letters:
            letter = Letter(gang, file, text)
            if not may_come_from(letter, launched) or not self._mailroom.take(letter):
                continue
            with self._changed:
                others = [name for name in self._machines_of(gang) if name != machine.name]
            for name in others if is_for_ranks(file) else ():
                passed.setdefault(name, []).append(list(letter))
        for name, found in passed.items():
            self._put(name, {"do": "post", "letters": found})

    def _send_launches(self, machine: str, specs: Sequence[RankSpec]) -> None:
        gangs = {spec.name.gang for spec in specs}
        order = {
            "do": "launch",
            "specs": [spec_row(spec) for spec in specs],
            "fences": {gang: self._fences[gang] for gang in gangs if gang in self._fences},
            "letters": [list(letter) for gang in gangs for letter in self._mailroom.letters(gang)],
            "interpreter": self._interpreter,
        }
        names = [spec.name for spec in specs]
        self._put(machine, order, LAUNCH_S, lambda answer: self._launched(machine, names, answer))

    def _launched(self, name: str, ranks: Sequence[RankName], answer: dict[str, Any] | EngineError) -> None:
        with self._changed:
            machine = self._machines[name]
            if isinstance(answer, EngineError):
                for rank in ranks:
                    if machine.ranks[rank].state is RankState.STARTING:
                        machine.ranks[rank] = _ended(machine.ranks[rank], str(answer), retry=answer.retry)
            else:
                # `changes` may have told of a later state of some of them already
                rows = [
                    row
                    for row in answer["ranks"]
                    if (known := machine.ranks.get(RankName.parse(row["name"]))) and known.state is RankState.STARTING
                ]
                machine.take(rows, (), whole=False)
                for gang, epoch in answer["fences"].items():  # set by another engine object of this controller
                    self._fences[gang] = max(epoch, self._fences.get(gang, 0))
            for rank in ranks:
                self._specs.pop(rank, None)
            self._keep(machine)
            self._tell()

    def _drop_link(self, machine: str) -> None:
        if machine in self._links:
            self._links[machine][0].close()

    # -- small parts --------------------------------------------------------------------------------------------------

    def _soon(self, act: Callable[..., None], *args: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(act, *args)
        except RuntimeError:
            raise EngineError("this engine object was closed") from None

    def _put(
        self,
        machine: str,
        order: dict[str, Any],
        timeout_s: float = ANSWER_S,
        done: Callable[[dict[str, Any] | EngineError], None] = lambda answer: None,
        key: str = "",
    ) -> None:
        self._outboxes.setdefault(machine, Outbox()).put(order, timeout_s, done, key)

    def _ask_node(self, node: str, order: dict[str, Any]) -> dict[str, Any]:
        with self._changed:
            machine = self._machines.get(self._where.get(node, ""))
            if machine is None:
                raise EngineError(f"there is no node {node!r}")
            if not machine.up:
                raise EngineError(f"{node} does not answer", retry=True)

        async def asked() -> dict[str, Any]:
            if machine.name not in self._links:
                raise ConnectionResetError("the link has ended")
            return await ask(*self._links[machine.name], order, ANSWER_S)

        try:
            return self.run(asked())
        except (TimeoutError, ConnectionError, NotGenuine) as error:
            raise EngineError(f"{node} does not answer ({error})", retry=True) from None
        except RuntimeError as error:
            if isinstance(error, EngineError):
                raise
            raise EngineError("this engine object was closed") from None

    async def _close(self) -> None:
        for link, _ in list(self._links.values()):
            link.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # the caller holds the lock in all of these

    def _keep(self, machine: Machine) -> None:
        self._kept.put(f"machine.{machine.name}", machine.row())

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise EngineError("this engine object was closed")

    def _tell(self) -> None:
        self._version += 1
        self._changed.notify_all()

    def _machine_of(self, rank: RankName) -> Machine | None:
        return next((machine for machine in self._machines.values() if rank in machine.ranks), None)

    def _is_launched(self, rank: RankName) -> bool:
        status = self._status(rank)
        return status is not None and status.state is not RankState.NOT_STARTED

    def _machines_of(self, gang: str) -> list[str]:
        return [machine.name for machine in self._machines.values() if any(name.gang == gang for name in machine.ranks)]

    def _status(self, rank: RankName) -> RankStatus | None:
        machine = self._machine_of(rank)
        return None if machine is None else machine.status(rank)


def _not_started(spec: RankSpec, why: str, *, retry: bool) -> RankStatus:
    now_s = time.time()
    return RankStatus(spec.name, spec.node, RankState.NOT_STARTED, 0, None, now_s, now_s, why=why, retry=retry)


def _ended(status: RankStatus, why: str, *, retry: bool = True) -> RankStatus:
    started_s = status.started_s
    state = RankState.NOT_STARTED
    return RankStatus(status.name, status.node, state, 0, None, started_s, started_s, why=why, retry=retry)
