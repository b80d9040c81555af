"""``powerflow serve`` on NVIDIA GPUs (the fake ones): where nobody acts, no GPU is written to and no job is touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from powerflow.cli.main import main
from tests.cli.serving import SERVE, with_tables
from tests.device.fake_nvml import Machine
from tests.slow import slow

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")

JOB = "name: wait\nrun: sleep 2\ngpus: 1\nrescale: none\n"


def powerflow(state: Path, *argv: str) -> str:
    """What a command says to the controller's process; the command itself runs in this one."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = main([*argv, "--state-dir", str(state)])
    assert code == 0, err.getvalue()
    return out.getvalue()


@pytest.mark.parametrize(
    ("mode", "acts"), [("observe", False), pytest.param("shadow", False, marks=slow), ("enforce", True)]
)
def test_where_nobody_acts_no_gpu_is_written_to_and_no_job_is_touched(
    tmp_path: Path, nvml_machine: Machine, mode: str, acts: bool
) -> None:
    machine, state = nvml_machine, with_tables(tmp_path / "state")
    spec = tmp_path / "job.yaml"
    spec.write_text(JOB)
    argv = [*SERVE, "--state-dir", str(state), "--port", "0", "--mode", mode]
    with subprocess.Popen(
        [*argv, "--interval", "0.5", "--lambda", "0.05", "--on-exit", "drain"],
        env={**machine.env, "POWERFLOW_STATE": str(state)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("powerflow serves 2 GPUs at http://127.0.0.1:")
            for _ in range(2):
                powerflow(state, "submit", str(spec), "--output", "none")
            jobs = finished(state, 2)
            decided = json.loads(powerflow(state, "events", "--json"))["events"]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60.0)
    sets = [machine.gpu[index].sets for index in range(2)]
    assert [job["state"] for job in jobs] == ["completed"] * 2
    assert all(job["energy_j"] > 0 for job in jobs), "it was metered all the same"
    ranks = sorted(path.name for path in (state / "engine" / "ranks").iterdir())
    assert len(ranks) == 2, ranks
    assert not [event for event in decided if event["kind"] == "rescaled"]
    if acts:
        assert sum(sets) > 0, "or this test could not fail"
    else:
        assert sets == [0, 0]


def finished(state: Path, count: int) -> list[dict[str, Any]]:
    """The jobs, when so many have ended."""
    until = time.monotonic() + 60.0
    while time.monotonic() < until:
        jobs: list[dict[str, Any]] = json.loads(powerflow(state, "queue", "--all", "--json"))["jobs"]
        if sum(job["state"] == "completed" for job in jobs) == count:
            return jobs
        time.sleep(0.5)
    raise AssertionError(f"jobs do not end: {jobs}; {os.listdir(state)}")
