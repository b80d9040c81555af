"""The kinds of jobs that tests of the controller submit, and the script of one."""

from __future__ import annotations

from typing import Any

from powerflow.api.records import JobState
from tests.gangs.fake_engine import Script
from tests.live.controller_bench import Bench

STEPS = r"step (?P<step>\d+)"
Q, R, H = JobState.QUEUED, JobState.RUNNING, JobState.HELD
MODES: dict[str, dict[str, Any]] = {
    "in-place": {"gpus": "1..4", "batch": {"global": 64}},
    "restart": {"gpus": "1..4", "progress": STEPS, "batch": {"global": 64}},
    "none": {"gpus": 2},
}


def script(bench: Bench, lasts: int = 30, code: int = 0) -> None:
    bench.engine.play = lambda spec: Script(lasts, code, line="step {turn}\n")
