"""``powerflow serve`` on GPUs (the fake ones) that hang, that are somebody else's, that were reset by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import IO, Any

import pytest

from powerflow.cli.main import main
from tests.agent.own import agent_of
from tests.cli.serving import SERVE, with_tables
from tests.device.fake_nvml import HANG_READING, Machine, build

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")

#: On a machine that is busy with other things.
MOST_S = 120.0


class Serve:
    """A controller over a fake machine of three GPUs."""

    def __init__(self, directory: Path) -> None:
        library = directory / "nvml"
        library.mkdir()
        self.directory, self.state = directory, directory / "state"
        self.machine = Machine(build(library), directory)
        self.machine.all.count = 3
        for index in range(3):
            gpu = self.machine.gpu[index]
            gpu.uuid, gpu.name = f"GPU-{index:08d}-fake".encode(), b"NVIDIA A100-SXM4-80GB"
            gpu.power_w, gpu.clock_mhz = 60.0, 1410.0
        self.process = self.start(self.state)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("powerflow serves 3 GPUs"), line

    def start(self, state: Path) -> subprocess.Popen[str]:
        command = [*SERVE, "--state-dir", str(with_tables(state)), "--port", "0"]
        return subprocess.Popen(
            [*command, "--interval", "0.5", "--lambda", "0.05", "--on-exit", "drain"],
            env={**self.machine.env, "POWERFLOW_STATE": str(state)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if state != self.state else subprocess.DEVNULL,
            text=True,
        )

    def ask(self, *argv: str) -> Any:
        return json.loads(self.say(*argv, "--json"))

    def say(self, *argv: str) -> str:
        """What a command says to the controller's process; the command itself runs in this one."""
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            code = main([*argv, "--state-dir", str(self.state)])
        assert code == 0, err.getvalue()
        return out.getvalue()

    def watch(self, *argv: str) -> str:
        """What one look of a watch finds, as JSON."""
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            code = main(["watch", "--once", "--json", *argv])
        assert code == 0, err.getvalue()
        return out.getvalue()

    def log(self, job: str) -> str:
        return "".join(piece["text"] for piece in map(json.loads, self.say("logs", job, "--json").splitlines()))

    def shell(self, job: str, *command: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", "from powerflow.cli.main import run; run()", "exec", job]
        words += ["--state-dir", str(self.state), "--", *command]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def submit(self, run: str) -> None:
        spec = self.directory / "job.yaml"
        spec.write_text(f"run: {run}\ngpus: 1\nrescale: none\n")
        self.ask("submit", str(spec), "--output", "none")

    def gpus(self) -> list[dict[str, Any]]:
        (node,) = self.ask("node", "list")["nodes"]
        found: list[dict[str, Any]] = node["gpus"]
        return found

    def until(self, holds: Callable[[], bool]) -> None:
        until_s = time.monotonic() + MOST_S
        while not holds():
            assert time.monotonic() < until_s, (self.gpus(), self.ask("top"))
            time.sleep(0.3)

    def close(self) -> None:
        for more in self.machine.more:
            more.hangs = 0
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=MOST_S)
        self.machine.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    made = Serve(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """One for several tests, which let it run on."""
    made = Serve(tmp_path_factory.mktemp("serve"))
    yield made
    made.close()


def test_gpus_that_hang_or_are_others_leave_service_and_the_rest_goes_on(serve: Serve) -> None:
    serve.machine.gpu[0].utilisation, serve.machine.gpu[0].power_w = 99, 390.0
    serve.machine.more[1].hangs = HANG_READING
    serve.until(lambda: [bool(gpu["out"]) for gpu in serve.gpus()] == [True, True, False])
    assert ["somebody else uses it" in gpu["out"] for gpu in serve.gpus()] == [True, False, False]
    assert serve.gpus()[1]["out"] == "its driver does not answer"
    serve.submit("sleep 300")
    serve.until(lambda: serve.gpus()[2]["job_id"] is not None)
    notices = serve.ask("top")["notices"]
    assert sum("is out of service" in notice for notice in notices) == 2
    # its clock is read back; reset by hand, it is set again
    serve.until(lambda: serve.gpus()[2]["locked_mhz"] is not None and serve.machine.gpu[2].locked_mhz > 0)
    asked = serve.machine.gpu[2].locked_mhz
    if asked < 1410 - 45:  # else its own clock is as near as none
        serve.machine.gpu[2].locked_mhz = 0
        serve.until(lambda: serve.machine.gpu[2].locked_mhz == asked)
    began_s = time.monotonic()
    os.kill(serve.process.pid, signal.SIGTERM)  # while a GPU hangs
    serve.process.wait(MOST_S)
    assert serve.process.returncode == 0
    assert time.monotonic() - began_s < MOST_S


def test_a_second_controller_over_the_same_gpus_is_refused_in_one_line(calm: Serve) -> None:
    with calm.start(calm.directory / "other") as second:
        _, said = second.communicate(timeout=MOST_S)
    assert second.returncode == 1
    *_, line = [line for line in said.splitlines() if not line.startswith("{")]  # after the phases of the start
    assert f"another PowerFlow controller or agent (process {agent_of(calm.state)}) uses GPU GPU-00000000-fake" in line


def test_a_watch_reads_the_gpus_of_a_controller_with_their_counters(calm: Serve) -> None:
    token = ["--token-file", str(calm.state / "token"), "--owners", "controller"]
    url = json.loads((calm.state / "server.json").read_text())["url"]
    counters = [json.loads(calm.watch("--controller", url, *token)) for _ in range(2)]
    assert [(found["gpus"], found["power_w"], found["silent"]) for found in counters] == [(3, 180.0, [])] * 2
    began_s = time.time()
    rows = calm.gpus()
    assert [gpu["power_limit_w"] for gpu in rows] == [400.0] * 3
    assert all(began_s - 10.0 < gpu["read_s"] <= time.time() for gpu in rows)
    calm.until(lambda: all(now["energy_j"] > before["energy_j"] for now, before in zip(calm.gpus(), rows, strict=True)))


def test_a_shell_beside_a_rank_has_what_the_rank_has_and_is_no_stranger_on_its_gpu(calm: Serve) -> None:
    """It ends with the rank, and the audit tells of it without secrets."""
    calm.submit("pwd; env; exec sleep 600\nenv: {PASSWORD: hunter2}")
    calm.until(lambda: "PASSWORD" in calm.log("1"))
    calm.until(lambda: any(gpu["job_id"] == "1" for gpu in calm.gpus()))
    index = next(gpu["index"] for gpu in calm.gpus() if gpu["job_id"] == "1")
    with calm.shell("1", "sh", "-c", "pwd; env; echo $$; trap '' TERM; cat; sleep 600") as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        *found, pid = iter_until(shell.stdout, str.isdigit)
        rank = calm.log("1").splitlines()
        assert found[0] == rank[0]
        assert set(found) - set(rank) == {"POWERFLOW_SHELL=1"}
        assert {"PASSWORD=hunter2", f"CUDA_VISIBLE_DEVICES={index}"} <= set(found)
        calm.machine.more[index].pids[0] = int(pid)
        calm.machine.more[index].pids[1] = os.getpid()
        calm.until(lambda: any(f"process {os.getpid()} of" in notice for notice in calm.ask("top")["notices"]))
        assert f"process {pid} of" not in str(calm.ask("top")["notices"])
        calm.machine.more[index].pids[0] = calm.machine.more[index].pids[1] = 0
        calm.ask("cancel", "1")
        assert shell.wait(MOST_S) == 137
    opened, ended = (act for act in calm.ask("audit")["audit"] if act["action"].startswith("job shell"))
    assert opened["fields"]["command"] == "sh"
    assert ended["fields"]["rank"] == opened["fields"]["rank"] == "1.1.0"
    for path in [*calm.state.rglob("*.json"), *calm.state.rglob("*.log")]:
        assert "hunter2" not in path.read_text(), path
    assert "hunter2" not in str(calm.ask("audit"))


def iter_until(stream: IO[str], last: Callable[[str], bool]) -> Iterator[str]:
    """Lines up to the first one that is the last."""
    for line in stream:
        yield line.rstrip("\n")
        if last(line.rstrip("\n")):
            return
