"""A controller ends in bounded time whatever hangs, and says what; one taken over leaves its successor alone."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from powerflow.cli.ending import LIMIT_S, Ending, ending
from powerflow.cli.main import main
from powerflow.cli.running import announce, withdraw
from tests.cli.serving import SERVE, with_tables
from tests.cli.test_serve import processes_of


def test_what_hangs_is_named_and_the_process_ended() -> None:
    ended, said = threading.Event(), io.StringIO()
    codes: list[int] = []

    def exit(code: int) -> None:
        codes.append(code)
        ended.set()

    watch = Ending(0.05, exit, said)
    watch.begin("something else")
    watch.now("the store")
    assert ended.wait(30)
    assert codes == [1]
    assert said.getvalue().startswith("powerflow: still waiting for the store (")
    assert "the process is ended now" in said.getvalue()


def test_who_ends_in_time_is_left_alone_and_each_part_of_an_end_has_its_own_time() -> None:
    codes: list[int] = []
    said = io.StringIO()
    with ending(Ending(0.2, codes.append, said)) as watch:
        watch.begin("jobs", more_s=1e6)
        time.sleep(0.3)
    watch = Ending(1e6, codes.append, said)
    watch.begin("the loop")
    watch.done()
    assert (codes, said.getvalue()) == ([], "")


def test_a_controller_takes_back_only_its_own_announcement(tmp_path: Path) -> None:
    mine = announce(tmp_path, "http://127.0.0.1:1", "me")
    theirs = announce(tmp_path, "http://127.0.0.1:1", "another")
    withdraw(tmp_path, mine)
    assert (tmp_path / "server.json").exists()
    withdraw(tmp_path, theirs)
    withdraw(tmp_path, theirs)
    assert not (tmp_path / "server.json").exists()


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    yield with_tables(tmp_path / "state")
    for pid in processes_of(tmp_path / "state"):
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGKILL)


@contextmanager
def serve(state: Path, log: Path) -> Iterator[subprocess.Popen[str]]:
    """A controller, which does not outlive a test that fails."""
    command = [*SERVE, "--state-dir", str(state), "--emulate", "1x2:A100", "--port", "0"]
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("powerflow serves"), log.read_text()
            yield process
        finally:
            process.kill()


def agent_of(state: Path) -> int:
    pids = processes_of(state / "engine")
    (found,) = [pid for pid in pids if Path(f"/proc/{pid}/comm").read_text().strip() == "powerflow-forks"]
    return found


def test_sigterm_is_obeyed_while_the_agent_is_stopped(state: Path, tmp_path: Path) -> None:
    with serve(state, tmp_path / "log") as process:
        os.kill(agent_of(state), signal.SIGSTOP)
        time.sleep(1.0)  # so that the loop asks it
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert time.monotonic() - began < LIMIT_S + 5  # a busy machine; alone it takes less than ten


def test_sigterm_is_obeyed_while_the_store_hangs_and_says_so(state: Path, tmp_path: Path) -> None:
    """A database on a file system that does not answer: whoever reads or writes it waits for ever."""
    hanging = (
        "import sys, time, threading\n"
        "from powerflow.store.database import Database\n"
        "from contextlib import contextmanager\n"
        "real = Database.write\n"
        "@contextmanager\n"
        "def write(self):\n"
        "    if threading.current_thread().name == 'powerflow-loop': time.sleep(1e6)\n"
        "    with real(self) as connection: yield connection\n"
        "Database.write = write\n"
        "from powerflow.cli.main import main\n"
        "from powerflow.live import build\n"
        "build.preloaded = tuple\n"
        f"sys.exit(main(['serve', '--state-dir', {str(state)!r}, '--emulate', '1x1:A100', '--port', '0']))\n"
    )
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", hanging], stdout=subprocess.PIPE, stderr=log, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("powerflow serves")
        time.sleep(3.0)  # longer than the loop keeps things to itself (`Settings.save_s`)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1
    said = (tmp_path / "log").read_text()
    assert "still waiting for the controller's loop" in said
    assert "jobs continue" in said


def test_a_controller_that_was_taken_over_ends_with_a_line_and_leaves_its_successor_alone(
    state: Path, tmp_path: Path
) -> None:
    with serve(state, tmp_path / "first") as first:
        _stop_and_expire_claim(first, state)
        with serve(state, tmp_path / "second") as second:
            announced = json.loads((state / "server.json").read_text())
            agent = agent_of(state)
            first.send_signal(signal.SIGCONT)
            assert first.wait(60) == 4
            last = (tmp_path / "first").read_text().splitlines()[-1]
            assert last.startswith("powerflow: ")
            assert "another controller has taken over" in last
            assert "bug" not in (tmp_path / "first").read_text()
            assert json.loads((state / "server.json").read_text()) == announced
            assert agent_of(state) == agent, "the agent is the successor's now"
            assert second.poll() is None
            assert main(["top", "--state-dir", str(state)]) == 0
            second.send_signal(signal.SIGTERM)
            assert second.wait(60) == 0


def _stop_and_expire_claim(controller: subprocess.Popen[str], state: Path) -> None:
    """Stop a controller while it does not write to its store, and do what time does: its lease ends."""
    while True:
        controller.send_signal(signal.SIGSTOP)
        while not _is_stopped(controller.pid):
            time.sleep(0.01)
        with (
            contextlib.suppress(sqlite3.OperationalError),
            contextlib.closing(sqlite3.connect(state / "powerflow.db", timeout=0.1)) as database,
        ):
            database.execute("UPDATE claims SET until_s = 0")
            database.commit()
            return
        controller.send_signal(signal.SIGCONT)  # it was stopped in the middle of a transaction
        time.sleep(0.1)


def _is_stopped(pid: int) -> bool:
    """True if all threads are: a signal takes effect when a thread is next given the processor."""
    try:
        stats = [each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/stat")]
    except FileNotFoundError:  # a thread has just ended
        return False
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)
