"""Make several test hosts on one machine: Linux namespaces, joined by a bridge.

Each host has its own network address and interface, process ids, host name, boot id, monotonic clock, ``/dev/shm``,
``/run``, ``/tmp/ray`` and disk. Two engines or agents on one real host hide every one-machine assumption; these hosts
do not. A host does not see the disks of other hosts; the machine that made the bed sees all of them. All files outside
of these folders are shared, so a test must write only below `Hosts.disk`.

A bed needs root and Debian's packages iproute2 and util-linux. Tests skip with the reason of `why_not`::

    pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

    with Hosts(3, tmp_path) as hosts:
        server = hosts.run(1, [sys.executable, "-m", "http.server", "--bind", hosts.address(1), "8000"])
        hosts.cut(1)  # nobody reaches host 1, and it runs on
        hosts.mend(1)
        hosts.crash(1)  # a power cut: all its processes are gone, and no connection was closed
        hosts.boot(1)  # another boot id, another /run; the same address and disk
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import itertools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

#: Network interface of each host towards the other hosts.
INTERFACE = "eth0"
_TOOLS = ("ip", "unshare", "mount", "hostname")
_UNSHARE = [
    "unshare",
    "--fork",
    "--kill-child",
    "--pid",
    "--net",
    "--mount",
    "--uts",
    "--ipc",
    "--time",
    "--mount-proc",
]
#: Host's first process: adopts and reaps orphans as an init must, and ends with the process that made the bed.
_INIT = """
import os, select
while not (select.select([0], [], [], 0.1)[0] and not os.read(0, 1)):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]: pass
    except ChildProcessError: pass
"""
#: Deletes the bridge when the process that made the bed ends, even if it is killed.
_JANITOR = "trap '' INT TERM HUP; read -r _; exec ip link del {bridge}"
_CLONE_NEWPID = 0x20000000
#: Namespaces that a process of a host enters after its fork, in this order, with the flags of ``setns(2)``.
_ENTERED = (("uts", 0x04000000), ("ipc", 0x08000000), ("net", 0x40000000), ("time", 0x00000080), ("mnt", 0x00020000))
_libc = ctypes.CDLL(None, use_errno=True)


@functools.cache
def why_not() -> str:
    """Say in one line why no test bed is possible on this machine; return "" if one is possible."""
    if os.geteuid() != 0:
        return "a bed of several hosts needs root"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"a bed of several hosts needs {', '.join(missing)} (Debian: iproute2, util-linux, hostname)"
    trial = "ip link add br0 type bridge && ip link add v0 type veth peer name v1 && mount -t tmpfs tmpfs /run"
    clock = ["--monotonic", "1", "--boottime", "1"]
    tried = subprocess.run([*_UNSHARE, *clock, "sh", "-c", trial], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"a bed of several hosts needs Linux namespaces: {' '.join(tried.stderr.split())[:200]}"
    return ""


class Hosts:
    """A bed of test hosts, numbered from 1. All hosts have booted when the constructor returns.

    Several beds may exist at once: each has its own names and its own network. Leaving the ``with`` block, `close` or
    the end of this process removes the bed and ends all that runs on it; only the disks remain.
    """

    def __init__(self, count: int, directory: Path | None = None) -> None:
        """Make a bed and boot its hosts.

        Args:
            count: Number of hosts, at most 250.
            directory: Existing folder for the hosts' disks; None for a temporary folder, deleted by `close`.

        Raises:
            OSError: A host cannot be made; `why_not` may say why.
        """
        self._temporary = tempfile.TemporaryDirectory(prefix="powerflow-hosts-") if directory is None else None
        self._directory = Path(self._temporary.name if self._temporary else directory or "").resolve()
        self._inits: dict[int, subprocess.Popen[bytes]] = {}
        self._pids: dict[int, int] = {}
        self._processes: dict[int, list[subprocess.Popen[Any]]] = {}
        self._net = -1
        self._janitor: subprocess.Popen[bytes] | None = None
        self.count = count
        atexit.register(self.close)
        try:
            self._make_bridge()
            for i in self.numbers():
                self.disk(i).mkdir(parents=True, exist_ok=True)
            for i in self.numbers():
                self._begin_boot(i)
            for i in self.numbers():
                self._end_boot(i)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def numbers(self) -> range:
        """Return the numbers of all hosts: 1 to ``count``."""
        return range(1, self.count + 1)

    def address(self, i: int) -> str:
        """Return the network address of a host; 0 for this machine, as the hosts reach it."""
        return f"10.77.{self._net}.{i or 254}"

    def name(self, i: int) -> str:
        """Return the host name of a host."""
        return f"pf{self._net}h{i}"

    def disk(self, i: int) -> Path:
        """Return the folder of a host that outlives a crash. On other hosts this path does not exist."""
        return self._directory / f"h{i}" / "disk"

    def boot_id(self, i: int) -> str:
        """Return the boot id of a host, new at each boot."""
        return self._boot_id_file(i).read_text().strip()

    def running(self, i: int) -> bool:
        """Return True if a host has booted and has not crashed."""
        return i in self._pids

    # -- processes ---------------------------------------------------------------------------------------------------

    def init_pid(self, i: int) -> int:
        """Return the process id of a host's first process, for `move_to`.

        Raises:
            OSError: The host has crashed.
        """
        if i not in self._pids:
            raise OSError(f"host {i} is down")
        return self._pids[i]

    def run(
        self, i: int, argv: Sequence[str], env: Mapping[str, str] | None = None, **popen: Any
    ) -> subprocess.Popen[Any]:
        """Start a process on a host. It is a child of this process, with its pid as this process sees it.

        Args:
            i: Number of the host.
            argv: Command line.
            env: Environment variables to set, besides those of this process and TMPDIR (a folder of the host).
            popen: Further options of `subprocess.Popen`. The working directory is the host's disk unless ``cwd`` says
                otherwise.

        Raises:
            OSError: The host has crashed, or the program does not exist.
        """
        folder = f"/proc/{self.init_pid(i)}/ns"
        cwd = os.fspath(popen.pop("cwd", self.disk(i)))
        environment = {**os.environ, "TMPDIR": str(self.disk(i).parent / "tmp"), **(env or {})}
        made: list[subprocess.Popen[Any]] = []
        failed: list[BaseException] = []
        with contextlib.ExitStack() as opened:

            def namespace(kind: str) -> int:
                descriptor = os.open(f"{folder}/{kind}", os.O_RDONLY | os.O_CLOEXEC)
                opened.callback(os.close, descriptor)
                return descriptor

            pids = namespace("pid")
            entered = [(namespace(kind), flag) for kind, flag in _ENTERED]

            def enter() -> None:
                for descriptor, flag in entered:
                    _setns(descriptor, flag)
                os.chdir(cwd)

            def start() -> None:
                try:  # a thread of its own, because its later children are on the host for ever
                    _setns(pids, _CLONE_NEWPID)
                    made.append(subprocess.Popen(argv, env=environment, preexec_fn=enter, **popen))  # noqa: PLW1509  # only calls the kernel
                except BaseException as error:
                    failed.append(error)

            thread = threading.Thread(target=start, name="powerflow-hosts")
            thread.start()
            thread.join()
        if failed:
            raise failed[0]
        self._processes.setdefault(i, []).append(made[0])
        return made[0]

    def output(self, i: int, argv: Sequence[str], env: Mapping[str, str] | None = None) -> str:
        """Run a command on a host to its end and return what it has printed.

        Raises:
            subprocess.CalledProcessError: The command has failed.
        """
        process = self.run(i, argv, env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, err = process.communicate()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, list(argv), out, err)
        return str(out)

    # -- faults ------------------------------------------------------------------------------------------------------

    def cut(self, i: int) -> None:
        """Pull the network cable of a host. What runs there runs on, and no connection is closed."""
        _ip("link", "set", self._cable(i), "down")

    def mend(self, i: int) -> None:
        """Put the network cable of a host back."""
        _ip("link", "set", self._cable(i), "up")

    def crash(self, i: int) -> None:
        """Cut the power of a host: all its processes end at once, and no other host hears of it."""
        self.cut(i)  # first, or the kernel would still say goodbye to the peers of all connections
        self._stop([i])

    def boot(self, i: int) -> None:
        """Boot a crashed host: no processes, another boot id, the same address and disk."""
        if i in self._pids:
            raise OSError(f"host {i} has not crashed")
        self._begin_boot(i)
        self._end_boot(i)

    def close(self) -> None:
        """Remove the bed, end all that runs on it, and close the pipes of these processes.

        Calling it again does nothing.
        """
        atexit.unregister(self.close)
        self._stop(list(self._inits))
        for process in itertools.chain(*self._processes.values()):
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # what was not written before is lost with the host
                        pipe.close()
        self._processes.clear()
        if self._janitor is not None:
            assert self._janitor.stdin is not None
            self._janitor.stdin.close()
            self._janitor.wait()
            self._janitor = None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    # -- making ------------------------------------------------------------------------------------------------------

    @property
    def _bridge(self) -> str:
        return f"pf{self._net}br"

    def _cable(self, i: int) -> str:
        return f"pf{self._net}v{i}"

    def _boot_id_file(self, i: int) -> Path:
        return self._directory / f"h{i}" / "boot_id"

    def _make_bridge(self) -> None:
        """Make the bridge. Its name takes the network: two beds cannot have bridges of one name."""
        for attempt in range(256):
            self._net = (os.getpid() + attempt) % 256
            with contextlib.suppress(OSError):
                _ip("link", "add", self._bridge, "type", "bridge")
                break
        else:
            raise OSError("no bridge can be made: all 256 networks 10.77.*.0/24 are taken")
        janitor = ["sh", "-c", _JANITOR.format(bridge=self._bridge)]
        self._janitor = subprocess.Popen(janitor, stdin=subprocess.PIPE, start_new_session=True)
        _ip("addr", "add", f"{self.address(0)}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    def _begin_boot(self, i: int) -> None:
        """Start the first process of a host, which makes the host's folders and says when they are there."""
        host = self._directory / f"h{i}"
        for name in ("tmp", "ray"):
            shutil.rmtree(host / name, ignore_errors=True)
            (host / name).mkdir(parents=True)
        Path("/tmp/ray").mkdir(exist_ok=True)
        self._boot_id_file(i).write_text(f"{uuid.uuid4()}\n")
        setup = [
            ["hostname", self.name(i)],
            ["mount", "--bind", str(host / "ray"), "/tmp/ray"],
            ["mount", "--bind", str(self._boot_id_file(i)), "/proc/sys/kernel/random/boot_id"],
            # below the bed's folder, which may be in /dev/shm, this host shall see its own folder only
            ["mount", "--bind", str(host), "/run"],
            ["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"],
            ["mkdir", "-p", str(self._directory)],
            ["mount", "-t", "tmpfs", "tmpfs", str(self._directory)],
            ["mkdir", str(host)],
            ["mount", "--move", "/run", str(host)],
            ["mount", "-t", "tmpfs", "tmpfs", "/run"],
            ["ip", "link", "set", "lo", "up"],
            ["cd", str(host / "disk")],
            ["echo", "up"],
            ["exec", sys.executable, "-S", "-E", "-c", _INIT],
        ]
        started_s = 1000.0 * i  # no two hosts have the same monotonic clock, and it starts anew with each boot
        clock = [
            *("--monotonic", str(round(started_s - time.clock_gettime(time.CLOCK_MONOTONIC)))),
            *("--boottime", str(round(started_s - time.clock_gettime(time.CLOCK_BOOTTIME)))),
        ]
        script = " &&\n".join(map(shlex.join, setup))
        self._inits[i] = subprocess.Popen(
            [*_UNSHARE, *clock, "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _end_boot(self, i: int) -> None:
        """Wait until the first process of a host is ready, and plug in its cable."""
        outer = self._inits[i]
        assert outer.stdout is not None
        said = outer.stdout.readline().strip()
        if said != b"up":
            raise OSError(f"host {i} did not boot: {said.decode(errors='replace') or 'it said nothing'}")
        self._pids[i] = int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text())
        # one hardware address over all boots, or other hosts would look for the host at its old one
        hardware = f"02:77:00:00:{self._net:02x}:{i:02x}"
        peer = ["peer", "name", INTERFACE, "address", hardware, "netns", str(self._pids[i])]
        _ip("link", "add", self._cable(i), "type", "veth", *peer)
        _ip("link", "set", self._cable(i), "master", self._bridge, "up")
        for words in (["addr", "add", f"{self.address(i)}/24", "dev", INTERFACE], ["link", "set", INTERFACE, "up"]):
            self.output(i, ["ip", *words])

    def _stop(self, numbers: Iterable[int]) -> None:
        """End all that runs on some hosts, and remove their cables."""
        stopped = [(i, self._inits.pop(i), self._pids.pop(i, 0)) for i in numbers]
        for _, outer, pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid or outer.pid, signal.SIGKILL)
        for i, outer, _ in stopped:
            for process in self._processes.get(i, []):
                process.wait()  # a first process ends only after all others have been reaped
            outer.wait()
            for pipe in (outer.stdin, outer.stdout):
                assert pipe is not None
                pipe.close()
            with contextlib.suppress(OSError):
                _ip("link", "del", self._cable(i))


def move_to(init_pid: int) -> None:
    """Move this process to a host, with all but its process id; what it forks from now on has ids of the host, too.

    Args:
        init_pid: Process id of the host's first process (`Hosts.init_pid`).

    Raises:
        OSError: The host has crashed, or this process has more than one thread.
    """
    kinds = (("pid", _CLONE_NEWPID), *_ENTERED)
    # all are opened first: in the host's mount namespace, /proc is that of the host
    opened = [(os.open(f"/proc/{init_pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC), flag) for kind, flag in kinds]
    for descriptor, flag in opened:
        _setns(descriptor, flag)
        os.close(descriptor)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _setns(descriptor: int, flag: int) -> None:
    if _libc.setns(descriptor, flag):
        raise OSError(ctypes.get_errno(), "this process cannot enter the namespace of a host")
