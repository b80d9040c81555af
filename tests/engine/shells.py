"""Run commands beside ranks to their end, whatever opens the shells."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

from powerflow.engine.protocol import RankName
from powerflow.engine.shells import PIECE_BYTES, ShellOutput, Shells, ShellSpec, Terminal

_keys = itertools.count()


class Ended(NamedTuple):
    """What a command wrote, and how it ended."""

    code: int | None
    out: bytes
    err: bytes


class Talk:
    """A shell that a test has opened."""

    def __init__(self, shells: Shells, node: str, rank: RankName) -> None:
        self.shells, self._node, self._rank = shells, node, rank
        self.key = f"talk-{next(_keys)}"
        self.out, self.err = bytearray(), bytearray()
        self.last = ShellOutput(0)
        self.sent = 0

    async def open(self, *command: str, terminal: Terminal | None = None) -> Talk:
        await self.shells.open(self.key, self._node, ShellSpec(self._rank, command, terminal))
        return self

    async def send(self, data: bytes, *, end: bool = False) -> None:
        while data or end:
            last = end and len(data) <= PIECE_BYTES
            taken = await self.shells.write(self.key, self.sent, data[:PIECE_BYTES], end=last, wait_s=1.0)
            data, self.sent = data[taken - self.sent :], taken
            if not data:
                return

    async def until(self, done: Callable[[], bool], most_s: float = 60.0) -> None:
        """Read until something is true."""
        end_s = time.monotonic() + most_s
        while not done():
            assert time.monotonic() < end_s, (bytes(self.out[-500:]), bytes(self.err[-500:]), self.last.code)
            assert not self.last.ended, (bytes(self.out[-500:]), bytes(self.err[-500:]), self.last.code)
            self.last = await self.shells.read(self.key, self.last.number, 0.5)
            self.out += self.last.out
            self.err += self.last.err

    async def says(self, what: bytes) -> None:
        await self.until(lambda: what in self.out)
        del self.out[: self.out.index(what) + len(what)]

    async def ended(self) -> Ended:
        await self.until(lambda: self.last.ended)
        self.shells.close(self.key)
        return Ended(self.last.code, bytes(self.out), bytes(self.err))


async def ran(
    shells: Shells, node: str, rank: RankName, *command: str, stdin: bytes = b"", terminal: Terminal | None = None
) -> Ended:
    """Run a command to its end."""
    talk = await Talk(shells, node, rank).open(*command, terminal=terminal)
    sending = asyncio.create_task(talk.send(stdin, end=terminal is None))
    ended = await talk.ended()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    return ended
