"""The process between agent and rank: it outlives the agent, so that no exit status is lost and no log cut short.

The agent forks the shim, the shim forks the rank::

    agent ──► shim (own session; adopts the rank's orphans) ──► rank (own session; dies with the shim)

The shim copies the rank's output into its log, waits for it, ends whatever the rank left behind, writes how it ended,
and exits. Exactly one shim runs a name: it holds the name's lock, and leaves at once if another has it or had it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import resource
import select
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from powerflow.engine.local import process
from powerflow.engine.local.cgroups import Cgroups, kill, leave
from powerflow.engine.local.interpreter import HEEDED
from powerflow.engine.local.logs import LogWriter
from powerflow.engine.protocol import RankSpec
from powerflow.osutil.files import replace_json, try_lock
from powerflow.osutil.processes import boot_id, start_ticks

_GO = b"g"
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Launch:
    """What a shim needs to know.

    Attributes:
        spec: The rank.
        directory: Where its records are.
        environment: Descriptor of a file that holds the rank's environment; see `read_environment`.
        reply: Descriptor to the agent: one JSON object, ``{}`` when the rank runs, ``error`` or ``held`` when not.
        cgroups: Where ranks are limited.
        keep: Descriptors that the rank inherits (those that preloaded modules hold).
        umask: What files it makes may not grant; as the agent was started with.
        open_files: The limit of open files that the agent was started with.
    """

    spec: RankSpec
    directory: Path
    environment: int
    reply: int
    cgroups: Cgroups
    keep: Collection[int]
    umask: int
    open_files: tuple[int, int]


#: Has something in it once this shim was told to end, which only a machine that goes down does; it stays for its rank.
_told: list[int] = []


def _note_told(number: int, _: object) -> None:
    _told.append(number)


def run(launch: Launch) -> None:
    """Be the shim of a rank; call it in a new fork. It returns only in the rank, if that is a script to be run."""
    try:
        started = _start(launch)
    except (OSError, ValueError) as error:
        _give_up(launch, f"cannot start {launch.spec.name}: {error}", retry=True)
    if started is not None:
        _keep(launch, *started)


def _start(launch: Launch) -> tuple[int, int, list[str]] | None:
    """Start the rank; its pid, the pipe that it writes into, and its control groups. None in the rank itself."""
    _close_all_but({*launch.keep, launch.reply, launch.environment})
    os.setsid()
    process.show_as("powerflow-shim")
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _note_told)
    process.adopt_orphans()
    lock = try_lock(launch.directory / "lock")
    if lock is None or (launch.directory / "process.json").exists():
        _reply(launch, {"held": True})
        os._exit(0)
    go, go_w = os.pipe()
    failure, failure_w = os.pipe()
    output, output_w = os.pipe()
    shim, started_s = os.getpid(), time.time()
    rank = os.fork()
    if rank == 0:
        for descriptor in (go_w, failure, output, lock, launch.reply):
            os.close(descriptor)
        _become_rank(launch, shim, go, failure_w, output_w)
        return None
    for descriptor in (go, failure_w, output_w, launch.environment):
        os.close(descriptor)
    spec = launch.spec
    try:
        groups = launch.cgroups.enter(str(spec.name), rank, memory_bytes=spec.memory_bytes, cpus=spec.cpus)
        who = {
            "shim": [shim, start_ticks(shim)],
            "rank": [rank, start_ticks(rank)],
            "boot": boot_id(),
            "groups": groups,
            "started_s": started_s,
        }
        replace_json(launch.directory / "process.json", who)
        os.write(go_w, _GO)
    finally:
        os.close(go_w)  # a rank that reads no word to go leaves
    why = os.read(failure, 4096).decode(errors="replace")
    os.close(failure)
    if why:
        os.waitpid(rank, 0)
        leave(groups)
        _give_up(launch, f"cannot start {spec.name}: {why}", retry=False)
    _reply(launch, {})
    return rank, output, groups


def _keep(launch: Launch, rank: int, output: int, groups: Sequence[str]) -> NoReturn:
    """See a rank to its end, and to the end of all that it started."""
    log = LogWriter(launch.directory)
    code = _watch(rank, output, log)
    kill(groups)
    process.end_children()
    _drain(output, log)
    leave(groups)
    _leave_word(launch, {"state": "exited", "code": code, "ended_s": time.time(), "told": bool(_told)})
    os._exit(0)


def _become_rank(launch: Launch, shim: int, go: int, failure: int, output: int) -> None:
    """Become the rank's process: run its command, or return for a script to be run in this interpreter."""
    spec = launch.spec
    try:
        os.setsid()
        if os.read(go, 1) != _GO:
            os._exit(127)
        os.close(go)
        env = read_environment(launch.environment)
        os.close(launch.environment)
        here = runs_here(spec, env)
        _restore(launch, python=here)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(nothing)
        os.close(output)
        if spec.user:
            switch_user(spec.user)
        process.die_with_parent(shim)
        os.chdir(spec.directory)
        if not here:
            os.execvpe(spec.command[0], spec.command, env)
        _close_all_but({*launch.keep, failure})
        os.environ.clear()
        os.environ.update(env)
        process.show_as("powerflow-rank")
        os.close(failure)
    except (OSError, ValueError, KeyError) as error:
        os.write(failure, _in_words(error, spec).encode())
        os._exit(127)


def _close_all_but(kept: Collection[int]) -> None:
    for descriptor in process.descriptors() - set(kept):
        os.close(descriptor)


def write_environment(env: Mapping[str, str]) -> int:
    """A file in memory that holds an environment, as a descriptor.

    So it goes from the caller to the rank, and its secrets are never in the memory of the agent, which all ranks share.
    """
    file = os.memfd_create("environment")
    os.write(file, json.dumps(dict(env)).encode())
    return file


def read_environment(file: int) -> dict[str, str]:
    """Undoes `write_environment`."""
    found: dict[str, str] = json.loads(os.pread(file, os.fstat(file).st_size, 0))
    return found


def runs_here(spec: RankSpec, env: Mapping[str, str]) -> bool:
    """Whether a rank runs in the preloaded interpreter: a script, with no variable that only a new process heeds."""
    late = (key.startswith("LD_") or (key.startswith("PYTHON") and key not in HEEDED) for key in env)
    return spec.python and len(spec.command) > 1 and not spec.command[1].startswith("-") and not any(late)


def _in_words(error: Exception, spec: RankSpec) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({spec.directory if error.filename == spec.directory else spec.command[0]})"
    return str(error)


def _restore(launch: Launch, *, python: bool) -> None:
    """Be as a new process is: signals, umask and limits as the agent found them."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
    if python:  # as python sets them for itself
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(launch.umask)
    resource.setrlimit(resource.RLIMIT_NOFILE, launch.open_files)


def switch_user(user: str) -> None:
    """Become another user for good: groups, umask, and no way to gain privileges.

    Raises:
        ValueError: If there is no such user, or if it is another name of root.
        PermissionError: If we may not.
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
    process.be_dumpable()  # so that /proc/self is its own, as in any process


def _watch(rank: int, output: int, log: LogWriter) -> int:
    """Copy the rank's output and reap what is orphaned until the rank ends; its exit code."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    os.set_blocking(output, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(output, select.POLLIN)
    poll.register(woken, select.POLLIN)
    while True:
        while True:  # a signal before the handler stood is not missed: look before the first sleep
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == rank:
                signal.set_wakeup_fd(-1)
                return os.waitstatus_to_exitcode(status)
            if ended == 0:
                break
        for descriptor, _ in poll.poll():
            if descriptor == woken:
                os.read(woken, 4096)
            elif not _copy(output, log):
                poll.unregister(output)  # closed by all; the rank may still run


def _copy(output: int, log: LogWriter) -> bool:
    """Copy what is there; False at the end."""
    try:
        data = os.read(output, _CHUNK_BYTES)
    except BlockingIOError:
        return True
    log.write(data)
    return bool(data)


def _drain(output: int, log: LogWriter) -> None:
    """Copy what is left; it does not wait for an end, which a descriptor that was passed on could keep open."""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(output, _CHUNK_BYTES):
            log.write(data)


def _give_up(launch: Launch, why: str, *, retry: bool) -> NoReturn:
    with contextlib.suppress(OSError):
        replace_json(launch.directory / "status.json", {"state": "failed"})
    _reply(launch, {"error": why, "retry": retry})  # last: from now on the name may be launched anew
    os._exit(1)


def _reply(launch: Launch, word: Mapping[str, object]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the agent was killed; whoever comes next reads the records
        os.write(launch.reply, json.dumps(word).encode())
    os.close(launch.reply)


def _leave_word(launch: Launch, status: Mapping[str, object]) -> None:
    """Write how it ended; as often as it takes, for a full disk is emptied some day."""
    while True:
        try:
            return replace_json(launch.directory / "status.json", status)
        except FileNotFoundError:  # the directory was deleted: nobody is left who would read it
            return
        except OSError:
            time.sleep(1.0)
