"""Obey the controller on one machine: start and end ranks, say what has changed, and pass on the ranks' messages.

The agent decides nothing. If the controller is silent, its ranks run on. If the agent ends, its ranks run on, too, and
the next agent finds them.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from powerflow.agent.devices import NodeDevices
from powerflow.agent.logins import login_environment
from powerflow.agent.mailboxes import Mailboxes
from powerflow.agent.pythons import PYTHON_IN_PATH, is_own_script, python_in
from powerflow.agent.ranks import RankChanges
from powerflow.agent.shells import LocalShells, shell_verbs
from powerflow.elastic.mailbox import CHECKPOINT_DIR, JOB_DIR
from powerflow.engine.cluster.mail import Letter
from powerflow.engine.cluster.rows import spec_from_row, status_row
from powerflow.engine.cluster.sealed import AgentSide, NotGenuine
from powerflow.engine.local.why_not import why_not
from powerflow.engine.protocol import (
    Engine,
    EngineError,
    Fenced,
    RankName,
    RankSpec,
    RankState,
    RankStatus,
    not_started,
)
from powerflow.osutil.files import read_json, replace_json

#: Ranks that are started at the same time.
_STARTERS = 8
_OWN = frozenset({"describe", "welcome", "shutdown"})  # orders that a controller may give before it is welcome

Answer = dict[str, Any]


class NodeAgent:
    """The agent of one machine. Use it in one event loop only.

    Args:
        directory: The agent's folder.
        about: Description of the machine for the controller, as JSON data.
        engine: Runs the ranks and meters them.
        devices: The GPUs of the machine.
        side: The agent's side of the sealed messages.
        shutdown: Ends what starts the ranks; raises EngineError if ranks run and ``kill`` is False.
        shells: Opens shells beside the ranks; None if nobody can.

    Attributes:
        left: Set when the controller has let this machine leave the cluster.
    """

    def __init__(
        self,
        directory: Path,
        about: Answer,
        engine: Engine,
        devices: NodeDevices,
        side: AgentSide,
        shutdown: Callable[..., None],
        shells: LocalShells | None = None,
    ) -> None:
        self._shutdown, self._shells = shutdown, shells
        self._about, self._engine, self._devices, self._side = about, engine, devices, side
        self._term_file = directory / "term.json"
        self._term = int((read_json(self._term_file) or {"term": 0})["term"])
        self._sessions: set[str] = set()  # those whose orders are obeyed, of the controller with the highest term
        self._mailboxes = Mailboxes(directory / "jobs")
        self._changes = RankChanges()
        self._letters: dict[tuple[str, str], tuple[Letter, int]] = {}
        self._fences: dict[str, int] = {}
        self._launching = 0
        self._ending = False
        self._news, self.left = asyncio.Event(), asyncio.Event()
        self._pool = ThreadPoolExecutor(_STARTERS, thread_name_prefix="powerflow-ranks")
        self._verbs: dict[str, Callable[[Answer], Awaitable[Answer]]] = {
            "describe": self._describe,
            "launch": self._launch,
            "fence": self._fence,
            "signal": self._signal,
            "changes": self._tell_changes,
            "log": self._log,
            "log_offset": self._log_offset,
            "check": self._check,
            "forget": self._forget,
            "post": self._post,
            "want": self._want,
            "acknowledge": self._acknowledge,
            "leave": self._leave,
            "shutdown": self._end,
            **({} if shells is None else shell_verbs(shells)),
        }

    @property
    def refusal(self) -> str:
        """Why the last controller was refused; "" if it was not."""
        return self._side.refusal

    async def run(self) -> None:
        """Follow the ranks and their mailboxes, for ever."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._pool, self._look, loop)
        loop.add_reader(self._mailboxes.fileno(), self._read_mail)
        for gang in {path.name for path in self._mailboxes.directory.iterdir() if path.is_dir()}:
            self._take_letters(self._mailboxes.all(gang))
        try:
            while True:
                await loop.run_in_executor(None, self._wait_and_look, loop)
        finally:
            loop.remove_reader(self._mailboxes.fileno())

    def close(self) -> None:
        """Stop following. The ranks run on."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._mailboxes.close()

    async def answer(self, message: bytes) -> bytes:
        """Return the answer to a message of a controller; b"" if the message is not genuine."""
        if self._side.greets(message):
            return self._side.answer_hello(message)
        try:
            session, number, order = self._side.open(message)
        except NotGenuine:
            return b""
        try:
            answer = await self._obey(session, order)
        except EngineError as error:
            answer = {"error": str(error), "retry": error.retry, "fenced": isinstance(error, Fenced)}
        except Exception as error:
            answer = {"error": f"the agent failed: {type(error).__name__}: {error}", "retry": True}
        return self._side.seal(session, number, answer)

    # -- orders -------------------------------------------------------------------------------------------------------

    async def _obey(self, session: str, order: Answer) -> Answer:
        if order["do"] == "welcome":
            return await self._welcome(session, order)
        if order["do"] not in _OWN and session not in self._sessions:
            raise EngineError("another controller has taken over this machine")
        verb = self._verbs.get(order["do"])
        if verb is None:
            raise EngineError(f"this agent's version does not know the order {order['do']!r}")
        return await verb(order)

    async def _describe(self, _: Answer) -> Answer:
        return self._about | {"time_s": time.time()}

    async def _welcome(self, session: str, order: Answer) -> Answer:
        """Obey this session, and no earlier controller; know all fences, and end the ranks that count as lost."""
        if order["term"] < self._term:
            raise EngineError("another controller, which was started later, has taken over this machine")
        if order["term"] > self._term:
            self._term = int(order["term"])
            replace_json(self._term_file, {"term": self._term}, durable=True)
            self._sessions.clear()
            if self._shells is not None:  # those of users of an earlier controller, which knows what they have opened
                self._shells.close_all()
        self._sessions.add(session)
        while self._launching:  # launches of an earlier session: their ranks must be in the next answer
            await asyncio.sleep(0.01)
        await self._do(self._set_fences, order["fences"])
        end = [RankName.parse(text) for text in order["end"]]
        for name in end:
            await self._do(self._engine.signal, name, signal.SIGKILL)
        await self._do(self._look, asyncio.get_running_loop())
        while any(map(self._changes.runs, end)):
            self._news.clear()
            await self._news.wait()
        return {}

    async def _launch(self, order: Answer) -> Answer:
        specs = [self._made_own(spec_from_row(row), order["interpreter"]) for row in order["specs"]]
        unmade = {spec.name.gang: self._make_mailbox(spec) for spec in specs}
        for row in order["letters"]:
            self._mailboxes.put(Letter(*row))
        await self._do(self._set_fences, order["fences"])
        self._launching += 1
        try:
            starts = [self._do(self._start, spec, unmade[spec.name.gang]) for spec in specs]
            statuses = await asyncio.gather(*starts)
            await self._do(self._look, asyncio.get_running_loop())
        finally:
            self._launching -= 1
        refused = {spec.name.gang for spec in specs if self._fences.get(spec.name.gang, 0) > spec.name.epoch}
        answer = {"ranks": [*map(status_row, statuses)], "fences": {gang: self._fences[gang] for gang in refused}}
        # the end of a rank is never told without the energy that it has drawn
        ended = any(status.state is RankState.EXITED for status in statuses)
        return answer | ({"devices": self._devices.report()} if ended else {})

    def _made_own(self, spec: RankSpec, interpreter: str) -> RankSpec:
        """Return a spec with the paths of this machine: mailbox folder, and Python interpreter.

        Args:
            spec: The spec, as the controller has sent it.
            interpreter: The controller's Python, whose folder may be the first of the rank's PATH; "" if it is not.
        """
        env, command = dict(spec.env), list(spec.command)
        folder = str(self._mailboxes.folder(spec.name.gang))
        theirs = env.get(JOB_DIR) or folder
        for name in (JOB_DIR, CHECKPOINT_DIR):
            if name in env and (env[name] + "/").startswith(theirs + "/"):
                env[name] = folder + env[name][len(theirs) :]
        directory = folder if spec.directory in ("", theirs) else spec.directory
        if spec.user:
            env = login_environment(spec.user) | env
        if interpreter:
            bin_folder, own_bin = str(Path(interpreter).parent), str(Path(sys.executable).parent)
            if (paths := env.get("PATH", "").split(":"))[0] == bin_folder:
                env["PATH"] = ":".join([own_bin, *paths[1:]])
        if command and command[0] == PYTHON_IN_PATH:
            command[0] = python_in(env.get("PATH", ""))
        python = is_own_script(command)
        return replace(spec, env=env, command=tuple(command), directory=directory, python=python)

    def _make_mailbox(self, spec: RankSpec) -> EngineError | None:
        """Make the folder of a rank's job; return why this is impossible."""
        try:
            if JOB_DIR in spec.env:
                self._mailboxes.make(spec.name.gang, spec.user)
        except EngineError as error:
            return error
        except OSError as error:
            return EngineError(f"the folder of job {spec.name.gang} cannot be made: {error}", retry=True)
        return None

    def _start(self, spec: RankSpec, unmade: EngineError | None) -> RankStatus:
        try:
            if unmade is not None:
                raise unmade
            return self._engine.launch(spec)
        except EngineError as error:
            return not_started(spec, error)

    async def _fence(self, order: Answer) -> Answer:
        await self._do(self._set_fences, order["fences"])
        return {}

    def _set_fences(self, fences: dict[str, int]) -> None:
        for gang, epoch in fences.items():
            if self._fences.get(gang, -1) < epoch:
                self._engine.fence(gang, epoch)
                self._fences[gang] = epoch

    async def _signal(self, order: Answer) -> Answer:
        return {"sent": await self._do(self._engine.signal, RankName.parse(order["name"]), int(order["number"]))}

    async def _tell_changes(self, order: Answer) -> Answer:
        since, asked_s = int(order["since"]), time.monotonic()
        end_s = asked_s + float(order["wait_s"])
        while (found := self._changes_since(since)) is None:
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                found = self._changes.since(self._changes.version) | {"letters": []}
                break
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), left_s)
        report = self._devices.report()
        clock = {"time_s": time.time(), "waited_s": time.monotonic() - asked_s}
        return found | clock | ({} if report["at"] == order["report"] else {"devices": report})

    def _changes_since(self, version: int) -> Answer | None:
        found = self._changes.since(version)
        letters = [list(letter) for letter, changed in self._letters.values() if changed > version]
        return found | {"letters": letters} if found["version"] > version or not version else None

    async def _log(self, order: Answer) -> Answer:
        try:
            name = RankName.parse(order["name"])
            text, offset = await self._do(self._engine.log, name, int(order["offset"]), int(order["limit"]))
        except KeyError:
            return {"text": None, "offset": 0}
        return {"text": text.hex(), "offset": offset}

    async def _log_offset(self, order: Answer) -> Answer:
        try:
            name = RankName.parse(order["name"])
            return {"offset": await self._do(self._engine.log_offset, name, float(order["since_s"]))}
        except KeyError:
            return {"offset": None}

    async def _check(self, order: Answer) -> Answer:
        return {"why": await self._do(why_not, spec_from_row(order["spec"]))}

    async def _forget(self, order: Answer) -> Answer:
        name = RankName.parse(order["name"])
        await self._do(self._engine.forget, name)
        self._letters.pop((name.gang, f"ranks/{name}.json"), None)
        await self._do(self._look, asyncio.get_running_loop())
        return {}

    async def _post(self, order: Answer) -> Answer:
        for row in order["letters"]:
            self._mailboxes.put(Letter(*row))
        return {}

    async def _want(self, order: Answer) -> Answer:
        self._devices.want(order["clocks_mhz"])
        return {}

    async def _acknowledge(self, order: Answer) -> Answer:
        self._devices.acknowledge(order["ledger"], int(order["version"]), int(order["audit"]))
        return {}

    async def _end(self, order: Answer) -> Answer:
        """End this agent, and what starts its ranks. If ranks run, ``kill`` must be True."""
        self._ending = True  # a question to an engine that has ended would start it again
        try:
            await self._do(partial(self._shutdown, kill=bool(order["kill"])))
        except BaseException:
            self._ending = False
            raise
        self.left.set()
        return {}

    async def _leave(self, _: Answer) -> Answer:
        self.left.set()
        return {}

    # -- what has changed ---------------------------------------------------------------------------------------------

    def _wait_and_look(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            if self._ending:
                time.sleep(0.1)
            elif self._engine.wait(1.0):
                self._look(loop)
        except EngineError:
            time.sleep(0.2)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ask the engine for all ranks; call this in a thread."""
        if self._ending:
            return
        statuses = self._engine.ranks()
        asyncio.run_coroutine_threadsafe(self._took(statuses), loop).result()

    async def _took(self, statuses: Sequence[RankStatus]) -> None:
        before = self._changes.version
        self._changes.take(statuses)
        if self._changes.version != before:
            self._news.set()

    def _read_mail(self) -> None:
        self._take_letters(self._mailboxes.news())

    def _take_letters(self, letters: Iterable[Letter]) -> None:
        for letter in letters:
            self._changes.version += 1
            self._letters[letter.gang, letter.file] = letter, self._changes.version
            self._news.set()

    def _do(self, act: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Run a function that may wait for the engine in a thread."""
        return asyncio.get_running_loop().run_in_executor(self._pool, act, *args)
