"""Send browsers the state of the cluster as server-sent events: all of it first, then what has changed.

The id of an event has the number of its state, and a mark of this process. A browser that comes back with an id which
is still kept gets only what has changed since; any other one, as after a restart of the controller, gets all.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool

from powerflow.api.cluster_api import ClusterApi
from powerflow.dashboard.cluster_view import cluster_view
from powerflow.dashboard.language import words
from powerflow.dashboard.wire import merge_patch, state_of
from powerflow.errors import InputError

#: Seconds between two states; and how many times as long as reading a state the rest after it is at least.
EVERY_S, LEAST_REST = 2.0, 10.0
#: States that are kept for browsers that come back.
KEPT = 16
#: Seconds between two looks whether to end; most characters of the text of an error.
_LOOK_S, _LONGEST = 0.25, 500


@dataclass(frozen=True, slots=True)
class _Kept:
    """One state of the page: its number, and what is in it."""

    number: int
    state: Mapping[str, Any]


class LiveStates:
    """The latest states of the page of the cluster in one language. All browsers share them.

    They are read only while a browser waits for them.
    """

    def __init__(self, cluster: ClusterApi, language: str) -> None:
        self._cluster, self._words = cluster, words(language)
        self._mark = secrets.token_hex(4)
        self._kept: deque[_Kept] = deque(maxlen=KEPT)
        self._reading = asyncio.Lock()
        self._due_s = 0.0

    async def after(self, last_id: str) -> tuple[str, Mapping[str, Any], bool]:
        """Return the latest state: its id, what has changed since the state ``last_id``, and False.

        If that state is not kept, return all of the latest one, and True. A state is read if the latest one is old.
        """
        async with self._reading:
            if time.monotonic() >= self._due_s:
                began_s = time.monotonic()
                state = await run_in_threadpool(self._read)
                self._kept.append(_Kept(self._kept[-1].number + 1 if self._kept else 1, state))
                now_s = time.monotonic()
                self._due_s = now_s + max(EVERY_S, LEAST_REST * (now_s - began_s))
        latest = self._kept[-1]
        known = self._known(last_id)
        new_id = f"{self._mark}-{latest.number}"
        if known is None:
            return new_id, latest.state, True
        return new_id, merge_patch(known.state, latest.state), False

    def wait_s(self) -> float:
        """Return the seconds until a new state may be read."""
        return max(0.0, self._due_s - time.monotonic())

    def _read(self) -> Mapping[str, Any]:
        return state_of(cluster_view(self._cluster, self._words), self._words)

    def _known(self, last_id: str) -> _Kept | None:
        mark, _, number = last_id.partition("-")
        if mark != self._mark:
            return None
        return next((kept for kept in self._kept if str(kept.number) == number), None)


async def events(states: LiveStates, last_id: str, goes_on: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Yield server-sent events until ``goes_on`` returns False; of an error of the cluster, what it says."""
    yield b"retry: 2000\n\n"
    while goes_on():
        try:
            new_id, content, whole = await states.after(last_id)
        except (InputError, OSError) as error:
            yield f"event: trouble\ndata: {json.dumps(str(error)[:_LONGEST])}\n\n".encode()
            await asyncio.sleep(EVERY_S)
            continue
        if new_id != last_id:
            kind, last_id = "state" if whole else "change", new_id
            text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
            yield f"event: {kind}\nid: {new_id}\ndata: {text}\n\n".encode()
        until_s = time.monotonic() + states.wait_s()
        while goes_on() and (left_s := until_s - time.monotonic()) > 0:
            await asyncio.sleep(min(left_s, _LOOK_S))


async def zipped(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the same pieces for ``Content-Encoding: gzip``, each of them so that it can be read at once."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    async for piece in pieces:
        yield packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)
    yield packer.flush()
