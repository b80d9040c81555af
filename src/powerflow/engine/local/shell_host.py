"""Start shells beside a rank: processes of the same user, with the same environment and directory, in the same groups.

This runs in the rank's shim (`powerflow.engine.local.shim`). So a shell descends from the shim, as the rank does: it
counts as a part of the rank, and ends with it. A shell is a command, or the user's shell if none is given.

Whoever wants a shell connects to the socket `SOCKET` in the directory of the rank's records, and sends one line of
JSON together with open files: a terminal, or stdin, stdout and stderr. The answer is one line: ``{"pid": …}``, or
``{"error": …}``. When the command ends, another line follows: ``{"code": …}``. A connection that ends earlier hangs the
command up: it gets SIGHUP, as if its terminal was closed, and is killed if it has not ended after `_HANG_UP_S`.

Nothing here waits, because the shim also copies the rank's output.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import pwd
import select
import signal
import socket
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from powerflow.engine.local import process
from powerflow.engine.local.becoming import Launch, close_all_but, read_environment, restore, switch_user
from powerflow.osutil.processes import BESIDE_RANK

#: Name of the socket in the directory of a rank's records.
SOCKET = "shell.sock"
#: Most shells of a rank at the same time.
MOST_SHELLS = 8
#: Longest request: a command line with its arguments.
_MOST_BYTES = 2 << 20
#: Time from SIGHUP to SIGKILL.
_HANG_UP_S = 5.0
#: Exit codes of a command that cannot be run, as those of a shell.
_NO_RIGHT, _NOT_FOUND = 126, 127
#: Programs in the place of a shell that only say that there is none.
_NO_SHELLS = frozenset({"nologin", "false"})
#: A file has a number from here on, before it becomes stdin, stdout or stderr.
_NOT_STANDARD = 10


@dataclass(eq=False)
class Guest:
    """A shell, or a connection that will ask for one.

    Attributes:
        connection: Connection to whoever wants the shell; None once it has ended.
        files: Open files that were received.
        incoming: The part of the request that has come so far.
        pid: Process number of the command; 0 before it was started.
        kill_s: When the command is killed, on the monotonic clock; inf if it was not hung up.
    """

    connection: socket.socket | None
    files: list[int] = field(default_factory=list)
    incoming: bytearray = field(default_factory=bytearray)
    pid: int = 0
    kill_s: float = math.inf


class ShellHost:
    """Starts shells beside a rank that runs.

    Args:
        launch: How the rank was launched.
        groups: Control groups of the rank.
    """

    def __init__(self, launch: Launch, groups: Sequence[str]) -> None:
        self._launch, self._groups = launch, tuple(groups)
        self._guests: list[Guest] = []
        self._listener: socket.socket | None = None
        self._poll = select.poll()
        with contextlib.suppress(OSError):  # the disk is full: the rank runs without shells
            self._listener = _listen(launch.directory)

    def join(self, poll: select.poll) -> None:
        """Let a poll object watch for requests. Then call `act` for each descriptor that it reports."""
        self._poll = poll
        if self._listener is not None:
            poll.register(self._listener, select.POLLIN)

    def act(self, descriptor: int) -> None:
        """Accept a connection, or read from one."""
        try:
            if self._listener is not None and descriptor == self._listener.fileno():
                self._accept(self._listener)
        except OSError:
            return
        for guest in self._guests:
            if guest.connection is not None and guest.connection.fileno() == descriptor:
                self._read(guest, guest.connection)
                return

    def ended(self, pid: int, code: int) -> None:
        """Tell that a child process of the shim has ended; ``code`` is −N if signal N ended it."""
        for guest in self._guests:
            if guest.pid == pid:
                self._say(guest, {"code": code})
                self._disconnect(guest)
                self._guests.remove(guest)
                return

    def rest_ms(self) -> int | None:
        """Return the milliseconds until `kill_late` is due; None if it is not."""
        due_s = min((guest.kill_s for guest in self._guests), default=math.inf)
        return None if due_s == math.inf else max(0, math.ceil(1000 * (due_s - time.monotonic())))

    def kill_late(self) -> None:
        """Kill commands that were hung up some time ago, with all processes that they started."""
        for guest in self._guests:
            if guest.kill_s <= time.monotonic():
                guest.kill_s = math.inf
                _send(guest.pid, signal.SIGKILL)

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user not in (0, os.geteuid()):
            connection.close()
            return
        connection.setblocking(False)
        self._guests.append(Guest(connection))
        self._poll.register(connection, select.POLLIN)

    def _read(self, guest: Guest, connection: socket.socket) -> None:
        try:
            data, files, _, _ = socket.recv_fds(connection, 1 << 16, 3)
        except BlockingIOError:
            return
        except OSError:
            data, files = b"", []
        guest.files += files
        guest.incoming += data
        if not data or len(guest.incoming) > _MOST_BYTES:
            self._hang_up(guest)
        elif not guest.pid and guest.incoming.endswith(b"\n"):
            try:
                guest.pid = self._start(json.loads(guest.incoming), guest.files)
                self._say(guest, {"pid": guest.pid})
            except Exception as error:  # whatever was sent must not end the watch over the rank
                self._say(guest, {"error": str(error) or type(error).__name__})
                self._hang_up(guest)
            _close(guest.files)

    def _start(self, request: Mapping[str, Any], files: Sequence[int]) -> int:
        """Start a command, and return its pid.

        Raises:
            ValueError: It must not be started.
            OSError: It cannot be started.
        """
        if sum(guest.pid > 0 for guest in self._guests) >= MOST_SHELLS:
            raise ValueError(f"the rank has {MOST_SHELLS} shells already")
        terminal, command = request["terminal"], [str(word) for word in request["command"]]
        if len(files) != (3 if terminal is None else 1):
            raise ValueError("a request comes with a terminal, or with stdin, stdout and stderr")
        shim, pid = os.getpid(), os.fork()
        if pid == 0:
            _become(self._launch, self._groups, command, terminal, files, shim)
        return pid

    def _hang_up(self, guest: Guest) -> None:
        """Let go of a connection; its command gets SIGHUP."""
        self._disconnect(guest)
        if guest.pid:
            guest.kill_s = time.monotonic() + _HANG_UP_S
            _send(guest.pid, signal.SIGHUP)
            _send(guest.pid, signal.SIGCONT)
        else:
            self._guests.remove(guest)

    def _say(self, guest: Guest, words: Mapping[str, object]) -> None:
        if guest.connection is not None:
            with contextlib.suppress(OSError):
                guest.connection.send(json.dumps(words).encode() + b"\n")

    def _disconnect(self, guest: Guest) -> None:
        _close(guest.files)
        if guest.connection is not None:
            self._poll.unregister(guest.connection)
            guest.connection.close()
            guest.connection = None


def _listen(directory: Path) -> socket.socket:
    """Return a socket in a directory that only the engine's user can open."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:  # through the descriptor: the kernel takes no socket path of more than about 107 bytes
        listener.bind(f"/proc/self/fd/{folder}/{SOCKET}")
        listener.listen(MOST_SHELLS)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(folder)
    return listener


def _close(files: list[int]) -> None:
    while files:
        os.close(files.pop())


def _send(pid: int, number: int) -> None:
    """Send a signal to a child of this process, and to all processes that it started."""
    for each in [pid, *process.descendants(pid)]:
        process.send(each, number)


def _become(
    launch: Launch, groups: Sequence[str], command: list[str], terminal: str | None, files: Sequence[int], shim: int
) -> NoReturn:
    """Turn this new fork of the shim into a command beside the rank. What goes wrong is written to its stderr.

    Args:
        launch, groups: How the rank was launched, and its control groups.
        command: The command; empty for the user's shell.
        terminal: Kind of the terminal, for the variable ``TERM``; None if ``files`` are stdin, stdout and stderr.
        files: Descriptors of the terminal, or of the three files.
        shim: Pid of the shim.
    """
    code, what_failed = _NO_RIGHT, launch.spec.directory
    try:
        os.setsid()
        restore(launch, python=False)
        for group in groups:
            Path(group, "cgroup.procs").write_text("0")
        env = {**read_environment(launch.environment), BESIDE_RANK: "1"}
        _take(files, terminal is not None)
        close_all_but({0, 1, 2})
        spec = launch.spec
        if spec.user:
            if terminal is not None:
                os.fchown(0, pwd.getpwnam(spec.user).pw_uid, -1)  # as a login does: programs open it by its name
            switch_user(spec.user)
        process.die_with_parent(shim)
        if terminal:
            env["TERM"] = terminal
        os.chdir(spec.directory)
        what_failed = command[0] if command else "the shell"
        if not command:
            _run_shell(env)
        os.execvpe(command[0], command, env)
    except BaseException as error:
        if isinstance(error, FileNotFoundError) and command and what_failed == command[0]:
            code = _NOT_FOUND
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        said = f"powerflow: {what_failed}: {why}\n"
        with contextlib.suppress(OSError):
            os.write(2, said.encode("utf-8", "replace"))
    finally:
        os._exit(code)


def _take(files: Sequence[int], terminal: bool) -> None:
    """Make files stdin, stdout and stderr; a terminal becomes the controlling terminal of this session."""
    apart = [fcntl.fcntl(file, fcntl.F_DUPFD, _NOT_STANDARD) for file in files]
    if terminal:
        fcntl.ioctl(apart[0], termios.TIOCSCTTY, 0)
    for number, file in enumerate(apart * 3 if terminal else apart):
        os.dup2(file, number)


def _run_shell(env: Mapping[str, str]) -> None:
    """Replace this process by the user's shell, or by /bin/sh if this is impossible."""
    with contextlib.suppress(OSError, KeyError):
        path = env.get("SHELL") or pwd.getpwuid(os.geteuid()).pw_shell
        if os.path.basename(path) not in _NO_SHELLS:
            os.execve(path, [os.path.basename(path)], env)
    os.execve("/bin/sh", ["sh"], env)
