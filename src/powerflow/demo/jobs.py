"""Define the demo's ten jobs: small models of four kinds, each with its submission time."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import NamedTuple

from powerflow.api.job_spec import JobSpec

TRAIN = Path(__file__).with_name("train.py")


class Arrival(NamedTuple):
    """A job, and the seconds from the first submission to its submission."""

    after_s: float
    spec: JobSpec


#: Name, kind of network, the family its emulated costs come from, global batch, epochs, steps per epoch, GPUs, seconds.
_JOBS = (
    ("vision-1", "conv", "imagenet", 128, 4, 40, "1..8", 0.0),
    ("speech-1", "lstm", "deepspeech2", 64, 3, 20, "1..4", 3.0),
    ("ranking-1", "mlp", "imagenet", 64, 4, 40, "1..2", 6.0),
    ("language-1", "attention", "bert", 64, 3, 15, "1..8", 10.0),
    ("vision-2", "conv", "vgg19", 128, 3, 40, "1..4", 16.0),
    ("vision-3", "conv", "resnet101", 128, 3, 30, "1..8", 22.0),
    ("ranking-2", "mlp", "imagenet", 64, 3, 40, "1", 27.0),
    ("speech-2", "lstm", "deepspeech2", 64, 2, 20, "1..4", 33.0),
    ("language-2", "attention", "bert", 64, 2, 15, "2..4", 39.0),
    ("vision-4", "conv", "imagenet", 256, 3, 30, "1..8", 45.0),
)


def arrivals() -> list[Arrival]:
    """Return the ten jobs of the demo, in order of submission."""
    return [Arrival(job[-1], _spec(*job[:-1])) for job in _JOBS]


def warm_up() -> list[JobSpec]:
    """Return one job of each kind of network, with two steps on two GPUs, to warm up the machine.

    The first time, reading and compiling files and starting processes take longer. Each project has one of these jobs,
    so that all projects start with equal shares.
    """
    kinds = ("vision", "conv"), ("speech", "lstm"), ("language", "attention"), ("ranking", "mlp")
    return [_spec(f"{project}-warm-up", kind, "imagenet", 64, 1, 2, "2") for project, kind in kinds]


def _spec(name: str, kind: str, family: str, batch: int, epochs: int, steps: int, gpus: str) -> JobSpec:
    return JobSpec.model_validate(
        {
            "name": name,
            "run": f"{shlex.quote(sys.executable)} {shlex.quote(str(TRAIN))} --kind {kind} --epochs {epochs}"
            f" --steps {steps} --batch {batch}",
            "gpus": gpus,
            "batch": {"global": batch},
            "work": {"iterations": epochs * steps},  # so that the scheduler knows what the simulation knows
            "rescale": "in-place",
            "model": family,
            "project": name.split("-", maxsplit=1)[0],
        }
    )
