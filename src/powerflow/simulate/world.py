"""Describe how the simulated cluster behaves, apart from the costs of jobs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from powerflow.errors import InputError


@dataclass(frozen=True, slots=True)
class World:
    """Settings of the simulated cluster: pauses, checkpoints, node failures, and the interval between decisions.

    Attributes:
        pause_s: Seconds that a job makes no progress when its GPU count changes or it moves to other GPUs.
        checkpoint_s: Seconds of running between two checkpoints of a job. When a node fails, its jobs lose the work
            since their last checkpoints.
        node_mtbf_h: Mean hours between two failures of one node; ``inf`` for no failures.
        node_repair_h: Hours from the failure of a node until it is up again.
        interval_s: Shortest time between two decisions, seconds.
        start_s: Seconds from the start of a rank to its first step (imports, building the model). Its GPU draws idle
            watts in this time. A job that held no GPU waits these seconds before its first step. A job that gets more
            GPUs continues to train on its old GPUs in this time.
    """

    pause_s: float = 30.0
    checkpoint_s: float = 1800.0
    node_mtbf_h: float = math.inf
    node_repair_h: float = 1.0
    interval_s: float = 60.0
    start_s: float = 0.0

    def __post_init__(self) -> None:
        fields = ("pause_s", 0.0), ("checkpoint_s", 1.0), ("node_repair_h", 0.0), ("interval_s", 0.0), ("start_s", 0.0)
        for field, least in fields:
            value = getattr(self, field)
            if not (value >= least and math.isfinite(value)):
                raise InputError(f"{field} is {value}", where="simulation", fix=f"give a finite number ≥ {least:g}")
        if not self.node_mtbf_h > 0:
            raise InputError(f"node_mtbf_h is {self.node_mtbf_h}", where="simulation", fix="give hours > 0")
