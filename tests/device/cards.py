"""Emulated GPUs and a job for them, for the tests of this room."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from powerflow.cluster.spec import parse_cluster
from powerflow.cost.catalogue import family_model
from powerflow.cost.model import JobModel
from powerflow.device.emulated import EmulatedGpu, create

#: Longer than any machine needs; nothing waits for it unless something is broken.
DEADLINE_S = 60.0


def emulated_gpus(directory: Path, cluster: str = "1x2:A100") -> list[EmulatedGpu]:
    return create(directory, parse_cluster(cluster).nodes)


def a_job() -> JobModel:
    return family_model("resnet50", "A100")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s, f"{what} did not come about"
        time.sleep(0.005)
