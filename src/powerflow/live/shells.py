"""Open shells beside the ranks of jobs for users, and tell the audit of each: who, beside which rank, and its end.

The audit has the first word of the command only, because its arguments may hold secrets. Each shell is audited before
it is opened. Which shells are open is in the store, too, so that the next controller can tell the end of those that a
killed controller has left.

Coroutines run in the event loop of the API. They never wait there: the store is used in threads, and nodes answer
through `Shells`. The controller's loop calls `look`, which asks no node.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex

from powerflow.api.governance import AuditRecord, audited
from powerflow.api.records import Caller, Forbidden, NodeAway, NotFound, Refused, Role
from powerflow.api.shells import (
    ShellInput,
    ShellOrder,
    ShellPiece,
    ShellRecord,
    ShellSize,
    ShellTaken,
    as_bytes,
    as_text,
)
from powerflow.engine.protocol import Engine, EngineError, RankName
from powerflow.engine.shells import SILENT_S, NoShell, Shells, ShellSpec, Terminal
from powerflow.errors import InputError
from powerflow.gangs.manager import Gangs
from powerflow.live.running_rank import running_rank
from powerflow.store.database import StoreError
from powerflow.store.store import Store

#: Most shells of a job at the same time.
MOST_SHELLS = 4
#: A shell counts as hung up if its user has not asked for this long: its node has hung it up by then.
LOST_S = SILENT_S + 5.0
#: Longest wait of a request with input for room, seconds.
INPUT_S = 2.0
#: Setting in the store: the shells that are open.
OPEN = "shells"
#: Characters of a command's first word that the audit has.
_MOST_WORD = 64


@dataclass(slots=True, eq=False)
class UserShell:
    """A shell that a user has opened.

    Attributes:
        record: The shell as the API shows it.
        caller: Its user.
        asked_s: When its user last asked for it, on the monotonic clock.
        over: True if it has ended.
    """

    record: ShellRecord
    caller: Caller
    asked_s: float
    over: bool = False


class UserShells:
    """The shells of the users of one cluster. Any thread may use it.

    Args:
        store, engine, gangs: Those of the controller.
        clock: Returns the present in Unix seconds.
    """

    def __init__(self, store: Store, engine: Engine, gangs: Gangs, clock: Callable[[], float]) -> None:
        self._store, self._engine, self._gangs, self._clock = store, engine, gangs, clock
        self._shells: dict[str, UserShell] = {}
        self._ends: dict[str, AuditRecord] = {}  # of shells, not in the store yet
        self._writing = threading.Lock()

    # -- for the API --------------------------------------------------------------------------------------------------

    async def open(self, job_id: str, order: ShellOrder, caller: Caller) -> ShellRecord:
        """Run a command beside a rank of a job. See `ClusterApi.open_shell`."""
        if (shells := self._engine.shells) is None:
            raise Refused("this cluster's engine cannot open shells")
        record = await asyncio.to_thread(self._admit, job_id, order, caller)
        terminal = None
        if order.terminal is not None:
            terminal = Terminal(order.terminal.kind, order.terminal.rows, order.terminal.columns)
        try:
            await shells.open(record.id, record.node, ShellSpec(RankName.parse(record.rank), order.command, terminal))
        except BaseException as error:
            why = str(error) if isinstance(error, EngineError) else "the request was broken off"
            self._ended(record.id, f"it could not be opened: {why}")
            self.forget(record.id)
            if not isinstance(error, EngineError):
                raise
            raise (NodeAway if error.retry else Refused)(str(error)) from error
        return record

    async def output(self, job_id: str, shell: str, caller: Caller, after: int, wait_s: float) -> ShellPiece:
        """Return a piece of the output of a shell. See `ClusterApi.shell_output`."""
        mine, shells = self._own(job_id, shell, caller)
        try:
            piece = await shells.read(shell, after, wait_s)
        except EngineError as error:
            raise await self._failed(mine, error) from error
        why = ""
        if piece.ended:
            its_rank = await self._what_its_rank_did(mine.record, piece.code)
            self._ended(shell, f"its rank {its_rank}" if its_rank else _how(piece.code))
            why = f"rank {mine.record.rank} {its_rank}, and this shell with it" if its_rank else ""
        return ShellPiece(piece.number, as_text(piece.out), as_text(piece.err), piece.ended, piece.code, why)

    async def input(self, job_id: str, shell: str, given: ShellInput, caller: Caller) -> ShellTaken:
        """Pass input to a shell. See `ClusterApi.shell_input`."""
        mine, shells = self._own(job_id, shell, caller)
        data = as_bytes(given.data)
        try:
            return ShellTaken(await shells.write(shell, given.offset, data, end=given.end, wait_s=INPUT_S))
        except EngineError as error:
            raise await self._failed(mine, error) from error

    async def resize(self, job_id: str, shell: str, size: ShellSize, caller: Caller) -> ShellRecord:
        """Change the size of a shell's terminal."""
        mine, shells = self._own(job_id, shell, caller)
        try:
            await shells.resize(shell, size.rows, size.columns)
        except EngineError as error:
            raise await self._failed(mine, error) from error
        return mine.record

    async def close(self, job_id: str, shell: str, caller: Caller) -> ShellRecord:
        """Hang a shell up."""
        mine, _ = self._own(job_id, shell, caller)
        self._ended(shell, "its user has closed it")
        self.forget(shell)
        return mine.record

    # -- for the controller's loop ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Tell the audit of the ends of shells that an earlier controller has left.

        Raises:
            StoreError: The store cannot be used.
        """
        rows, now_s = list(self._store.get(OPEN, [])), self._clock()
        if rows:
            why = "another controller was started"
            self._store.govern(OPEN, [], [_end(row, now_s, why) for row in rows])

    def look(self, _: float) -> None:
        """Hang up shells whose users have not asked for a long time, and tell the audit of all ends.

        Raises:
            StoreError: The store cannot be used; the next call tries it again.
        """
        now_s = time.monotonic()
        for shell, mine in list(self._shells.items()):
            if now_s - mine.asked_s > LOST_S:
                self._ended(shell, f"its user was not heard of for {SILENT_S:.0f} s")
                self.forget(shell)
        if self._ends and self._writing.acquire(blocking=False):  # otherwise a request writes
            try:
                self._write([])
            finally:
                self._writing.release()

    def finish(self) -> None:
        """Hang up all shells, because the controller ends, and tell the audit.

        Raises:
            StoreError: The store cannot be used.
        """
        for shell in list(self._shells):
            self._ended(shell, "the controller was stopped")
            self.forget(shell)
        if self._ends:
            with self._writing:
                self._write([])

    def forget(self, shell: str) -> None:
        """Hang a shell up, and forget it."""
        self._shells.pop(shell, None)
        if self._engine.shells is not None:
            self._engine.shells.close(shell)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _admit(self, job_id: str, order: ShellOrder, caller: Caller) -> ShellRecord:
        """Return a new shell that a caller may open, after the audit was told of it."""
        job = self._store.job(job_id)
        if caller.role is not Role.OPERATOR and caller.user != job.user:
            raise Forbidden(f"job {job_id} belongs to {job.user}", fix="only its owner or an operator may open a shell")
        rank = running_rank(self._gangs, job, order.rank)
        record = ShellRecord(token_hex(8), job_id, str(rank.name), rank.node)
        fields = {"owner": job.user, "rank": record.rank, "shell": record.id, "command": _first_word(order)}
        with self._writing:
            open_now = Counter(other.record.job_id for other in list(self._shells.values()) if not other.over)
            if open_now[job_id] >= MOST_SHELLS:
                what = f"job {job_id} has {MOST_SHELLS} shells already, the most that a job can have"
                raise Refused(what, fix=f"end one of them (if its user has gone, it ends after {SILENT_S:.0f} s)")
            self._shells[record.id] = UserShell(record, caller, time.monotonic())
            try:
                self._write([audited(caller, self._clock(), "job shell opened", f"job {job_id}", fields)])
            except BaseException:
                del self._shells[record.id]
                raise
        return record

    async def _what_its_rank_did(self, shell: ShellRecord, code: int | None) -> str:
        """Return what a shell's rank did, if the shell has ended because of it; otherwise "".

        A job that must end gets SIGTERM, and so do its shells.
        """
        if code is None:
            return "has ended"
        to_end = code == -signal.SIGTERM and await asyncio.to_thread(self._is_told_to_end, shell)
        return "was told to end" if to_end else ""

    def _is_told_to_end(self, shell: ShellRecord) -> bool:
        """Return True if a shell's rank shall not run any more; False if this is not known."""
        try:
            running_rank(self._gangs, self._store.job(shell.job_id), shell.rank)
        except (Refused, NotFound):
            return True
        except (NodeAway, StoreError):
            pass
        return False

    def _own(self, job_id: str, shell: str, caller: Caller) -> tuple[UserShell, Shells]:
        """Return a shell of a caller, who has asked for it now."""
        mine, shells = self._shells.get(shell), self._engine.shells
        if mine is None or shells is None or mine.record.job_id != job_id:
            raise NotFound(f"job {job_id} has no shell {shell}")
        if mine.caller.user != caller.user:
            raise Forbidden(f"shell {shell} belongs to {mine.caller.user}")
        mine.asked_s = time.monotonic()
        return mine, shells

    async def _failed(self, mine: UserShell, error: EngineError) -> Exception:
        """Return the error to answer with, after a node has answered with one."""
        if error.retry:
            return NodeAway(str(error))
        if not isinstance(error, NoShell):
            return InputError(str(error))
        if await asyncio.to_thread(self._is_told_to_end, mine.record):
            why = f"rank {mine.record.rank} was told to end, and this shell with it"
        else:
            why = f"node {mine.record.node} has hung it up: its agent was started again, or has not heard of its user"
        self._ended(mine.record.id, why)
        self.forget(mine.record.id)
        return NotFound(f"the shell has ended: {why}")

    def _ended(self, shell: str, why: str) -> None:
        """Note the end of a shell, once, for the audit."""
        mine = self._shells.get(shell)
        if mine is None or mine.over:
            return
        mine.over = True
        self._ends[shell] = _end(_row(mine), self._clock(), why)

    def _write(self, entries: list[AuditRecord]) -> None:
        """Write audit entries and the ends of shells, and which shells are open."""
        rows = [_row(mine) for mine in list(self._shells.values()) if not mine.over]
        ends = dict(self._ends)
        self._store.govern(OPEN, rows, [*entries, *ends.values()])
        for shell in ends:
            del self._ends[shell]


def _row(mine: UserShell) -> dict[str, str]:
    record = mine.record
    return {
        "shell": record.id,
        "job": f"job {record.job_id}",
        "rank": record.rank,
        "user": mine.caller.user,
        "address": mine.caller.address,
    }


def _end(row: dict[str, str], now_s: float, why: str) -> AuditRecord:
    """Return the audit entry for the end of a shell, given its row in the store."""
    fields = {"rank": row["rank"], "shell": row["shell"], "why": why}
    return AuditRecord(0, now_s, row["user"], row["address"], "job shell ended", row["job"], fields)


def _how(code: int | None) -> str:
    assert code is not None  # otherwise its rank has ended
    return f"exit code {code}" if code >= 0 else f"ended by signal {-code}"


def _first_word(order: ShellOrder) -> str:
    """Return the first word of a command without what may be a secret: a variable's value, or arguments."""
    words = order.command[0].split() if order.command else []
    return (words[0] if words else "").partition("=")[0][:_MOST_WORD]
