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
from powerflow.engine.local.becoming import write_environment
from powerflow.engine.local.environment import server_environment
from powerflow.engine.local.logs import offset_since, read_log
from powerflow.engine.local.shells import OpenShell, open_shell
from powerflow.engine.local.why_not import why_not
from powerflow.engine.protocol import EngineError, EngineNode, Fenced, RankName, RankSpec, RankStatus, launch_each
from powerflow.engine.shells import ShellSpec
from powerflow.osutil.files import locked, read_json

_PATIENCE_S = 30.0  # for how long a request is repeated to a fork server that dies again and again
_ANSWER_S = 5.0  # how long a living fork server may take to answer
_SILENT_S = 1.0  # the same, after it has not answered once

#: Errors of a fork server that lives but does nothing: no answer in time, or a full queue of connections.
_SILENCE = (TimeoutError, BlockingIOError)


class LocalEngine:
    """Engine that runs ranks on this machine through a fork server process. Any thread may use it.

    This object starts the fork server if none runs. The fork server continues when this object is closed. One fork
    server manages one or more nodes, all on this machine.

    Args:
        directory: Folder of the engine; all its files belong to one user.
        nodes: Number of GPUs for each node name; None to keep the nodes that were given last.
        preload: Modules that the next fork server imports when it starts, for ranks with ``python=True``. Empty to keep
            the modules that were given last.
        owner: Name of the store to which the ranks of this folder belong. A folder keeps its first owner. "" to skip
            the check of the owner.

    Raises:
        EngineError: The folder belongs to another owner, or the fork server cannot be started.

    Attributes:
        started: True if this object has started the fork server; False if the fork server was running already.
    """

    shares_mailboxes = True
    shells = None  # its user keeps the files of a shell: see `open_shell`

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
        self._silent = False  # the fork server did not answer in time (it is stopped, or the machine swaps)
        self._seen = threading.local()  # the version of the table that each thread has seen
        self._cache: tuple[str, tuple[RankStatus, ...]] = ("", ())
        found = (read_json(self._home / records.SETTINGS) or {}).get("owner") or owner
        if owner and found != owner:
            raise EngineError(f"{self._home} holds the ranks of another store; use another folder for this store")
        self._ask({"do": "hello", "nodes": self._wanted, "owner": owner})

    def nodes(self) -> Sequence[EngineNode]:
        """Return all nodes of this engine."""
        return [EngineNode(name, gpus) for name, gpus in self._ask({"do": "hello"})["nodes"].items()]

    def limits(self) -> frozenset[str]:
        """Return the limits that this engine can enforce on this machine: some of "memory", "cpus" and "user"."""
        return frozenset(self._ask({"do": "hello"})["limits"])

    def notices(self) -> Sequence[str]:
        """Return the fork server's notices for operators, one line each: say, that a module could not be preloaded."""
        return list(self._ask({"do": "hello"})["notices"])

    def launch(self, spec: RankSpec) -> RankStatus:
        """Start a rank; a second call with the same name starts nothing. See `Engine.launch`."""
        request = {"do": "launch", "spec": records.spec_row(records.check_spec(spec))}
        environment = write_environment(spec.env)
        try:
            answer = self._ask(request, environment)
        finally:
            os.close(environment)
        return records.status_from_row(answer["rank"])

    def launch_all(self, specs: Sequence[RankSpec]) -> Sequence[RankStatus]:
        """Start ranks one after another; their statuses are final, because the machine answers at once."""
        return launch_each(self.launch, specs)

    def check(self, spec: RankSpec) -> str:
        """Return why a rank cannot run on this machine as its spec says; "" if nothing is known against it."""
        return why_not(spec)

    def declare_off(self, node: str) -> None:
        """Refuse, because the nodes of this engine are this machine, which is not off."""
        raise EngineError(f"{node} is this machine, which answers")

    def post(self, gang: str, file: str, text: str) -> None:
        """Do nothing, because ranks see the caller's file system. See `Engine.post`."""

    def fence(self, gang: str, epoch: int) -> None:
        """Refuse all later launches of a gang with an epoch lower than ``epoch``. See `Engine.fence`."""
        self._ask({"do": "fence", "gang": records.check_gang(gang), "epoch": records.check_epoch(epoch)})

    def signal(self, name: RankName, number: int) -> bool:
        """Send a signal to a rank and to all processes that descend from it; return False if the rank has ended."""
        return bool(self._ask({"do": "signal", "name": str(name), "number": int(number)})["sent"])

    def ranks(self) -> Sequence[RankStatus]:
        """Return the status of every rank that was not deleted with `forget`."""
        version, known = self._cache
        answer = self._ask({"do": "ranks", "seen": version})
        if "ranks" in answer:
            known = tuple(records.status_from_row(row) for row in answer["ranks"])
            self._cache = answer["version"], known
        self._seen.version = answer["version"]
        return known

    def wait(self, timeout_s: float) -> bool:
        """Wait until a rank has changed since this thread last called `ranks` or `wait`.

        Returns:
            True if a rank has changed; False if the timeout has passed. The first call of a thread returns True.
        """
        before = getattr(self._seen, "version", "")
        try:
            with self._connection() as connection:
                request = {"do": "wait", "seen": before, "timeout_s": max(0.0, timeout_s)}
                answer = connection.ask(request, within_s=_ANSWER_S + max(0.0, timeout_s))
        except _SILENCE as error:
            raise self._unanswered() from error
        except OSError:  # the fork server was killed: anything may have changed
            self._refuse_if_closed()
            self._seen.version = ""
            return True
        self._seen.version = answer["version"]
        return bool(answer["version"] != before)

    def log(self, name: RankName, offset: int = 0, limit: int = 65536) -> tuple[bytes, int]:
        """Return a part of what a rank wrote, and the offset after it. See `Engine.log`."""
        try:
            return read_log(self._home / "ranks" / records.file_name(name), offset, limit)
        except (FileNotFoundError, EngineError):
            raise KeyError(name) from None

    def log_offset(self, name: RankName, since_s: float) -> int:
        """Return where in a rank's log the output since a time begins. See `Engine.log_offset`."""
        try:
            directory = self._home / "ranks" / records.file_name(name)
        except EngineError:
            raise KeyError(name) from None
        try:
            return offset_since(directory, since_s)
        except FileNotFoundError:
            raise KeyError(name) from None

    def open_shell(self, spec: ShellSpec) -> OpenShell:
        """Start a command beside a rank, and return the other ends of its files.

        Raises:
            EngineError: The rank does not run, or cannot have one more shell.
        """
        return open_shell(self._home / "ranks" / records.file_name(spec.rank), spec)

    def forget(self, name: RankName) -> None:
        """Delete the status and the log of a rank that has ended."""
        self._ask({"do": "forget", "name": str(name)})

    def renew(self) -> bool:
        """Replace the fork server if it runs another version of PowerFlow. Return True if it was replaced.

        The ranks continue to run.

        New ranks are forks of the fork server, so an old fork server would start them with old code and an old
        environment. The fork server can be killed, because its state is on disk. Call this only if no other process
        uses this engine.

        Raises:
            EngineError: The new fork server cannot be started.
        """
        server = self._ask({"do": "hello"})
        if server.get("version") == __version__:
            return False
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(server["pid"])
            process.send(server["pid"], signal.SIGKILL)
            _await_end(descriptor)
        self._ask({"do": "hello", "nodes": self._wanted, "owner": self._owner})
        return True

    def close(self) -> None:
        """Disconnect from the fork server. The fork server and its ranks continue to run."""
        with self._guard:
            self._closed = True
            for connection in self._idle:
                connection.close()
            for connection in self._busy:
                connection.interrupt()
            self._idle.clear()

    def shutdown(self, *, kill: bool = False) -> None:
        """End the fork server and disconnect from it.

        Args:
            kill: True to end running ranks, too.

        Raises:
            EngineError: A rank runs, and ``kill`` is False.
        """
        # it answers when they have ended
        server = self._ask({"do": "shutdown", "kill": kill}, within_s=_PATIENCE_S if kill else _ANSWER_S)["server"]
        self.close()
        with contextlib.suppress(ProcessLookupError):  # it answers before it unloads its modules
            _await_end(os.pidfd_open(server))

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: dict[str, Any], *files: int, within_s: float = _ANSWER_S) -> dict[str, Any]:
        """Send a request to the fork server, and return its answer.

        If the fork server ends before it answers, the request is repeated to a new fork server. A repeated request does
        no harm, because requests are idempotent.
        """
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
                    what = f"the fork server of {self._home} does not answer: {error}"
                    raise EngineError(what, retry=True) from error
        if "error" in answer:
            if answer["fenced"]:
                raise Fenced(answer["error"])
            raise EngineError(answer["error"], retry=answer["retry"], final=answer.get("final", False))
        return answer

    @contextlib.contextmanager
    def _connection(self) -> Iterator[_Connection]:
        """Yield a connection to the fork server for one request.

        The connection is kept for later requests unless it breaks.
        """
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
            return self._start_server()

    def _start_server(self) -> _Connection:
        """Start the fork server, unless another process has just started it."""
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(self._home / records.START_LOCK):
            with contextlib.suppress(FileNotFoundError, ConnectionError):
                return _Connection(self._home)
            command = [sys.executable, "-m", "powerflow.engine.local.fork_server", str(self._home)]
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
                env=server_environment(),
            )
            if done.returncode != 0:
                # one that was started by a process which was killed meanwhile serves already
                with contextlib.suppress(FileNotFoundError, ConnectionError):
                    return _Connection(self._home)
                raise EngineError(f"cannot start the fork server of {self._home}: {done.stderr.strip()[-2000:]}")
            self.started = True
            return _Connection(self._home)

    def _unanswered(self) -> EngineError:
        self._refuse_if_closed()
        self._silent = True
        return EngineError(f"the fork server of {self._home} runs but does not answer", retry=True)

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
    """Connection to the fork server, for one request at a time."""

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
        """Send a request with open files to the fork server, and return the fork server's answer.

        Raises:
            TimeoutError: No answer came within ``within_s`` seconds; this connection cannot be used any more.
            OSError: The fork server has ended.
        """
        self._socket.settimeout(within_s)
        question = json.dumps(request).encode() + b"\n"
        sent = socket.send_fds(self._socket, [question], files) if files else 0
        self._socket.sendall(question[sent:])
        line = self._lines.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the fork server closed the connection")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def interrupt(self) -> None:
        """Make the current request fail, although another thread still waits for the answer."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._socket.close()
