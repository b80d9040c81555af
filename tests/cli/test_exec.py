"""``powerflow exec``: what passes between a user and a shell, and how it ends, on a terminal and in a pipe."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from powerflow.agent.shells import LocalShells
from powerflow.api.job_spec import JobSpec
from powerflow.api.records import Caller, Role
from powerflow.cli.cluster import shell_client
from powerflow.cli.main import main
from powerflow.engine.local import LocalEngine
from powerflow.engine.protocol import EngineError, RankName, RankSpec
from powerflow.engine.shells import NoShell
from powerflow.service.server import ApiServer
from tests.cli.shell import Shell
from tests.service.fake_shells import EchoShells
from tests.service.serving import service

ADA = Caller("ada", Role.USER)


@pytest.fixture
def echoes(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> EchoShells:
    """Job 1 of ada runs."""
    shell.cluster.submit(JobSpec(run="true"), ADA)
    shell.cluster.run("1")
    monkeypatch.setattr(shell_client, "PATIENCE_S", 0.3)
    assert isinstance(shell.cluster.shells, EchoShells)
    return shell.cluster.shells


class Keys:
    """What somebody writes into the stdin of a command."""

    def __init__(self) -> None:
        read, self._write = os.pipe()
        self.stdin = os.fdopen(read)

    def write(self, text: bytes) -> None:
        os.write(self._write, text)

    def end(self, text: bytes = b"") -> None:
        self.write(text)
        os.close(self._write)
        self._write = -1

    def close(self) -> None:
        self.stdin.close()
        if self._write >= 0:
            os.close(self._write)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[Keys]:
    made = Keys()
    monkeypatch.setattr(sys, "stdin", made.stdin)
    yield made
    made.close()


# --- in a pipe -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "exits"), [(0, 0), (7, 7), (-15, 143)])
def test_input_output_and_the_exit_code_are_passed_on(
    shell: Shell, echoes: EchoShells, keys: Keys, code: int, exits: int
) -> None:
    echoes.code = code
    keys.end(b"one\ntwo")
    assert main(["exec", "1", "--", "grep", "-c", "x"]) == exits
    out, err = shell.capsys.readouterr()
    assert (out, err) == ("1.1.0 on n1: grep -c x\none\ntwo", "")
    assert len(echoes.closed) == 1


@pytest.mark.parametrize(("code", "exits", "did"), [(None, 137, "has ended"), (-15, 143, "was told to end")])
def test_a_rank_that_ends_is_said(
    shell: Shell, echoes: EchoShells, keys: Keys, code: int | None, exits: int, did: str
) -> None:
    echoes.code, shell.cluster.told_to_end = code, did == "was told to end"
    keys.end()
    assert shell("exec", "1", code=exits) == f"powerflow: rank 1.1.0 {did}, and this shell with it\n"


def test_what_cannot_be_opened_is_one_line(shell: Shell, echoes: EchoShells, keys: Keys) -> None:
    keys.end()
    assert shell("exec", "99", code=3) == "powerflow: there is no job 99\n"
    assert shell("exec", "1", "--rank", "7", code=3) == "powerflow: job 1 has no rank 7\n"
    assert shell("exec", "1", "--rank", "a b", code=2).startswith("powerflow: rank: ")
    assert "No such option: -l" in shell("exec", "1", "ls", "-l", code=2)
    shell.cluster.end("1")
    assert shell("exec", "1", code=4) == "powerflow: job 1 does not run\n"
    assert not echoes.echoes


def test_a_job_of_somebody_else_is_refused(shell: Shell, echoes: EchoShells, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERFLOW_TOKEN", "pf_other")
    assert "job 1 belongs to ada" in shell("exec", "1", code=4)
    monkeypatch.setenv("POWERFLOW_TOKEN", "pf_viewer")
    assert "vera has the role viewer" in shell("exec", "1", code=4)


def test_a_node_that_is_away_for_a_moment_is_waited_for(
    shell: Shell, echoes: EchoShells, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:

    def come_and_go() -> None:
        while not echoes.echoes:
            time.sleep(0.01)
        echoes.refusal = EngineError("n1 does not answer", retry=True)
        time.sleep(0.1)
        echoes.refusal = None
        keys.end(b"back")

    monkeypatch.setattr(shell_client, "PATIENCE_S", 60.0)
    thread = threading.Thread(target=come_and_go)
    thread.start()
    assert shell("exec", "1").endswith("back")
    thread.join()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (EngineError("n1 does not answer", retry=True), 5, "powerflow: n1 does not answer\n"),
        (NoShell("the node does not know this shell any more"), 3, "powerflow: the shell has ended\n"),
    ],
)
def test_what_is_lost_is_one_line(
    shell: Shell, echoes: EchoShells, keys: Keys, error: EngineError, code: int, said: str
) -> None:

    def lose() -> None:
        while not echoes.echoes:
            time.sleep(0.01)
        echoes.refusal = error

    thread = threading.Thread(target=lose)
    thread.start()
    assert shell("exec", "1", code=code) == said
    thread.join()
    assert len(echoes.closed) == (code == 5), "the controller can be reached"


def test_who_stops_reading_ends_the_command(
    shell: Shell, echoes: EchoShells, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed(io.BytesIO):
        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Closed(), write_through=True))
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    monkeypatch.setattr(sys.stdout, "fileno", lambda: -1, raising=False)
    assert main(["exec", "1"]) == 0
    assert len(echoes.closed) == 1


# --- on a terminal, over real processes ------------------------------------------------------------------------------


class Beside:
    """A rank of job 1 that runs, and ``powerflow exec`` in a terminal of its own."""

    PROGRAM = """if True:
        import fcntl, termios
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        from powerflow.cli.cluster import shell_client
        from powerflow.cli.main import run
        shell_client.PATIENCE_S = 0.2
        run()
        """

    def __init__(self, shell: Shell, directory: Path) -> None:
        shell.cluster.submit(JobSpec(run="true"), ADA)
        shell.cluster.run("1")
        self.engine = LocalEngine(directory / "engine", {"n1": 1})
        env = {"PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "PS1": "> "}
        self.engine.launch(RankSpec(RankName("1", 1, 0), "n1", ("sleep", "600"), env, str(directory)))
        self.shells = LocalShells(self.engine.open_shell)
        shell.cluster.shells = self.shells
        self.master, self.slave = pty.openpty()
        self.resize(30, 100)
        self.before = termios.tcgetattr(self.slave)
        command = [sys.executable, "-c", self.PROGRAM, "exec", "1"]
        self.process = subprocess.Popen(
            command,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm"},
        )
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def says(self, what: bytes) -> bytes:
        """Read until the terminal shows something; return what it has shown before."""
        end_s = time.monotonic() + 120.0
        while what not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0.0, end_s - time.monotonic()))
            assert ready, self.seen
            self.seen += os.read(self.master, 1 << 16)
        before, _, self.seen = self.seen.partition(what)
        return before

    def is_restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)
        self.engine.shutdown(kill=True)


@pytest.fixture
def beside(shell: Shell, tmp_path: Path) -> Iterator[Beside]:
    made = Beside(shell, tmp_path)
    yield made
    made.close()


def test_a_terminal_is_that_of_the_command_until_its_end(beside: Beside) -> None:
    beside.says(b"> ")
    assert not beside.is_restored()
    beside.type(b"stty size; echo $TERM\r")
    beside.says(b"30 100\r\nxterm\r\n> ")
    beside.type(b"sh -c 'echo r''eady; exec sleep 600'\r")
    beside.says(b"ready\r\n")
    beside.type(b"\x03")
    beside.says(b"> ")
    beside.type(b"sh -c 'trap \"stty size\" WINCH; echo r''eady; while :; do sleep 0.02; done'\r")
    beside.says(b"ready\r\n")
    beside.resize(40, 120)
    beside.says(b"40 120\r\n")
    beside.type(b"\x03")
    beside.says(b"> ")
    beside.type(b"exit 5\r")
    assert beside.process.wait(120.0) == 5
    assert beside.is_restored()
    assert beside.says(b"exit 5\r\n") == b""
    assert not select.select([beside.master], [], [], 0)[0], "nothing more is said"


def test_a_terminal_is_restored_when_the_command_is_told_to_end(beside: Beside) -> None:
    beside.says(b"> ")
    beside.process.send_signal(signal.SIGTERM)
    assert beside.process.wait(120.0) == 128 + signal.SIGTERM
    assert beside.is_restored()
    assert not beside.shells._sessions


def test_a_terminal_is_restored_when_the_rank_ends(beside: Beside) -> None:
    beside.says(b"> ")
    beside.engine.signal(RankName("1", 1, 0), signal.SIGKILL)
    assert beside.process.wait(120.0) == 137
    assert beside.is_restored()


def test_a_terminal_is_restored_when_the_controller_is_lost(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ApiServer(service(shell.cluster)) as server:
        monkeypatch.setenv("POWERFLOW_URL", server.url)
        with closing(Beside(shell, tmp_path)) as beside:
            beside.says(b"> ")
            url = server.url
            server.stop()
            assert beside.process.wait(120.0) == 5
            assert beside.is_restored()
            beside.says(f"\r\npowerflow: the controller at {url} has gone\r\n".encode())
            for session in beside.shells._sessions.values():  # its event loop has gone, too
                session._shell.connection.close()
