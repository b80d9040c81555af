"""Run the shim: a process between the fork server and one rank, which keeps the rank's exit status and log.

The shim continues when the fork server ends, so that the exit status and the log are not lost.

The fork server forks the shim, and the shim forks the rank::

    fork server ──► shim (own session; adopts the rank's orphans) ──► rank (own session; dies with the shim)

The shim copies the rank's output into its log and waits until the rank ends. Then it kills the processes that the rank
left behind, writes the status, and ends. Each rank name has only one shim: a shim holds the lock of the name. If
another shim has the lock, or has had it before, a new shim ends at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from powerflow.engine.local import process
from powerflow.engine.local.becoming import Launch, close_all_but, read_environment, restore, switch_user
from powerflow.engine.local.cgroups import kill, killed_for_memory, leave
from powerflow.engine.local.interpreter import HEEDED
from powerflow.engine.local.not_executed import is_permanent, script_of, why_not_entered, why_not_executed
from powerflow.engine.local.output_file import CopiedLog, Handed, hand_over, open_output, receive
from powerflow.engine.local.shell_host import ShellHost
from powerflow.engine.protocol import RankSpec
from powerflow.osutil.files import replace_json, try_lock
from powerflow.osutil.processes import boot_id, start_ticks

_GO = b"g"
_CHUNK_BYTES = 1 << 16

#: Not empty once this shim was asked to end, by a shutdown of the machine; the shim still waits for its rank.
_told: list[int] = []


def _note_told(number: int, _: object) -> None:
    _told.append(number)


def run(launch: Launch) -> None:
    """Run the shim of a rank; call this in a new fork of the fork server.

    The function returns only in the rank's process, and only if the rank is a script that this interpreter runs.
    """
    try:
        started = _start(launch)
    except (OSError, ValueError) as error:
        _give_up(launch, f"its shim cannot start it: {error}", retry=True)
    if started is not None:
        _keep(launch, started)


class _Started(NamedTuple):
    """A rank that runs.

    Attributes:
        rank: Its pid.
        output: Pipe with its output.
        groups: Its control groups.
        booted_s: Time of day at the start less the seconds since the boot: it stays as it is if the clock is set.
        handed: The user's file for the output.
        shells: Starts shells beside the rank.
    """

    rank: int
    output: int
    groups: list[str]
    booted_s: float
    handed: Handed
    shells: ShellHost


def _start(launch: Launch) -> _Started | None:
    """Start the rank, and return it. In the rank's process, return None."""
    close_all_but({*launch.keep, launch.reply, launch.environment})
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
    copy, copy_w = socket.socketpair()
    shim, started_s = os.getpid(), time.time()
    booted_s = started_s - time.clock_gettime(time.CLOCK_BOOTTIME)
    rank = os.fork()
    if rank == 0:
        for descriptor in (go_w, failure, output, lock, launch.reply):
            os.close(descriptor)
        copy.close()
        _become_rank(launch, shim, go, failure_w, output_w, copy_w)
        return None
    for descriptor in (go, failure_w, output_w):
        os.close(descriptor)
    copy_w.close()
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
        os.close(go_w)  # a rank that does not read `_GO` exits
    with open(failure, "rb") as file:
        failed = file.read()
    if failed:
        os.waitpid(rank, 0)
        leave(groups)
        _give_up(launch, **json.loads(failed), retry=False)
    shells = ShellHost(launch, groups)  # before anybody hears that the rank runs
    _reply(launch, {})
    return _Started(rank, output, groups, booted_s, receive(copy), shells)


def _keep(launch: Launch, started: _Started) -> NoReturn:
    """Wait until a rank has ended, kill all processes that it started, write its status, and end this process."""
    log = CopiedLog(launch.directory, started.handed)
    code = _watch(started.rank, started.output, log, started.shells)
    kill(started.groups)
    process.end_children()
    _drain(started.output, log)
    out_of_memory = killed_for_memory(started.groups)
    leave(started.groups)
    # the run time is right even if the clock was set
    ended_s = started.booted_s + time.clock_gettime(time.CLOCK_BOOTTIME)
    how = {"code": code, "ended_s": ended_s, "told": bool(_told), "out_of_memory": out_of_memory}
    _write_status(launch, {"state": "exited", **how})
    os._exit(0)


def _become_rank(launch: Launch, shim: int, go: int, failure: int, output: int, copy: socket.socket) -> None:
    """Turn this process into the rank, by running the rank's command.

    If this interpreter shall run the rank's script, the function returns, and the caller runs the script.
    """
    spec, env, entered = launch.spec, dict[str, str](), False
    try:
        os.setsid()
        if os.read(go, 1) != _GO:
            os._exit(127)
        os.close(go)
        env = read_environment(launch.environment)
        os.close(launch.environment)
        here = runs_here(spec, env)
        restore(launch, python=here)
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
        entered = True
        if spec.output:
            hand_over(copy, *open_output(spec.output))
        copy.close()
        if script := script_of(spec):
            os.stat(script)  # the interpreter would only end with code 2
        if not here:
            os.execvpe(spec.command[0], spec.command, env)
        close_all_but({*launch.keep, failure})
        os.environ.clear()
        os.environ.update(env)
        process.show_as("powerflow-rank")
        os.close(failure)
    except (OSError, ValueError, KeyError) as error:
        why = why_not_executed(error, spec, env) if entered else why_not_entered(error, spec.directory)
        os.write(failure, json.dumps({"why": why, "final": is_permanent(error)}).encode())
        os._exit(127)


def runs_here(spec: RankSpec, env: Mapping[str, str]) -> bool:
    """Return True if a rank can run in the preloaded interpreter.

    The rank must be a Python script, and have no environment variable that takes effect only when a process starts,
    unless this process was started with the same value.
    """
    late = {key for key in env if key.startswith("LD_") or (key.startswith("PYTHON") and key not in HEEDED)}
    heeded = all(os.environ.get(key) == env[key] for key in late)
    return spec.python and len(spec.command) > 1 and not spec.command[1].startswith("-") and heeded


def _watch(rank: int, output: int, log: CopiedLog, shells: ShellHost) -> int:
    """Copy the rank's output to its log until the rank ends; return the rank's exit code.

    Meanwhile start shells beside the rank. Orphans of the rank that end in the meantime are reaped (their exit codes
    are read), so that no zombies remain.
    """
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    os.set_blocking(output, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(output, select.POLLIN)
    poll.register(woken, select.POLLIN)
    shells.join(poll)
    while True:
        while True:  # look before the first sleep: the signal may have come before its handler
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == rank:
                signal.set_wakeup_fd(-1)
                return os.waitstatus_to_exitcode(status)
            if ended == 0:
                break
            shells.ended(ended, os.waitstatus_to_exitcode(status))
        for descriptor, _ in poll.poll(shells.rest_ms()):
            if descriptor == woken:
                os.read(woken, 4096)
            elif descriptor != output:
                shells.act(descriptor)
            elif not _copy(output, log):
                poll.unregister(output)  # closed, but the rank may still run
        shells.kill_late()


def _copy(output: int, log: CopiedLog) -> bool:
    """Copy the bytes that the pipe of the rank's output holds to the log; return False if the pipe is closed."""
    try:
        data = os.read(output, _CHUNK_BYTES)
    except BlockingIOError:
        return True
    log.write(data)
    return bool(data)


def _drain(output: int, log: CopiedLog) -> None:
    """Copy the bytes that the pipe of the rank's output still holds to the log.

    The function does not wait for the end of the pipe, because another process may keep the pipe open.
    """
    with contextlib.suppress(BlockingIOError):
        while data := os.read(output, _CHUNK_BYTES):
            log.write(data)


def _give_up(launch: Launch, why: str, *, retry: bool, final: bool = False) -> NoReturn:
    with contextlib.suppress(OSError):
        replace_json(launch.directory / "status.json", {"state": "failed"})
    # last, because the name may be launched again from now on
    _reply(launch, {"error": why, "retry": retry, "final": final})
    os._exit(1)


def _reply(launch: Launch, word: Mapping[str, object]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the fork server was killed; the next one reads the records
        os.write(launch.reply, json.dumps(word).encode())
    os.close(launch.reply)


def _write_status(launch: Launch, status: Mapping[str, object]) -> None:
    """Write to disk how the rank ended. If the disk is full, try again until the file is written."""
    while True:
        try:
            return replace_json(launch.directory / "status.json", status)
        except FileNotFoundError:  # the directory was deleted: nobody would read it
            return
        except OSError:
            time.sleep(1.0)
