"""Change a family's cost model at random, so that the costs of simulated jobs differ and are not known in advance."""

from __future__ import annotations

import dataclasses

from powerflow.arrays import FloatArray
from powerflow.cost.model import JobModel

#: Default standard deviation of ln(job's parameter ÷ family's parameter).
VARIATION = 0.2

#: Number of factors that `varied` takes.
FACTORS = 8


def varied(model: JobModel, factors: FloatArray) -> JobModel:
    """Return a cost model with its parameters multiplied by ``factors``.

    Args:
        model: Model of the family.
        factors: ``[8]`` values > 0. They multiply, in this order: α (seconds per pass), β (seconds per sample), κ
            (share of computing that scales with the clock), synchronising inside a node, synchronising across nodes,
            active draw above idle (by at most 1.2: no GPU exceeds its limit by more), draw while synchronising, busy
            exponent.
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
