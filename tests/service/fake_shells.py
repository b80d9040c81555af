"""Shells without processes: each says what it was told to run, repeats its input, and ends with it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

from powerflow.api.records import Caller, Forbidden, JobRecord, JobState, NodeAway, NotFound, Refused
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
from powerflow.engine.protocol import EngineError, RankName
from powerflow.engine.shells import NoShell, ShellOutput, Shells, ShellSpec, Terminal

Answer = TypeVar("Answer")


@dataclass
class _Echo:
    spec: ShellSpec
    written: bytearray
    number: int = 0
    piece: ShellOutput = field(default_factory=lambda: ShellOutput(0))
    ends: bool = False
    size: tuple[int, int] = (0, 0)


class EchoShells:
    """A `Shells`; ``refusal`` is raised by every call, ``code`` is how commands end, ``closed`` are those hung up."""

    def __init__(self) -> None:
        self.echoes: dict[str, _Echo] = {}
        self.refusal: EngineError | None = None
        self.code: int | None = 0
        self.closed: list[str] = []

    async def open(self, shell: str, node: str, spec: ShellSpec) -> None:
        self._refuse()
        said = f"{spec.rank} on {node}: {' '.join(spec.command)}\n"
        self.echoes[shell] = _Echo(spec, bytearray(said.encode()))

    async def read(self, shell: str, after: int, wait_s: float) -> ShellOutput:
        echo = self._echo(shell)
        if not echo.written and not echo.ends:
            await asyncio.sleep(min(wait_s, 0.01))
        if after == echo.piece.number and (echo.written or echo.ends):
            code = self.code if echo.ends else None
            echo.piece = ShellOutput(after + 1, bytes(echo.written), b"", echo.ends, code)
            echo.written.clear()
        return echo.piece if echo.piece.number == after + 1 else ShellOutput(after)

    async def write(self, shell: str, offset: int, data: bytes, *, end: bool, wait_s: float) -> int:
        echo = self._echo(shell)
        echo.written += data[max(0, echo.number - offset) :]
        echo.number = max(echo.number, offset + len(data))
        echo.ends |= end
        return echo.number

    async def resize(self, shell: str, rows: int, columns: int) -> None:
        self._echo(shell).size = rows, columns

    def close(self, shell: str) -> None:
        self.closed.append(shell)
        self.echoes.pop(shell, None)

    def _echo(self, shell: str) -> _Echo:
        self._refuse()
        if shell not in self.echoes:
            raise NoShell("the node does not know this shell any more")
        return self.echoes[shell]

    def _refuse(self) -> None:
        if self.refusal is not None:
            raise self.refusal


class FakeUserShells(ABC):
    """The shells of the users of a cluster without a cluster; ``shells`` opens them.

    ``told_to_end``: all ranks were told to end.
    """

    told_to_end = False

    def __init__(self) -> None:
        self.shells: Shells = EchoShells()
        self._shells: dict[str, tuple[ShellRecord, str]] = {}  # with its user

    @abstractmethod
    def _own(self, job_id: str, caller: Caller) -> JobRecord:
        """Return a job that a caller may change."""

    async def open_shell(self, job_id: str, order: ShellOrder, caller: Caller) -> ShellRecord:
        if self._own(job_id, caller).state is not JobState.RUNNING:
            raise Refused(f"job {job_id} does not run")
        if order.rank != "0":
            raise NotFound(f"job {job_id} has no rank {order.rank}")
        record, asked = ShellRecord(f"{len(self._shells):016x}", job_id, f"{job_id}.1.0", "n1"), order.terminal
        self._shells[record.id] = record, caller.user
        terminal = None if asked is None else Terminal(asked.kind, asked.rows, asked.columns)
        await _asked(
            self.shells.open(record.id, record.node, ShellSpec(RankName(job_id, 1, 0), order.command, terminal))
        )
        return record

    async def shell_output(
        self, job_id: str, shell: str, caller: Caller, *, after: int = 0, wait_s: float = 0.0
    ) -> ShellPiece:
        self._shell(job_id, shell, caller)
        piece = await _asked(self.shells.read(shell, after, wait_s))
        why = ""
        if piece.ended and (self.told_to_end or piece.code is None):
            how = "was told to end" if self.told_to_end else "has ended"
            why = f"rank {job_id}.1.0 {how}, and this shell with it"
        return ShellPiece(piece.number, as_text(piece.out), as_text(piece.err), piece.ended, piece.code, why)

    async def shell_input(self, job_id: str, shell: str, given: ShellInput, caller: Caller) -> ShellTaken:
        self._shell(job_id, shell, caller)
        data = as_bytes(given.data)
        return ShellTaken(await _asked(self.shells.write(shell, given.offset, data, end=given.end, wait_s=0.5)))

    async def resize_shell(self, job_id: str, shell: str, size: ShellSize, caller: Caller) -> ShellRecord:
        record = self._shell(job_id, shell, caller)
        await _asked(self.shells.resize(shell, size.rows, size.columns))
        return record

    async def close_shell(self, job_id: str, shell: str, caller: Caller) -> ShellRecord:
        record = self._shell(job_id, shell, caller)
        self.shells.close(shell)
        return record

    def _shell(self, job_id: str, shell: str, caller: Caller) -> ShellRecord:
        record, user = self._shells.get(shell, (None, ""))
        if record is None or record.job_id != job_id:
            raise NotFound(f"job {job_id} has no shell {shell}")
        if user != caller.user:
            raise Forbidden(f"shell {shell} belongs to {user}")
        return record


async def _asked(answer: Awaitable[Answer]) -> Answer:
    try:
        return await answer
    except NoShell:
        raise NotFound("the shell has ended") from None
    except EngineError as error:
        raise (NodeAway if error.retry else Refused)(str(error)) from None
