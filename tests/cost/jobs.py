"""Models small enough to work by hand, and points drawn from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from powerflow.cost.model import JobModel, PowerModel, ThroughputModel, gpu_power, step_time
from powerflow.cost.observation import Observation

BY_HAND = ThroughputModel(
    alpha_s=0.1,
    beta_s=0.01,
    corner=1.0,
    kappa=0.5,
    clock_max_mhz=1530.0,
    node_alpha_s=0.1,
    node_beta_s=0.02,
    cross_alpha_s=0.3,
    cross_beta_s=0.05,
    gamma=1.0,
)
POWER = PowerModel(idle_w=36.0, active_w=236.0, busy_exponent=1.0, h_linear=0.2, h_cubic=0.5, sync_share=0.25)
JOB = JobModel("by-hand", "V100", BY_HAND, POWER, local_batch_max=64)

#: What a fit is asked to find again.
TRUTH = replace(
    JOB,
    name="truth",
    throughput=replace(BY_HAND, alpha_s=0.03, beta_s=0.002, corner=2.0, kappa=0.6, gamma=2.5, crowding=0.05),
)


def observed(
    model: JobModel, configurations: Iterable[tuple[int, int, int, float]], noise: float = 0.0, seed: int = 0
) -> list[Observation]:
    """Points of (GPUs, nodes, local batch, clock in MHz) as a model has them, with lognormal noise."""
    random = np.random.default_rng(seed)
    points = []
    for gpus, nodes, batch, clock in configurations:
        where = (gpus, batch, 1, clock, nodes > 1)
        seconds = float(step_time(model.throughput, *where)) * random.lognormal(0.0, noise)
        watts = gpus * float(gpu_power(model.throughput, model.power, *where)) * random.lognormal(0.0, noise)
        points.append(
            Observation(model.name, model.gpu_type, gpus, batch, seconds, nodes, clock_mhz=clock, power_w=watts)
        )
    return points
