"""``powerflow serve`` as a process: what it says, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from powerflow.cli.main import main
from tests.cli.serving import SERVE, with_tables


def test_a_controller_that_ends_without_jobs_leaves_no_process(tmp_path: Path) -> None:
    state = tmp_path / "state"
    command = [*SERVE, "--state-dir", str(state), "--emulate", "1x1:A100"]
    with subprocess.Popen(
        [*command, "--port", "0", "--on-exit", "drain"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("powerflow serves 1 emulated GPU at http://127.0.0.1:")
            assert len(processes_of(state)) > 1, "the controller and its engine's agent"
            process.send_signal(signal.SIGTERM)
            assert process.wait(120.0) == 0
            assert not (state / "server.json").exists()
            assert processes_of(state / "engine") == []
        finally:
            for pid in processes_of(state):
                os.kill(pid, signal.SIGKILL)


def test_the_log_tells_in_json_lines_what_happened_to_jobs(tmp_path: Path) -> None:
    state, spec = with_tables(tmp_path / "state"), tmp_path / "job.yaml"
    spec.write_text("run: exit 3\nretries: 0\n")
    serve = [*SERVE, "--state-dir", str(state), "--emulate", "1x1:A100", "--port", "0", "--on-exit", "drain"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=log) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith(b"powerflow serves")
            main(["submit", str(spec), "--output", "none", "--wait", "--state-dir", str(state)])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120.0)
            for pid in processes_of(state):
                os.kill(pid, signal.SIGKILL)
    said = (tmp_path / "log").read_text().splitlines()
    assert [line for line in said if line.startswith("powerflow: ") and not line.endswith(" s")] == [
        "powerflow: opens the store",
        "powerflow: starts the agent of this machine",
        "powerflow: takes the store, and the jobs that run",
    ]
    lines = [json.loads(line) for line in said if not line.startswith("powerflow: ")]
    told = [line["event"] for line in lines]
    assert "request" not in told, "only with --access-log"
    for what in ("started", "submitted", "decided", "running", "failed", "draining", "stopped"):
        assert told.count(what) == 1, (what, told)
    failed = next(line for line in lines if line["event"] == "failed")
    assert failed["job"] == "1"
    assert "3" in failed["what"]


def test_a_port_that_is_taken_is_said_before_anything_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--state-dir", str(state), "--emulate", "1x1:A100", "--port", port]) == 1
    what = f"powerflow: 127.0.0.1:{port}: cannot listen (address already in use); choose another port\n"
    assert capsys.readouterr().err == what
    assert not state.exists()


def test_a_controller_whose_first_line_cannot_be_written_ends_in_order(tmp_path: Path) -> None:
    state = with_tables(tmp_path / "state")
    command = [*SERVE, "--state-dir", str(state), "--emulate", "1x1:A100"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*command, "--port", "0"], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120.0
        )
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1] == "powerflow: no space left on device"
    assert processes_of(state / "engine") == []


def test_what_is_no_cluster_is_said_in_a_line_with_what_would_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--state-dir", str(tmp_path), "--emulate", "bogus"]) == 2
    assert capsys.readouterr().err == (
        "powerflow: --emulate: cannot read 'bogus' as a cluster; "
        "write COUNTxGPUS:TYPE, such as 16x8:A100, or give a YAML file\n"
    )


def test_a_second_controller_is_refused_and_leaves_the_firsts_engine_alone(tmp_path: Path) -> None:
    state = with_tables(tmp_path / "state")
    command = [*SERVE, "--state-dir", str(state), "--emulate", "1x1:A100"]
    command += ["--port", "0", "--on-exit", "drain"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as first:
        assert first.stdout is not None
        try:
            assert first.stdout.readline().startswith("powerflow serves")
            agent = processes_of(state / "engine")
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120.0)
            assert "another controller runs on this store" in done.stderr
            assert processes_of(state / "engine") == agent
        finally:
            first.send_signal(signal.SIGTERM)
            first.wait(120.0)
            for pid in processes_of(state):
                os.kill(pid, signal.SIGKILL)


def processes_of(directory: Path) -> list[int]:
    """Processes that were told of a directory."""
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if str(directory) in line_of(pid)]


def line_of(pid: int) -> str:
    """A process's command line; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
