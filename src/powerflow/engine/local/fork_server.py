"""Run the fork server, the daemon that starts ranks.

::

    python -m powerflow.engine.local.fork_server DIR --node NAME:GPUS

Its state is on disk. So it may be killed and started again at any time. Ranks and their shims (small processes, each of
which watches one rank) continue to run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from powerflow.engine.local import interpreter, process, records, shim
from powerflow.engine.local.cgroups import open_cgroups
from powerflow.engine.local.server import ForkServer
from powerflow.engine.local.table import RankTable
from powerflow.osutil.files import try_lock

_OLD_SERVER_ENDS_S, _LOOK_S = 10.0, 0.1


def _only_server() -> int:
    """Take the lock of a directory that only one fork server can hold; return its file descriptor.

    Forks of an earlier fork server may still hold the lock for a moment. If a fork server listens, do not wait.
    """
    end_s = time.monotonic() + _OLD_SERVER_ENDS_S
    while (descriptor := try_lock(Path(records.SERVER_LOCK), wait_s=_LOOK_S)) is None:
        if time.monotonic() > end_s or _somebody_listens():
            sys.exit("another fork server serves this directory")
    return descriptor


def _somebody_listens() -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tried:
        return tried.connect_ex(records.SOCKET) == 0


def _listen() -> socket.socket:
    """Return the socket on which the fork server listens for requests.

    The socket is bound to a short relative path, because the kernel takes at most about 107 bytes.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(records.SOCKET)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.bind(records.SOCKET)
    os.chmod(records.SOCKET, 0o600)
    listener.listen(128)
    return listener


def _detach() -> None:
    """Continue as a daemon. The process that started the fork server sees exit code 0.

    Call this when the socket listens, because exit code 0 tells the starting process that it can connect.
    """
    sys.stdout.flush()
    if os.fork():
        os._exit(0)
    os.setsid()
    process.show_as("powerflow-forks")
    log = os.open(records.SERVER_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, log), (2, log)):
        os.dup2(source, target)
    os.close(log)
    os.close(nothing)


def _node(text: str) -> tuple[str, int]:
    name, _, gpus = text.rpartition(":")
    if not name or not gpus.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME:GPUS")
    return name, int(gpus)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fork server (the daemon that starts ranks) in a directory; return its exit code.

    Shims and ranks are forks of the fork server. A fork that runs a rank's script returns from this function, too.
    """
    parser = argparse.ArgumentParser(prog="python -m powerflow.engine.local.fork_server", description="Starts ranks.")
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder of the fork server's files")
    parser.add_argument(
        "--node",
        type=_node,
        action="append",
        default=[],
        metavar="NAME:GPUS",
        help="node, number of GPUs; default: as before",
    )
    what = "Python module that the fork server imports once, so that ranks start faster; may be repeated"
    parser.add_argument("--preload", action="append", default=[], metavar="MODULE", help=what)
    parser.add_argument("--owner", default="", metavar="NAME", help="owner of the ranks, shown by their shims")
    given = parser.parse_args(arguments)
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        sys.exit("this kernel does not list a process's children (CONFIG_PROC_CHILDREN): ranks could not be ended")
    path = interpreter.own_path()
    umask = os.umask(0o077)
    home = given.directory.absolute()
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    os.chdir(home)
    told: dict[str, object] = {"nodes": dict(given.node)} if given.node else {}
    told |= {"preload": given.preload} if given.preload else {}
    settings = records.remember(told | ({"owner": given.owner} if given.owner else {}))
    notices = interpreter.preload(settings.get("preload", ()))
    keep = process.descriptors()  # those of preloaded modules, which ranks have too
    lock = _only_server()
    place = os.stat(home)
    table = RankTable(home, open_cgroups(f"{place.st_dev:x}-{place.st_ino:x}"))
    table.load()
    server = ForkServer(table, _listen(), settings.get("nodes", {}), notices, keep, umask)
    _detach()
    launch = server.serve()
    if launch is None:
        os.close(lock)
        return 0
    shim.run(launch)
    interpreter.run_script(launch.spec.command, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
