"""Commands that follow something go on while the controller is started again, also on another port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from powerflow.api.records import JobState
from powerflow.cli.cluster import client, log_reader
from powerflow.cli.main import main
from powerflow.service.server import ApiServer
from tests.cli.shell import Shell
from tests.service.fake_cluster import FakeCluster
from tests.service.serving import service


class Moving:
    """A cluster whose controller writes its address to the state directory, and can be started again elsewhere."""

    def __init__(self, state: Path) -> None:
        self.cluster, self.asked = FakeCluster(), threading.Event()
        self._state = state
        for name in ("log", "events"):
            setattr(self.cluster, name, self._noticed(getattr(self.cluster, name)))
        self._server = self._started()

    def _noticed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def noticed(*args: Any, **given: Any) -> Any:
            found = call(*args, **given)
            self.asked.set()
            return found

        return noticed

    def _started(self, port: int = 0) -> ApiServer:
        server = ApiServer(service(self.cluster), port=port)
        server.start()
        self._state.mkdir(exist_ok=True)
        (self._state / "token").write_text("pf_user")
        found = {"url": server.url, "token_file": str(self._state / "token")}
        (self._state / "server.json").write_text(json.dumps(found))
        return server

    def move(self, *, same_port: bool) -> None:
        """Start the controller again."""
        port = self._server.port if same_port else 0
        self._server.stop()
        self._server = self._started(port)

    def later(self, meanwhile: Callable[[], None]) -> threading.Thread:
        """Do something after the first look at events or logs."""

        def run() -> None:
            assert self.asked.wait(60.0)
            meanwhile()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture
def moving(quiet: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(log_reader, "_LOOK_S", 0.01)
    made = Moving(quiet / "powerflow")
    yield made
    made.stop()


@pytest.mark.parametrize("same_port", [True, False])
def test_each_line_of_a_log_comes_once(moving: Moving, capsys: pytest.CaptureFixture[str], same_port: bool) -> None:
    assert main(["submit", "--run", "true"]) == 0
    moving.cluster.run("1")
    moving.cluster.write("1", "one\n")

    def meanwhile() -> None:
        moving.move(same_port=same_port)
        moving.cluster.write("1", "two\n")
        moving.cluster.end("1")

    other = moving.later(meanwhile)
    capsys.readouterr()
    assert main(["logs", "1", "--follow"]) == 0
    other.join()
    assert capsys.readouterr().out == "one\ntwo\n"


def test_a_wait_for_a_job_finds_the_controller_again(moving: Moving, capsys: pytest.CaptureFixture[str]) -> None:
    def meanwhile() -> None:
        moving.move(same_port=False)
        moving.cluster.run("1")
        moving.cluster.end("1", JobState.FAILED, "failed 3 times")

    other = moving.later(meanwhile)
    assert main(["submit", "--wait", "--run", "true"]) == 1
    other.join()
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "job 1 failed 3 times"
    lost, found = err.splitlines()
    assert lost.startswith("powerflow: note: lost the controller at http://127.0.0.1:")
    assert found.startswith("powerflow: note: the controller answers again, at http://127.0.0.1:")
    assert lost.split()[-8:] != found.split()[-1:]


@pytest.mark.parametrize("argv", [["events", "-f"], ["logs", "-f", "1"], ["submit", "--wait", "--run", "true"]])
def test_a_controller_that_does_not_come_back_is_an_error(
    moving: Moving, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    monkeypatch.setattr(client, "FOLLOWING_S", 0.5)
    main(["submit", "--run", "true"])
    moving.cluster.run("1")
    other = moving.later(moving.stop)
    capsys.readouterr()
    assert main(argv) == 5
    other.join()
    lost, gone = capsys.readouterr().err.splitlines()
    assert "trying for 0.5 s to find it" in lost
    assert "the controller at http" in gone
    assert ("job 2 goes on without it" in gone) == (argv[0] == "submit")


def test_who_interrupts_a_wait_is_told_that_the_job_goes_on(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    events, waiting = shell.cluster.events, threading.Event()

    def noticed(**given: Any) -> Any:
        waiting.set()
        return events(**given)

    monkeypatch.setattr(shell.cluster, "events", noticed)
    argv = [sys.executable, "-m", "powerflow", "submit", "--wait", "--array", "0-1", "--run", "true"]
    waits = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert waits.stdout is not None
    assert waits.stdout.readline() == "jobs 1 to 2 are queued: array 1\n"
    assert waiting.wait(60.0), "by then it has imported all that it needs"
    waits.send_signal(signal.SIGINT)
    assert waits.communicate(timeout=60)[1] == (
        "powerflow: interrupted; jobs 1 to 2 go on; powerflow cancel --array 1 ends them\n"
    )
    assert waits.returncode == 130
    assert "job 1 is" in shell("cancel", "1")
