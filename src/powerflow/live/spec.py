r"""What a person writes to submit a job: ``job.yaml``, a REST body, the flags of ``powerflow submit``. One definition.

::

    name: resnet50-a
    run: python train.py            # the only key that is required
    gpus: 1..8                      # or 4; with a type: "H100:1..8"
    batch: {global: 512, local_max: 128}
    priority: normal                # protected | high | normal | low
    energy: {max_slowdown: 10%}
    rescale: in-place               # in-place | restart | none
    checkpoint: {dir: ck, grace: 30s, every: 10m}
    project: vision
    model: resnet50                 # the family whose costs to start from, if there is a like one
    work: {iterations: 20000}       # how much it is, if known
    progress: 'step (?P<step>\d+)'  # how to read the step from the log of a script that imports nothing
    directory: /home/ada/run7
    env: {DATA: /data}
    retries: 2
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Priority = Literal["protected", "high", "normal", "low"]
Rescale = Literal["in-place", "restart", "none"]

#: Weight of a job in the mean JCT, by priority.
WEIGHTS: dict[Priority, float] = {"protected": 4.0, "high": 2.0, "normal": 1.0, "low": 0.5}

_GPUS = re.compile(r"(?:(?P<type>[A-Za-z][A-Za-z0-9._-]*):)?(?P<least>\d{1,6})(?:\.\.(?P<most>\d{1,6}))?")
_DURATION = re.compile(r"(?P<value>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|m|min|h|d)?")
_UNIT_S = {None: 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class Gpus(_Part):
    """How many GPUs a job can use: ``4``, ``1..8``, ``"H100:1..8"``."""

    least: int = Field(ge=1)
    most: int = Field(ge=1)
    gpu_type: str | None = None

    def __str__(self) -> str:
        count = str(self.least) if self.least == self.most else f"{self.least}..{self.most}"
        return f"{self.gpu_type}:{count}" if self.gpu_type else count


def _gpus(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return value
    found = _GPUS.fullmatch(value.strip())
    if found is None:
        raise ValueError(f"cannot read {value!r} as GPUs; write 4, 1..8 or H100:1..8")
    least = int(found["least"])
    most = int(found["most"] or least)
    if not 1 <= least <= most:
        raise ValueError(f"{value!r} asks for no GPU or for less than nothing; write LEAST..MOST, from 1 on")
    return {"least": least, "most": most, "gpu_type": found["type"]}


def _seconds(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = _DURATION.fullmatch(value.strip())
    if found is None:
        raise ValueError(f"cannot read {value!r} as a duration; write 30s, 10m or 2h")
    return float(found["value"]) * _UNIT_S[found["unit"]]


def _share(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.strip()
    try:
        return float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        raise ValueError(f"cannot read {value!r} as a share; write 10%") from None


Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_share), Field(ge=0, allow_inf_nan=False)]


class Batch(_Part):
    """Samples per step over all GPUs, and the most that one pass on one GPU can hold."""

    global_batch: int = Field(alias="global", ge=1)
    local_max: int | None = Field(default=None, ge=1)


class Energy(_Part):
    """What may be done to the job to save energy: at most so much slower than as it was submitted."""

    max_slowdown: Share | None = None


class Checkpoint(_Part):
    """Where and how the job saves its state.

    ``grace`` is how long it may take between SIGTERM and SIGKILL; ``every`` 0 saves only when all ranks must leave.
    """

    dir: str | None = None
    grace: Seconds = 30.0
    every: Seconds = 0.0


class Work(_Part):
    """How much there is to do, if it is known before the job runs."""

    iterations: float = Field(gt=0, allow_inf_nan=False)


class JobSpec(_Part):
    """A job as its owner submits it; see the module for an example."""

    run: str = Field(min_length=1, max_length=65536)
    name: str = Field(default="", max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$|^$")
    gpus: Annotated[Gpus, BeforeValidator(_gpus)] = Gpus(least=1, most=1)
    batch: Batch | None = None
    priority: Priority = "normal"
    energy: Energy = Energy()
    rescale: Rescale = "none"
    checkpoint: Checkpoint = Checkpoint()
    project: str = Field(default="", max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$|^$")
    model: str | None = Field(default=None, max_length=128)
    work: Work | None = None
    progress: str | None = Field(default=None, max_length=1024)
    directory: str | None = Field(default=None, max_length=4096)
    env: dict[str, str] = Field(default_factory=dict)
    retries: int = Field(default=2, ge=0, le=100)
