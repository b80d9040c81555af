"""A job that is itself: near its family's model, but not the same, so that nobody can know it beforehand."""

from __future__ import annotations

import dataclasses

from powerflow.arrays import FloatArray
from powerflow.cost.model import JobModel

#: Log standard deviation of a job's own parameters around its family's, where nothing else is said.
VARIATION = 0.2

#: How many factors `varied` takes.
FACTORS = 8


def varied(model: JobModel, factors: FloatArray) -> JobModel:
    """Slower, chattier, hotter than the model, or the reverse.

    ``factors`` ``[8]``, each > 0, multiply: α, β, κ, synchronising inside a node, across nodes, the active draw above
    idle (at most 1.2: no GPU exceeds its limit by more), the draw while synchronising, and the busy exponent.
    """
    time, power = model.throughput, model.power
    alpha, beta, kappa, near, far, active, sync, busy = (float(factor) for factor in factors)
    return dataclasses.replace(
        model,
        throughput=dataclasses.replace(
            time,
            alpha_s=time.alpha_s * alpha,
            beta_s=time.beta_s * beta,
            kappa=min(1.0, time.kappa * kappa),
            node_alpha_s=time.node_alpha_s * near,
            node_beta_s=time.node_beta_s * near,
            cross_alpha_s=time.cross_alpha_s * far,
            cross_beta_s=time.cross_beta_s * far,
        ),
        power=dataclasses.replace(
            power,
            active_w=power.idle_w + (power.active_w - power.idle_w) * min(active, 1.2),
            sync_share=min(1.0, power.sync_share * sync),
            busy_exponent=power.busy_exponent * busy,
        ),
    )
