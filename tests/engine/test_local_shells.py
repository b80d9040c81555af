"""Shells beside the ranks of this machine: what they are, what passes through them, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import select
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from powerflow.agent import shell_session
from powerflow.agent.shells import LocalShells
from powerflow.device.foreign import strangers
from powerflow.engine.local import shell_host
from powerflow.engine.local.process import descendants
from powerflow.engine.protocol import EngineError, RankName, RankSpec, RankState
from powerflow.engine.shells import NoShell, ShellSpec, Terminal
from powerflow.osutil.processes import stat_fields
from powerflow.testing.engine_conformance import ended, status_of, until, whole_log
from powerflow.testing.engine_conformance_process import alive
from tests.engine.conftest import LocalPlace
from tests.engine.shells import Ended, Talk, ran
from tests.engine.test_local_confinement import NOBODY, ROOT, open_to_all

RANK = RankName("g", 0, 0)
PATH = {"PATH": "/usr/bin:/bin"}
XTERM = Terminal("xterm", 30, 100)


class Beside:
    """A rank that runs, and shells beside it."""

    def __init__(self, place: LocalPlace, directory: Path, *command: str, user: str = "", **env: str) -> None:
        self.engine = place()
        self.home = place.home
        words = command or ("sleep", "600")
        self.engine.launch(RankSpec(RANK, "n1", words, PATH | env, str(directory), user))
        self.shells = LocalShells(self.engine.open_shell)

    def ran(self, *command: str, stdin: bytes = b"", terminal: Terminal | None = None) -> Ended:
        return asyncio.run(ran(self.shells, "n1", RANK, *command, stdin=stdin, terminal=terminal))

    async def opened(self, *command: str, terminal: Terminal | None = None) -> Talk:
        return await Talk(self.shells, "n1", RANK).open(*command, terminal=terminal)

    @property
    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.home / "ranks" / str(RANK) / "process.json").read_text())
        return found

    @property
    def shim(self) -> int:
        return int(self.record["shim"][0])

    @property
    def pid(self) -> int:
        return int(self.record["rank"][0])


def within(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work, 120.0)

    asyncio.run(bounded())


def gone(pid: int) -> bool:
    deadline_s = time.monotonic() + 60.0
    while alive(pid) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return not alive(pid)


# --- what it is ------------------------------------------------------------------------------------------------------


def test_environment_and_directory_are_those_of_the_rank(place: LocalPlace, tmp_path: Path) -> None:
    """The rank says in its log what it has found. It has a secret, which no file and no command line tells."""
    beside = Beside(place, tmp_path, "sh", "-c", "pwd; env; sleep 600", SECRET="a b\nc", CUDA_VISIBLE_DEVICES="GPU-1")
    until(beside.engine, lambda: b"GPU-1" in whole_log(beside.engine, RANK))
    found = beside.ran("sh", "-c", "pwd; env; sleep 0").out
    mine = set(found.splitlines()) - set(whole_log(beside.engine, RANK).splitlines())
    assert mine == {b"POWERFLOW_SHELL=1"}
    assert found.startswith(f"{tmp_path}\n".encode())
    assert b"SECRET=a b\nc\n" in found
    for path in (beside.home / "ranks" / str(RANK)).iterdir():
        assert not path.is_file() or path.name.startswith("log-") or b"a b" not in path.read_bytes()


def test_it_is_a_part_of_the_rank(place: LocalPlace, tmp_path: Path) -> None:
    """For the meter, which asks for a process's parents, and for the kernel, which has it in the rank's group."""
    beside = Beside(place, tmp_path)

    async def look() -> None:
        talk = await beside.opened("sh", "-c", "echo $$; sleep 600 & wait")
        await talk.says(b"\n")
        inside = set(descendants(beside.shim))
        await talk.until(lambda: len(set(descendants(beside.shim))) >= 3)
        inside = set(descendants(beside.shim))
        assert strangers(inside, {beside.shim}) == ()
        assert strangers(inside, {beside.pid}) != (), "it descends from the shim, not from the rank's process"
        for group in beside.record["groups"]:
            assert inside <= set(map(int, Path(group, "cgroup.procs").read_text().split()))
        beside.shells.close(talk.key)

    within(look())


def test_a_rank_of_the_preloaded_interpreter_has_one(place: LocalPlace, tmp_path: Path) -> None:
    """Its own environment is the fork server's, as the system tells; a shell has what the rank was launched with."""
    engine = place("colorsys")
    (tmp_path / "script.py").write_text("import time\ntime.sleep(600)\n")
    spec = RankSpec(RANK, "n1", (sys.executable, "script.py"), PATH | {"TOKEN": "t7"}, str(tmp_path), python=True)
    engine.launch(spec)
    done = asyncio.run(ran(LocalShells(engine.open_shell), "n1", RANK, "sh", "-c", "echo $TOKEN"))
    assert done == (0, b"t7\n", b"")


@pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
def test_it_has_the_user_of_the_rank_who_owns_its_terminal(place: LocalPlace, tmp_path: Path) -> None:
    open_to_all(tmp_path)
    beside = Beside(place, tmp_path, user=NOBODY, HOME="/tmp")
    uid, gid = pwd.getpwnam(NOBODY).pw_uid, pwd.getpwnam(NOBODY).pw_gid
    groups = " ".join(map(str, os.getgrouplist(NOBODY, gid)))
    text = "id -ru; id -G; umask; grep -hoE '(NoNewPrivs|CapEff).*' /proc/self/status | tr -d '\\t'"
    said = f"{uid}\n{groups}\n0022\nCapEff:{'0' * 16}\nNoNewPrivs:1\n".encode()
    assert beside.ran("sh", "-c", text) == (0, said, b"")
    done = beside.ran("sh", "-c", "echo to its name > $(tty); stat -c %u $(tty)", terminal=XTERM)
    assert done == (0, f"to its name\r\n{uid}\r\n".encode(), b"")
    assert beside.ran("sh", "-c", f"ls {beside.home}").code != 0


def test_without_a_command_it_is_the_users_shell(place: LocalPlace, tmp_path: Path) -> None:
    shells = {"/bin/bash": b"bash", "/nowhere/zsh": b"sh", "/usr/sbin/nologin": b"sh"}
    for number, (shell, said) in enumerate(shells.items()):
        engine, rank = place(), RankName("g", 0, number)
        engine.launch(RankSpec(rank, "n1", ("sleep", "600"), PATH | {"SHELL": shell}, str(tmp_path)))
        done = asyncio.run(ran(LocalShells(engine.open_shell), "n1", rank, stdin=b"echo $0; exit 4\n"))
        assert done == (4, said + b"\n", b"")


# --- what passes through ---------------------------------------------------------------------------------------------


def test_outputs_are_apart_and_input_and_exit_code_are_passed_on(place: LocalPlace, tmp_path: Path) -> None:
    beside = Beside(place, tmp_path)
    assert beside.ran("sh", "-c", "echo out; echo err >&2; cat; exit 7", stdin=b"in") == (7, b"out\nin", b"err\n")
    assert beside.ran("sh", "-c", "kill -TERM $$").code == -signal.SIGTERM
    assert beside.ran("nosuch", "word") == (127, b"", b"powerflow: nosuch: No such file or directory\n")
    assert beside.ran("/etc/passwd") == (126, b"", b"powerflow: /etc/passwd: Permission denied\n")
    large = os.urandom(1 << 20)
    assert beside.ran("cat", stdin=large) == (0, large, b"")
    assert beside.ran("head", "-c", "1", stdin=large) == (0, large[:1], b"")
    assert beside.ran("sh", "-c", "sleep 600 & echo $!").out.strip().isdigit(), "who stays behind keeps nobody waiting"


def test_a_directory_that_has_gone_is_said(place: LocalPlace, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    beside = Beside(place, tmp_path / "there")
    (tmp_path / "there").rmdir()
    what = f"powerflow: {tmp_path}/there: No such file or directory\n"
    assert beside.ran("true") == (126, b"", what.encode())


def test_a_terminal_has_its_kind_its_size_and_its_keys(place: LocalPlace, tmp_path: Path) -> None:
    beside = Beside(place, tmp_path, SHELL="/bin/sh", PS1="> ")

    async def type_into_it() -> None:
        talk = await beside.opened(terminal=XTERM)
        await talk.says(b"> ")
        await talk.send(b"echo $TERM; stty size; tty\r")
        await talk.says(b"xterm\r\n30 100\r\n/dev/pts/")
        await beside.shells.resize(talk.key, 40, 120)
        await talk.send(b"stty size\r")
        await talk.says(b"40 120\r\n")
        await talk.send(b"sh -c 'trap \"stty size\" WINCH; echo r''eady; while :; do sleep 0.02; done'\r")
        await talk.says(b"ready\r\n")
        await beside.shells.resize(talk.key, 41, 121)
        await talk.says(b"41 121\r\n")
        await talk.send(b"\x03")  # ends the loop, not the shell
        await talk.says(b"> ")
        await talk.send(b"exit 5\r")
        assert (await talk.ended()).code == 5

    within(type_into_it())


def _name(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().split()[1]
    except OSError:
        return b""


def test_who_does_not_read_lets_the_command_wait_and_gets_all_of_it(place: LocalPlace, tmp_path: Path) -> None:
    beside = Beside(place, tmp_path)
    lines = 400_000

    async def read_late() -> None:
        talk = await beside.opened("sh", "-c", f"yes | head -n {lines}; echo last")
        session = beside.shells._sessions[talk.key]
        while sum(map(len, session._buffers.values())) < shell_session.MOST_OUTPUT:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        held = sum(map(len, session._buffers.values()))
        assert held < shell_session.MOST_OUTPUT + (1 << 17)
        done = await talk.ended()
        assert done == (0, b"y\n" * lines + b"last\n", b"")

    within(read_late())


def test_what_does_not_read_takes_no_more_input(place: LocalPlace, tmp_path: Path) -> None:
    beside = Beside(place, tmp_path)

    async def write() -> None:
        talk = await beside.opened("sleep", "600")
        taken, before = 0, -1
        while taken > before:
            before = taken
            taken = await beside.shells.write(talk.key, taken, bytes(1 << 16), end=False, wait_s=0.05)
        assert taken <= 2 * shell_session.MOST_INPUT + (1 << 16)
        beside.shells.close(talk.key)

    within(write())


def test_requests_that_are_repeated_change_nothing(place: LocalPlace, tmp_path: Path) -> None:
    beside = Beside(place, tmp_path)

    async def repeat() -> None:
        shells, talk = beside.shells, await beside.opened("cat")
        await shells.open(talk.key, "n1", ShellSpec(RANK, ("cat",)))
        assert await shells.write(talk.key, 0, b"abc", end=False, wait_s=1) == 3
        assert await shells.write(talk.key, 0, b"abc", end=False, wait_s=1) == 3
        assert await shells.write(talk.key, 1, b"bcde", end=False, wait_s=1) == 5
        with pytest.raises(EngineError, match="input from byte 5 on is missing"):
            await shells.write(talk.key, 6, b"g", end=False, wait_s=1)
        await talk.says(b"abcde")
        again = await shells.read(talk.key, talk.last.number - 1, 1)
        assert again == talk.last
        nothing = await shells.read(talk.key, talk.last.number, 0.0)
        assert (nothing.number, nothing.out, nothing.ended) == (talk.last.number, b"", False)
        if talk.last.number > 1:
            with pytest.raises(EngineError, match="is not the last one"):
                await shells.read(talk.key, talk.last.number - 2, 1)
        await talk.send(b"", end=True)
        assert (await talk.ended()).code == 0

    within(repeat())


# --- how it ends -----------------------------------------------------------------------------------------------------


def test_it_ends_with_the_rank(place: LocalPlace, tmp_path: Path) -> None:
    beside = Beside(place, tmp_path)

    async def end_the_rank() -> None:
        text = "trap '' HUP TERM; setsid sh -c 'echo $$; exec sleep 600'"
        talk = await beside.opened("sh", "-c", text, terminal=XTERM)
        await talk.until(lambda: talk.out.endswith(b"\n"))
        pid = int(talk.out)
        await asyncio.to_thread(beside.engine.signal, RANK, signal.SIGKILL)
        done = await talk.ended()
        assert done.code in (None, -signal.SIGKILL)  # as the shim sees it: the signal went to all of the rank
        await asyncio.to_thread(ended, beside.engine, RANK)
        assert gone(pid)

    within(end_the_rank())
    with pytest.raises(EngineError, match=r"rank g\.0\.0 does not run any more"):
        beside.ran("true")


def test_it_ends_with_a_killed_shim(place: LocalPlace, tmp_path: Path) -> None:
    beside = Beside(place, tmp_path)

    async def kill_the_shim() -> None:
        talk = await beside.opened("sh", "-c", "trap '' HUP; echo $$; sleep 600; sleep 600")
        await talk.until(lambda: talk.out.endswith(b"\n"))
        os.kill(beside.shim, signal.SIGKILL)
        assert (await talk.ended()).code is None
        assert gone(int(talk.out))

    within(kill_the_shim())
    assert ended(beside.engine, RANK).state is RankState.LOST


@pytest.mark.parametrize("terminal", [None, XTERM])
def test_who_hangs_up_ends_it_but_not_what_shall_stay(
    place: LocalPlace, tmp_path: Path, terminal: Terminal | None
) -> None:
    beside = Beside(place, tmp_path)

    async def hang_up() -> None:
        talk = await beside.opened("sh", "-c", "nohup sleep 600 >/dev/null 2>&1 & echo $! $$; cat", terminal=terminal)
        await talk.until(lambda: talk.out.endswith(b"\n"))
        stays, shell = map(int, talk.out.split()[-2:])
        while _name(stays) != b"(sleep)":  # it ignores the signal from then on
            await asyncio.sleep(0.01)
        waiting = asyncio.create_task(beside.shells.read(talk.key, talk.last.number, 60.0))
        await asyncio.sleep(0)
        beside.shells.close(talk.key)
        assert (await waiting).ended
        assert gone(shell)
        assert alive(stays)
        with pytest.raises(NoShell):
            await beside.shells.read(talk.key, 0, 0.0)

    within(hang_up())


def test_what_ignores_the_hang_up_is_killed(place: LocalPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 5 s: a host of shells in this process does it at once."""
    monkeypatch.setattr(shell_host, "_HANG_UP_S", 0.0)
    host = shell_host.ShellHost.__new__(shell_host.ShellHost)
    ours, theirs = socket.socketpair()
    child = os.posix_spawn("/bin/sh", ["sh", "-c", "trap '' HUP; echo; sleep 600"], {})
    poll = select.poll()
    poll.register(theirs)
    guest = shell_host.Guest(theirs, pid=child)
    host._guests, host._poll = [guest], poll
    host._hang_up(guest)
    assert host.rest_ms() == 0
    host.kill_late()
    assert host.rest_ms() is None
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (-signal.SIGKILL, -signal.SIGHUP)
    host.ended(child, 0)
    assert not host._guests
    ours.close()


def test_a_silent_user_is_hung_up(place: LocalPlace, tmp_path: Path) -> None:
    beside = Beside(place, tmp_path)
    beside.shells = LocalShells(beside.engine.open_shell, silent_s=0.2)

    async def fall_silent() -> None:
        talk = await beside.opened("sh", "-c", "echo $$; cat")
        await talk.until(lambda: talk.out.endswith(b"\n"))
        await asyncio.to_thread(gone, int(talk.out))
        with pytest.raises(NoShell):
            await beside.shells.read(talk.key, talk.last.number, 0.0)

    within(fall_silent())


def test_a_rank_has_a_bounded_number_of_them(place: LocalPlace, tmp_path: Path) -> None:
    beside = Beside(place, tmp_path)

    async def open_many() -> None:
        talks = [await beside.opened("cat") for _ in range(shell_host.MOST_SHELLS)]
        with pytest.raises(EngineError, match="the rank has 8 shells already"):
            await beside.opened("cat")
        for talk in talks:
            beside.shells.close(talk.key)
        while set(descendants(beside.shim)) - {beside.pid}:
            await asyncio.sleep(0.01)
        assert (await ran(beside.shells, "n1", RANK, "true")).code == 0

    within(open_many())


def test_a_rank_that_was_launched_by_an_earlier_version_says_so(place: LocalPlace, tmp_path: Path) -> None:
    beside = Beside(place, tmp_path)
    (beside.home / "ranks" / str(RANK) / "shell.sock").unlink()
    with pytest.raises(EngineError, match="was started by a version of PowerFlow that has no shells"):
        beside.ran("true")


def test_nonsense_on_the_socket_disturbs_neither_shells_nor_the_rank(place: LocalPlace, tmp_path: Path) -> None:
    beside = Beside(place, tmp_path)
    path = beside.home / "ranks" / str(RANK) / "shell.sock"
    for said in (b"", b"nonsense\n", b'{"command": ["true"], "terminal": null}\n', b"[" * 100_000 + b"\n", b'{"half'):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            with contextlib.suppress(OSError):
                connection.sendall(said)
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(30.0)
                while connection.recv(4096):
                    pass
    assert beside.ran("echo", "well").out == b"well\n"
    rank = status_of(beside.engine, RANK)
    assert rank is not None
    assert rank.state is RankState.RUNNING
    assert stat_fields(beside.shim) is not None
