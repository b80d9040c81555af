"""Work with the agents: one session for each, all in the thread of one event loop.

What happens when a link to an agent begins:

1. Both sides prove who they are (`powerflow.engine.cluster.sealed`).
2. The agent describes its machine. The name of a machine belongs to the first agent that used it.
3. If this controller leads, the agent hears its term, all fences, and which ranks it must end. Before this it obeys
   nothing. An agent that has heard a higher term obeys this controller no more: another controller has taken over.
4. It sends all its ranks. A rank that was launched there and that it does not know is lost.
5. It gets the mailboxes of its gangs, and the orders that have waited.

Then it is asked all the time for what has changed. An agent that has nothing to say answers after `BEAT_S`, so silence
means that the machine cannot be reached.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from nacl.public import PrivateKey

from powerflow.engine.cluster.doubts import Doubts
from powerflow.engine.cluster.link import Link
from powerflow.engine.cluster.machine import Machine
from powerflow.engine.cluster.mail import Letter, Mailroom, is_for_ranks, may_come_from
from powerflow.engine.cluster.orders import Outbox, ask
from powerflow.engine.cluster.rows import spec_row
from powerflow.engine.cluster.sealed import Hello, JoinToken, Session
from powerflow.engine.cluster.tables import ClusterTables
from powerflow.engine.protocol import EngineError, RankName, RankSpec, RankState, not_started

#: An agent that says nothing for this long cannot be reached.
SILENT_S = 3.5
#: An agent that has nothing to say answers after this time.
BEAT_S = 1.0
#: Longest wait for an answer.
ANSWER_S = 5.0
#: Longest time to start the ranks of one order, and most ranks of one order.
LAUNCH_S, BATCH = 60.0, 64

Answer = dict[str, Any]
Done = Callable[[Answer | EngineError], None]


class Sessions:
    """The sessions with all agents. Only the event loop's thread may use it, after it was made.

    Args:
        tables: What is known of all machines.
        mailroom: The controller's copies of the jobs' mailboxes.
        key, token: The controller's key, and the join token of its agents.
        interpreter: This process's Python; where its folder is the first of a rank's PATH, a machine puts its own.
        pins: True to refuse another agent under the name of a known machine.
    """

    def __init__(
        self,
        tables: ClusterTables,
        mailroom: Mailroom,
        key: PrivateKey,
        token: JoinToken,
        interpreter: str,
        *,
        pins: bool = True,
    ) -> None:
        self._pins = pins
        self._tables, self._mailroom = tables, mailroom
        self._key, self._token, self._interpreter = key, token, interpreter
        self._links: dict[str, tuple[Link, Session]] = {}
        self._outboxes: dict[str, Outbox] = {}
        self._doubts = Doubts()
        self._leads, self._term = asyncio.Event(), 0
        self._heard_s: dict[str, float] = {}  # when each machine last answered, as the event loop counts time

    def lead(self, term: int) -> None:
        """Give orders from now on, with this term."""
        self._term = term
        self._leads.set()

    # -- orders -------------------------------------------------------------------------------------------------------

    def put(
        self,
        machine: str,
        order: Answer,
        timeout_s: float = ANSWER_S,
        done: Done = lambda answer: None,
        key: str = "",
    ) -> None:
        """Send an order to a machine when it answers. See `Outbox.put`."""
        self._outboxes.setdefault(machine, Outbox()).put(order, timeout_s, done, key)

    async def ask(self, machine: str, order: Answer, timeout_s: float = ANSWER_S) -> Answer:
        """Send an order to a machine now, and return its answer.

        Raises:
            EngineError: The machine refuses.
            TimeoutError, ConnectionError, NotGenuine: It does not answer.
        """
        if machine not in self._links:
            raise ConnectionResetError("the link has ended")
        return await ask(*self._links[machine], order, timeout_s)

    def launch(self, machine: str, specs: Sequence[RankSpec]) -> None:
        """Start ranks on a machine, in batches."""
        for first in range(0, len(specs), BATCH):
            batch = specs[first : first + BATCH]
            gangs = {spec.name.gang for spec in batch}
            fences = self._tables.fences
            order = {
                "do": "launch",
                "specs": [spec_row(spec) for spec in batch],
                "fences": {gang: fences[gang] for gang in gangs if gang in fences},
                "letters": [list(letter) for gang in gangs for letter in self._mailroom.letters(gang)],
                "interpreter": self._interpreter,
            }
            names = [spec.name for spec in batch]
            self.put(machine, order, LAUNCH_S, self._launched_on(machine, names))

    def drop_link(self, machine: str) -> None:
        """End the link to a machine, so that it begins again with a new session."""
        if machine in self._links:
            self._links[machine][0].close()

    async def flush(self, most_s: float) -> None:
        """Wait until all orders to machines that answer were sent, but not for long."""
        end_s = time.monotonic() + most_s
        while time.monotonic() < end_s:
            if not any(self._outboxes[name] for name in self._links if name in self._outboxes):
                return
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """End all links."""
        for machine in list(self._links):
            self.drop_link(machine)

    # -- one session --------------------------------------------------------------------------------------------------

    async def serve(self, link: Link, joined: Callable[[], None] = lambda: None) -> None:
        """Work with an agent over a link until the link ends.

        Args:
            link: The link.
            joined: Called when the agent has told everything, and obeys.

        Raises:
            NotGenuine: The agent does not belong to this cluster, or was started anew.
            EngineError: The agent was refused, or has refused this controller.
            TimeoutError, ConnectionError: The link has ended.
        """
        hello = Hello(self._key, self._token.secret)
        session = hello.accept(await link.request(hello.message(), ANSWER_S))
        asked_s = time.time()
        about = await ask(link, session, {"do": "describe"}, ANSWER_S)
        machine = self._admit(about, session, asked_s)
        if machine.name in self._links:  # its agent has dialled again, before the loss of the old link was noticed
            self._links[machine.name][0].close()
        mine = self._links[machine.name] = link, session
        work: list[asyncio.Task[None]] = []
        try:
            await self._leads.wait()
            with self._tables.changed:
                fences, end = dict(self._tables.fences), sorted(map(str, machine.ended_by_word))
            await ask(link, session, {"do": "welcome", "term": self._term, "fences": fences, "end": end}, LAUNCH_S)
            await self._take_all(link, session, machine)
            joined()
            outbox = self._outboxes.setdefault(machine.name, Outbox())
            parts = self._follow(link, session, machine), self._send(outbox, link, session), link.closed()
            work = [asyncio.create_task(part) for part in parts]
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in work:
                task.cancel()
            if self._links.get(machine.name) is mine:
                del self._links[machine.name]
                self._lose_later(machine)

    def _admit(self, about: Answer, session: Session, asked_s: float) -> Machine:
        """Take an agent's description of its machine, if the machine's name is free or its own.

        Raises:
            EngineError: Another agent has the name of this machine, or of one of its nodes.
        """
        name, key, tables = str(about["machine"]), session.agent.hex(), self._tables
        with tables.changed:
            machine = tables.machines.get(name) or Machine(name, key)
            if machine.key != key and self._pins:
                raise EngineError(f"another agent has joined as machine {name!r} before; its key was another one")
            for row in about["nodes"]:
                owner = tables.of_node(row["name"])
                if owner is not None and owner.name != name:
                    raise EngineError(f"node {row['name']!r} is a node of machine {owner.name!r} already")
            machine.key = key
            machine.described(about, session.incarnation)
            tables.described[name] = about | {"incarnation": session.incarnation}
            tables.machines[name] = machine
            others = [each for each in tables.machines.values() if each is not machine]
            self._note(self._doubts.answered(machine, about, asked_s, time.time()))
            self._note(self._doubts.described(machine, others))
            tables.keep(machine)
            tables.tell()
            return machine

    async def _take_all(self, link: Link, session: Session, machine: Machine) -> None:
        answer = await ask(link, session, {"do": "changes", "since": 0, "wait_s": 0.0, "report": ""}, ANSWER_S)
        tables = self._tables
        with tables.changed:
            again = machine.take(answer["ranks"], (), whole=True)
            machine.version = answer["version"]
            machine.heard(answer.get("devices"), time.monotonic())
            for name in again:
                if name not in tables.specs:  # launched by an earlier controller; its environment is kept nowhere
                    why = "the controller ended before the node had heard of the rank"
                    machine.ranks[name] = not_started(machine.ranks[name], EngineError(why, retry=True))
            specs = [tables.specs[name] for name in again if name in tables.specs]
            gangs = {name.gang for name in machine.ranks}
            tables.keep(machine)
            tables.tell()
        self._is_up(machine, True)
        if specs:
            self.launch(machine.name, specs)
        letters = [list(letter) for gang in gangs for letter in self._mailroom.letters(gang)]
        if letters:
            self.put(machine.name, {"do": "post", "letters": letters})
        self._mail(machine, answer["letters"])

    async def _send(self, outbox: Outbox, link: Link, session: Session) -> None:
        while True:
            with contextlib.suppress(TimeoutError):  # a slow machine is not a lost one: try again
                await outbox.send(link, session)

    async def _follow(self, link: Link, session: Session, machine: Machine) -> None:
        """Ask again and again what has changed."""
        tables = self._tables
        while True:
            at = machine.report["at"] if machine.report else ""
            order = {"do": "changes", "since": machine.version, "wait_s": BEAT_S, "report": at}
            asked_s = time.time()
            try:
                answer = await ask(link, session, order, SILENT_S)
            except TimeoutError:
                self._is_up(machine, False)
                continue
            with tables.changed:
                if answer["ranks"] or answer["gone"]:
                    before = dict(machine.ranks)
                    machine.take(answer["ranks"], answer["gone"], whole=False)
                    if machine.ranks != before:  # otherwise the answer to a launch has told it already
                        tables.keep(machine)
                        tables.tell()
                machine.version = answer["version"]
                machine.heard(answer.get("devices"), time.monotonic())
                self._note(self._doubts.answered(machine, answer, asked_s, time.time()))
            self._is_up(machine, True)
            self._mail(machine, answer["letters"])

    def _note(self, notices: Iterable[tuple[str, str]]) -> None:
        for subject, text in notices:
            self._tables.note(subject, text)

    def _lose_later(self, machine: Machine) -> None:
        """Count a machine whose link has ended as unreachable when it has been silent for `SILENT_S`.

        Its agent may have been started anew, and be back before that. Then nothing that runs there is disturbed.
        """
        loop, heard_s = asyncio.get_running_loop(), self._heard_s.get(machine.name)
        left_s = 0.0 if heard_s is None else heard_s + SILENT_S - loop.time()
        loop.call_later(max(0.0, left_s), self._lose_if_silent, machine, heard_s)

    def _lose_if_silent(self, machine: Machine, since_s: float | None) -> None:
        stays = self._tables.machines.get(machine.name) is machine
        if stays and self._heard_s.get(machine.name) == since_s:
            self._is_up(machine, False)

    def _is_up(self, machine: Machine, up: bool) -> None:
        if up:
            self._heard_s[machine.name] = asyncio.get_running_loop().time()
        with self._tables.changed:
            if up:
                machine.seen_s = time.time()
            if machine.up is not up:
                machine.up = up
                if not up:
                    self._tables.note(*self._doubts.lost(machine, time.time()))
                self._tables.tell()

    def _mail(self, machine: Machine, letters: Iterable[Sequence[str]]) -> None:
        """Take letters from a machine, and pass them on to the other machines of their gangs."""
        passed: dict[str, list[list[str]]] = {}
        with self._tables.changed:
            launched = {str(name) for name in machine.ranks}
        for gang, file, text in letters:
            letter = Letter(gang, file, text)
            if not may_come_from(letter, launched) or not self._mailroom.take(letter):
                continue
            with self._tables.changed:
                others = [name for name in self._tables.of_gang(gang) if name != machine.name]
            for name in others if is_for_ranks(file) else ():
                passed.setdefault(name, []).append(list(letter))
        for name, found in passed.items():
            self.put(name, {"do": "post", "letters": found})

    def _launched_on(self, name: str, ranks: Sequence[RankName]) -> Done:
        def done(answer: Answer | EngineError) -> None:
            with self._tables.changed:
                machine = self._tables.machines.get(name)
                if machine is not None:
                    self._launched(machine, ranks, answer)

        return done

    def _launched(self, machine: Machine, ranks: Sequence[RankName], answer: Answer | EngineError) -> None:
        # `changes` may have told of a later state of some of them already
        waiting = {rank for rank in ranks if (s := machine.ranks.get(rank)) and s.state is RankState.STARTING}
        if isinstance(answer, EngineError):
            for rank in waiting:
                machine.ranks[rank] = not_started(machine.ranks[rank], answer)
        else:
            rows = [row for row in answer["ranks"] if RankName.parse(row["name"]) in waiting]
            machine.take(rows, (), whole=False)
            machine.heard(answer.get("devices"), time.monotonic())
            self._tables.raise_fences(answer["fences"].items())  # set by another engine object of this controller
        for rank in ranks:
            self._tables.specs.pop(rank, None)
        if waiting:
            self._tables.keep(machine)
            self._tables.tell()


def run_in(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], timeout_s: float | None = None) -> Any:
    """Run a coroutine in an event loop of another thread, and return its result."""
    return asyncio.run_coroutine_threadsafe(work, loop).result(timeout_s)
