"""Turn a new fork into a process of a rank: what it was launched with, its environment, its signals, its user.

The rank itself is such a process, and so are the shells beside it (`powerflow.engine.local.shell_host`).
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import resource
import signal
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from powerflow.engine.local import process
from powerflow.engine.local.cgroups import Cgroups
from powerflow.engine.protocol import RankSpec


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that a shim needs to launch its rank.

    Attributes:
        spec: Spec of the rank.
        directory: Directory of the rank's records.
        environment: Descriptor of a file with the rank's environment variables; see `read_environment`.
        reply: Descriptor of a pipe to the fork server, for one JSON object: ``{}`` if the rank runs, ``error`` with
            ``retry`` and ``final`` (as in `EngineError`) if it cannot be started, ``held`` if the name was launched
            before.
        cgroups: Control groups that limit ranks.
        keep: Descriptors of files that preloaded modules have opened. The rank inherits them.
        umask: Umask with which the fork server was started.
        open_files: Limits on open files (soft, hard) with which the fork server was started.
    """

    spec: RankSpec
    directory: Path
    environment: int
    reply: int
    cgroups: Cgroups
    keep: Collection[int]
    umask: int
    open_files: tuple[int, int]


def close_all_but(kept: Collection[int]) -> None:
    """Close all files of this process, except those with the given descriptors."""
    for descriptor in process.descriptors() - set(kept):
        os.close(descriptor)


def write_environment(env: Mapping[str, str]) -> int:
    """Write environment variables to a file in memory; return its descriptor.

    The file passes from the caller to the rank. So secrets in it are never in the memory of the fork server, which all
    ranks share.
    """
    file = os.memfd_create("environment")
    os.write(file, json.dumps(dict(env)).encode())
    return file


def read_environment(file: int) -> dict[str, str]:
    """Return the environment variables in a file from `write_environment`."""
    found: dict[str, str] = json.loads(os.pread(file, os.fstat(file).st_size, 0))
    return found


def restore(launch: Launch, *, python: bool) -> None:
    """Reset signal handlers, umask and the limit on open files to those of a new process."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
    if python:  # as python sets them at its start
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(launch.umask)
    resource.setrlimit(resource.RLIMIT_NOFILE, launch.open_files)


def switch_user(user: str) -> None:
    """Make this process run as another user, with the groups of that user, umask 022, and no way to gain privileges.

    Raises:
        ValueError: The user does not exist, or this process may not become the user.
        PermissionError: The system does not permit the change.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ValueError(f"there is no user {user!r}") from None
    if entry.pw_uid == os.geteuid():
        return
    if os.geteuid() != 0:
        raise ValueError(f"only root can run ranks as another user ({user!r})")
    os.setgroups([])
    os.initgroups(entry.pw_name, entry.pw_gid)
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    os.umask(0o022)
    process.gain_no_privileges()
    process.be_dumpable()  # so that /proc/self belongs to the user, as usual
