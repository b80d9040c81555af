"""Serve the fork server's users: answer requests, and create a shim (a process that watches one rank) for each launch.

The server also notices when a shim ends. It has a single thread, because it forks. A request is one line of JSON, and
an answer is one line of JSON; answers come in the order of requests. The environment of a rank to launch comes as an
open file, which the fork server passes to the rank without reading it.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from powerflow import __version__
from powerflow.engine.local import process, records
from powerflow.engine.local.becoming import Launch
from powerflow.engine.local.table import RankTable
from powerflow.engine.protocol import EngineError, Fenced

_MOST_REQUEST_BYTES = 64 << 20
_SWEEP_S = 0.02
_LONGEST_SLEEP_S = 3600.0


@dataclass(eq=False)
class Peer:
    """Connection of one user of the fork server.

    The fields are: files that were received, the beginning of an incomplete request, bytes to send, and until when the
    user waits for a change of the ranks.
    """

    socket: socket.socket
    files: list[int] = field(default_factory=list)
    incoming: bytearray = field(default_factory=bytearray)
    outgoing: bytearray = field(default_factory=bytearray)
    wait_until_s: float | None = None


@dataclass
class Pending:
    """A launch whose shim (the small process beside a rank) has not answered yet.

    Attributes:
        shim: Pid of the shim.
        waiters: Clients that wait for the answer.
        heard: The part of the answer that has come so far.
    """

    shim: int
    waiters: list[Peer]
    heard: bytearray = field(default_factory=bytearray)


class _Forked(BaseException):  # no error: it carries a new shim out of the loop, past all `except Exception`
    def __init__(self, launch: Launch) -> None:
        self.launch = launch


class ForkServer:
    """Server of one engine folder.

    Args:
        table: Table of the ranks.
        listener: Socket to which users connect.
        nodes: Number of GPUs for each node name.
        notices: Notices for the operator, one line each.
        keep: File descriptors that ranks inherit.
        umask: Umask of ranks.
    """

    def __init__(
        self,
        table: RankTable,
        listener: socket.socket,
        nodes: dict[str, int],
        notices: Sequence[str],
        keep: Collection[int],
        umask: int,
    ) -> None:
        self._table = table
        self._listener = listener
        self._nodes = nodes
        self._notices = list(notices)
        self._keep = keep
        self._umask = umask
        self._open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._open_files[1], self._open_files[1]))
        self._identity = os.urandom(8).hex()
        self._pending: dict[str, Pending] = {}
        self._waiting: set[Peer] = set()
        self._sweep_s: float | None = None
        self._ending: Peer | None = None
        self._rows: tuple[int, list[Any]] = (-1, [])
        self._selector = selectors.DefaultSelector()
        self._verbs: dict[str, Callable[[Peer, dict[str, Any]], dict[str, Any] | None]] = {
            "hello": self._hello,
            "launch": self._launch,
            "fence": self._fence,
            "signal": self._signal,
            "ranks": self._ranks,
            "wait": self._wait,
            "forget": self._forget,
            "shutdown": self._shutdown,
        }

    def serve(self) -> Launch | None:
        """Answer requests until a request asks the fork server to end, and return None.

        In a fork for a shim, return the rank to launch.
        """
        process.adopt_orphans()
        if (threads := len(os.listdir("/proc/self/task"))) > 1:
            self._notices.append(f"preloaded modules have started {threads - 1} threads, which do not run in ranks")
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        for name, entry in self._table.entries.items():
            self._watch(name, entry.pidfd)
        try:
            while self._ending is None or self._table.running() or self._pending:
                for key, events in self._selector.select(self._next_s()):
                    key.data(events)
                self._on_time()
        except _Forked as forked:
            self._let_go()
            return forked.launch
        self._end()
        return None

    def _let_go(self) -> None:
        """Close all sockets; call this in a new fork.

        If the garbage collector closed the sockets later, it would close other files, which have the same descriptors
        by then.
        """
        for key in [*self._selector.get_map().values()]:
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()

    # --- connections

    def _accept(self, _: int) -> None:
        with contextlib.suppress(OSError):
            connection, _address = self._listener.accept()
            _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if user not in (0, os.geteuid()):
                return connection.close()
            connection.setblocking(False)
            peer = Peer(connection)
            self._selector.register(connection, selectors.EVENT_READ, lambda events: self._talk(peer, events))

    def _talk(self, peer: Peer, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                self._flush(peer)
            if events & selectors.EVENT_READ:
                data, files, _, _ = socket.recv_fds(peer.socket, 1 << 18, 16)
                peer.files += files
                peer.incoming += data
                if not data or len(peer.incoming) > _MOST_REQUEST_BYTES:
                    return self._hang_up(peer)
        except BlockingIOError:
            return
        except OSError:
            return self._hang_up(peer)
        while (end := peer.incoming.find(b"\n")) >= 0:
            line = bytes(peer.incoming[:end])
            del peer.incoming[: end + 1]
            self._answer(peer, line)

    def _answer(self, peer: Peer, line: bytes) -> None:
        try:
            request = json.loads(line)
            answer = self._verbs[request["do"]](peer, request)
        except Exception as error:
            answer = _refusal(error)
        while peer.files:
            os.close(peer.files.pop())
        if answer is not None:
            self._say(peer, answer)

    def _say(self, peer: Peer, answer: dict[str, Any]) -> None:
        peer.outgoing += json.dumps(answer, separators=(",", ":")).encode() + b"\n"
        try:
            self._flush(peer)
        except OSError:
            self._hang_up(peer)

    def _flush(self, peer: Peer) -> None:
        with contextlib.suppress(BlockingIOError):
            while peer.outgoing:
                del peer.outgoing[: peer.socket.send(peer.outgoing)]
        if peer.socket.fileno() >= 0:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.outgoing else 0)
            key = self._selector.get_key(peer.socket)
            if key.events != wanted:
                self._selector.modify(peer.socket, wanted, key.data)

    def _hang_up(self, peer: Peer) -> None:
        if peer.socket.fileno() >= 0:
            self._selector.unregister(peer.socket)
            peer.socket.close()
        self._waiting.discard(peer)
        peer.incoming.clear()
        peer.outgoing.clear()

    # --- requests

    def _hello(self, _: Peer, request: dict[str, Any]) -> dict[str, Any]:
        """Return a description of this fork server.

        If the request has ``nodes``, these nodes first replace the fork server's nodes.
        """
        if request.get("nodes") is not None:
            self._nodes = {str(name): int(gpus) for name, gpus in request["nodes"].items()}
            records.remember({"nodes": self._nodes})
        if request.get("owner"):  # for a folder of a version that had no owners
            records.remember({"owner": str(request["owner"])})
        users = {"user"} if os.geteuid() == 0 else set()
        return {
            "nodes": self._nodes,
            "limits": sorted(users | self._table.cgroups.limits()),
            "notices": self._notices,
            "pid": os.getpid(),
            "version": __version__,
        }

    def _launch(self, peer: Peer, request: dict[str, Any]) -> dict[str, Any] | None:
        spec = records.check_spec(records.spec_from_row(request["spec"]))
        name = str(spec.name)
        if entry := self._table.entries.get(name):
            return {"rank": records.status_row(entry.status)}
        if pending := self._pending.get(name):
            pending.waiters.append(peer)
            return None
        if spec.node not in self._nodes:
            raise EngineError(f"there is no node {spec.node!r}")
        if len(peer.files) != 1:
            raise EngineError("a launch comes with one file: the environment")
        if self._ending:
            raise EngineError("the fork server is ending", retry=True)
        directory = self._table.admit(spec)
        try:
            answer, reply = os.pipe()
            child = os.fork()
        except OSError as error:
            self._table.drop_failed(name)
            raise EngineError(f"no process can be made: {error}", retry=True) from None
        if child == 0:
            environment = peer.files[0]
            peer.files.clear()
            limits = self._umask, self._open_files
            raise _Forked(Launch(spec, directory, environment, reply, self._table.cgroups, self._keep, *limits))
        os.close(reply)
        self._pending[name] = Pending(child, [peer])
        self._selector.register(answer, selectors.EVENT_READ, lambda _: self._hear(name, answer))
        return None

    def _hear(self, name: str, answer: int) -> None:
        """Read from a new shim whether its launch succeeded, or notice that the shim died."""
        pending = self._pending[name]
        if data := os.read(answer, 65536):
            pending.heard += data
            return
        self._selector.unregister(answer)
        os.close(answer)
        del self._pending[name]
        word: dict[str, Any] = json.loads(pending.heard or b"{}")
        if "error" in word:
            said = _refusal(EngineError(word["error"], retry=word["retry"], final=word["final"]))
            self._table.drop_failed(name)
        elif entry := self._table.refresh(name):
            self._watch(name, entry.pidfd)
            self._changed()
            said = {"rank": records.status_row(entry.status)}
        else:
            said = _refusal(EngineError(f"{name} was killed while it was started", retry=True))
        for waiter in pending.waiters:
            self._say(waiter, said)
        self._sweep_s = 0.0

    def _fence(self, _: Peer, request: dict[str, Any]) -> dict[str, Any]:
        self._table.fence(records.check_gang(request["gang"]), records.check_epoch(request["epoch"]))
        return {}

    def _signal(self, _: Peer, request: dict[str, Any]) -> dict[str, Any]:
        return {"sent": self._table.signal(request["name"], signal.Signals(request["number"]))}

    def _ranks(self, _: Peer, request: dict[str, Any]) -> dict[str, Any]:
        version = f"{self._identity}-{self._table.version}"
        if request.get("seen") == version:
            return {"version": version}
        if self._rows[0] != self._table.version:
            rows = [records.status_row(entry.status) for entry in self._table.entries.values()]
            self._rows = self._table.version, rows
        return {"version": version, "ranks": self._rows[1]}

    def _wait(self, peer: Peer, request: dict[str, Any]) -> dict[str, Any] | None:
        version = f"{self._identity}-{self._table.version}"
        if request["seen"] != version:
            return {"version": version}
        peer.wait_until_s = time.monotonic() + float(request["timeout_s"])
        self._waiting.add(peer)
        return None

    def _forget(self, _: Peer, request: dict[str, Any]) -> dict[str, Any]:
        before = self._table.version
        self._table.drop(request["name"])
        if self._table.version != before:
            self._changed()
        return {}

    def _shutdown(self, peer: Peer, request: dict[str, Any]) -> dict[str, Any] | None:
        running = self._table.running()
        if (running or self._pending) and not request["kill"]:
            raise EngineError(
                f"{len(running) + len(self._pending)} ranks run; end them first, or ask the fork server to kill them"
            )
        self._ending = peer
        for name in running:
            self._table.signal(name, signal.SIGKILL)
        return None

    # --- events

    def _watch(self, name: str, pidfd: int) -> None:
        if pidfd >= 0:
            self._selector.register(pidfd, selectors.EVENT_READ, lambda _: self._shim_ended(name, pidfd))

    def _shim_ended(self, name: str, pidfd: int) -> None:
        self._selector.unregister(pidfd)
        self._table.ended(name)
        self._sweep_s = 0.0
        self._changed()

    def _changed(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for peer in waiting:
            self._say(peer, {"version": f"{self._identity}-{self._table.version}"})

    def _next_s(self) -> float | None:
        """Return the seconds until the next timed action of this server; None if there is none."""
        due = [peer.wait_until_s for peer in self._waiting if peer.wait_until_s is not None]
        if self._sweep_s is not None:
            due.append(self._sweep_s)
        return min(max(0.0, min(due) - time.monotonic()), _LONGEST_SLEEP_S) if due else None

    def _on_time(self) -> None:
        now_s = time.monotonic()
        for peer in [*self._waiting]:
            if peer.wait_until_s is not None and peer.wait_until_s <= now_s:
                self._waiting.discard(peer)
                self._say(peer, {"version": f"{self._identity}-{self._table.version}"})
        if self._sweep_s is not None and self._sweep_s <= now_s:
            self._sweep_s = now_s + _SWEEP_S if self._sweep() else None
        if self._ending:
            for name in self._table.running():
                self._table.signal(name, signal.SIGKILL)

    def _sweep(self) -> int:
        """Collect ended shims, and kill processes whose shim was killed.

        Return how many of these processes were found.
        """
        ours = {entry.shim for entry in self._table.entries.values() if entry.pidfd >= 0}
        ours |= {pending.shim for pending in self._pending.values()}
        return process.kill_children(ours.__contains__)

    def _end(self) -> None:
        process.end_children()
        self._table.cgroups.close()
        os.unlink(records.SOCKET)
        assert self._ending is not None
        self._ending.socket.setblocking(True)
        with contextlib.suppress(OSError):
            self._ending.socket.sendall(json.dumps({"server": os.getpid()}).encode() + b"\n")


def _refusal(error: Exception) -> dict[str, Any]:
    if isinstance(error, EngineError):
        fenced = isinstance(error, Fenced)
        return {"error": str(error), "retry": error.retry, "final": error.final, "fenced": fenced}
    retry = isinstance(error, OSError)  # a full disk, no file descriptors left
    return {"error": f"{type(error).__name__}: {error}", "retry": retry, "fenced": False}
