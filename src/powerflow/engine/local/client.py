"""Use the embedded engine: an `Engine` whose ranks are processes of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from powerflow import __version__
from powerflow.engine.local import process, records
from powerflow.engine.local.environment import agent_environment
from powerflow.engine.local.logs import read_log
from powerflow.engine.local.shim import write_environment
from powerflow.engine.protocol import EngineError, EngineNode, Fenced, RankName, RankSpec, RankStatus
from powerflow.osutil.files import locked, read_json

_PATIENCE_S = 30.0  # for how long a request is repeated to an agent that dies again and again
_ANSWER_S = 5.0  # how long a living agent may take to answer
_SILENT_S = 1.0  # the same, after it has not answered once

#: Errors of an agent that lives but does nothing: no answer in time, or a full queue of connections.
_SILENCE = (TimeoutError, BlockingIOError)


class LocalEngine:
    """Run ranks on this machine, through an agent process that outlives this object; safe to use from any thread.

    The agent is started when it is needed and does not run. It plays one or more nodes, which share the machine.

    Args:
        directory: Folder of the engine; it belongs to one user.
        nodes: GPUs by node name. None: as before.
        preload: Modules to import for ranks with ``python=True``, when the agent starts next. Empty: as before.
        owner: Store to which these ranks belong; a folder keeps its first owner. "": do not check it.

    Raises:
        EngineError: The directory belongs to another owner, or its agent cannot be started.

    Attributes:
        started: This object has started the agent; otherwise the agent ran already.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        nodes: Mapping[str, int] | None = None,
        preload: Sequence[str] = (),
        owner: str = "",
    ) -> None:
        self._home = Path(directory).absolute()
        self._wanted = None if nodes is None else dict(nodes)
        self._preload = tuple(preload)
        self._owner = owner
        self._guard = threading.Lock()
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._closed = False
        self.started = False
        self._silent = False  # the agent did not answer in time (it is stopped, or the machine swaps)
        self._seen = threading.local()  # the version of the table that each thread has seen
        self._cache: tuple[str, tuple[RankStatus, ...]] = ("", ())
        found = (read_json(self._home / records.SETTINGS) or {}).get("owner") or owner
        if owner and found != owner:
            raise EngineError(f"{self._home} holds the ranks of another store")
        self._ask({"do": "hello", "nodes": self._wanted, "owner": owner})

    def nodes(self) -> Sequence[EngineNode]:
        """Return all nodes."""
        return [EngineNode(name, gpus) for name, gpus in self._ask({"do": "hello"})["nodes"].items()]

    def limits(self) -> frozenset[str]:
        """Return which limits can be enforced here."""
        return frozenset(self._ask({"do": "hello"})["limits"])

    def notices(self) -> Sequence[str]:
        """Return notices of the agent for the operator, one line each, such as a module that could not be preloaded."""
        return list(self._ask({"do": "hello"})["notices"])

    def launch(self, spec: RankSpec) -> RankStatus:
        """Start a rank once; see `Engine.launch`."""
        request = {"do": "launch", "spec": records.spec_row(records.check_spec(spec))}
        environment = write_environment(spec.env)
        try:
            answer = self._ask(request, environment)
        finally:
            os.close(environment)
        return records.status_from_row(answer["rank"])

    def fence(self, gang: str, epoch: int) -> None:
        """Refuse later launches of a gang below an epoch."""
        self._ask({"do": "fence", "gang": records.check_gang(gang), "epoch": records.check_epoch(epoch)})

    def signal(self, name: RankName, number: int) -> bool:
        """Send a signal to a rank and all its descendants."""
        return bool(self._ask({"do": "signal", "name": str(name), "number": int(number)})["sent"])

    def ranks(self) -> Sequence[RankStatus]:
        """Return the status of every rank that was not forgotten."""
        version, known = self._cache
        answer = self._ask({"do": "ranks", "seen": version})
        if "ranks" in answer:
            known = tuple(records.status_from_row(row) for row in answer["ranks"])
            self._cache = answer["version"], known
        self._seen.version = answer["version"]
        return known

    def wait(self, timeout_s: float) -> bool:
        """Wait until something changed since this thread last called `ranks` or `wait`; the first call returns True."""
        before = getattr(self._seen, "version", "")
        try:
            with self._connection() as connection:
                request = {"do": "wait", "seen": before, "timeout_s": max(0.0, timeout_s)}
                answer = connection.ask(request, within_s=_ANSWER_S + max(0.0, timeout_s))
        except _SILENCE as error:
            raise self._unanswered() from error
        except OSError:  # the agent was killed: anything may have changed
            self._refuse_if_closed()
            self._seen.version = ""
            return True
        self._seen.version = answer["version"]
        return bool(answer["version"] != before)

    def log(self, name: RankName, offset: int = 0, limit: int = 65536) -> tuple[bytes, int]:
        """Return what a rank wrote; see `Engine.log`."""
        try:
            return read_log(self._home / "ranks" / records.file_name(name), offset, limit)
        except (FileNotFoundError, EngineError):
            raise KeyError(name) from None

    def forget(self, name: RankName) -> None:
        """Delete the status and log of a rank that has ended."""
        self._ask({"do": "forget", "name": str(name)})

    def renew_agent(self) -> bool:
        """Replace an agent of another version of PowerFlow; return whether there was one. Its ranks run on.

        New ranks are forks of the agent, so an old agent would start them with old code and an old environment. It can
        be killed, because all that it knows is on disk. Only the sole user of this engine may call this.

        Raises:
            EngineError: The new agent cannot be started.
        """
        agent = self._ask({"do": "hello"})
        if agent.get("version") == __version__:
            return False
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(agent["pid"])
            process.send(agent["pid"], signal.SIGKILL)
            _await_end(descriptor)
        self._ask({"do": "hello", "nodes": self._wanted, "owner": self._owner})
        return True

    def close(self) -> None:
        """Disconnect from the agent; it and its ranks run on."""
        with self._guard:
            self._closed = True
            for connection in self._idle:
                connection.close()
            for connection in self._busy:
                connection.interrupt()
            self._idle.clear()

    def shutdown(self, *, kill: bool = False) -> None:
        """End the agent and disconnect.

        Args:
            kill: End running ranks, too.

        Raises:
            EngineError: Ranks run, and ``kill`` is False.
        """
        # it answers when they have ended
        agent = self._ask({"do": "shutdown", "kill": kill}, within_s=_PATIENCE_S if kill else _ANSWER_S)["agent"]
        self.close()
        with contextlib.suppress(ProcessLookupError):  # it answers before it unloads its modules
            _await_end(os.pidfd_open(agent))

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: dict[str, Any], *files: int, within_s: float = _ANSWER_S) -> dict[str, Any]:
        """Send a request to the agent; if it dies meanwhile, repeat it to a new one: requests are idempotent."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                with self._connection() as connection:
                    answer = connection.ask(request, *files, within_s=_SILENT_S if self._silent else within_s)
                self._silent = False
                break
            except _SILENCE as error:
                raise self._unanswered() from error
            except OSError as error:
                self._refuse_if_closed()
                if time.monotonic() > deadline_s:
                    raise EngineError(f"the agent of {self._home} does not answer: {error}", retry=True) from error
        if "error" in answer:
            if answer["fenced"]:
                raise Fenced(answer["error"])
            raise EngineError(answer["error"], retry=answer["retry"])
        return answer

    @contextlib.contextmanager
    def _connection(self) -> Iterator[_Connection]:
        """Lend a connection for one request; it is kept for the next one unless it breaks."""
        with self._guard:
            self._refuse_if_closed()
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = self._connect()
        with self._guard:
            self._busy.add(connection)
            if self._closed:
                connection.interrupt()
        kept = False
        try:
            yield connection
            kept = True
        finally:
            with self._guard:
                self._busy.discard(connection)
                kept = kept and not self._closed
                if kept:
                    self._idle.append(connection)
            if not kept:
                connection.close()

    def _connect(self) -> _Connection:
        try:
            return _Connection(self._home)
        except (FileNotFoundError, ConnectionError):
            return self._start_agent()

    def _start_agent(self) -> _Connection:
        """Start the agent, unless another process has just started it."""
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(self._home / records.START_LOCK):
            with contextlib.suppress(FileNotFoundError, ConnectionError):
                return _Connection(self._home)
            command = [sys.executable, "-m", "powerflow.engine.local.agent", str(self._home)]
            for name, gpus in (self._wanted or {}).items():
                command += ["--node", f"{name}:{gpus}"]
            if self._owner:
                command += ["--owner", self._owner]
            for module in self._preload:
                command += ["--preload", module]
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                env=agent_environment(),
            )
            if done.returncode != 0:
                raise EngineError(f"cannot start the agent of {self._home}: {done.stderr.strip()[-2000:]}")
            self.started = True
            return _Connection(self._home)

    def _unanswered(self) -> EngineError:
        self._refuse_if_closed()
        self._silent = True
        return EngineError(f"the agent of {self._home} runs but does not answer", retry=True)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise EngineError("this engine object was closed")


def _await_end(pidfd: int) -> None:
    try:
        end = select.poll()
        end.register(pidfd, select.POLLIN)
        end.poll(_PATIENCE_S * 1000)
    finally:
        os.close(pidfd)


class _Connection:
    """Connection to the agent, for one request at a time."""

    def __init__(self, home: Path) -> None:
        directory = os.open(home, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_ANSWER_S)
        try:  # through the descriptor: the kernel takes no socket path of more than about 107 bytes
            self._socket.connect(f"/proc/self/fd/{directory}/{records.SOCKET}")
        except BaseException:
            self._socket.close()
            raise
        finally:
            os.close(directory)
        self._lines = self._socket.makefile("rb")

    def ask(self, request: Mapping[str, Any], *files: int, within_s: float = _ANSWER_S) -> dict[str, Any]:
        """Send a request with open files, and return its answer.

        Raises:
            TimeoutError: No answer came within ``within_s``; the connection cannot be used any more.
            OSError: The agent has ended.
        """
        self._socket.settimeout(within_s)
        question = json.dumps(request).encode() + b"\n"
        sent = socket.send_fds(self._socket, [question], files) if files else 0
        self._socket.sendall(question[sent:])
        line = self._lines.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the agent closed the connection")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def interrupt(self) -> None:
        """Make a request in progress fail."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._socket.close()
