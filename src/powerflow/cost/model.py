"""Compute the step time, power and energy of one iteration from a job's model parameters.

A configuration is: n GPUs, a local batch b, s accumulated passes, a GPU clock f, and a placement. The parameters are
three small frozen dataclasses; all other functions here are pure, and their arguments are numbers or arrays that
broadcast against each other. `docs/models.md` explains the formulas and how well they fit.

Sources: step time and overlap norm from Pollux (Qiao et al., OSDI'21, eqs. 8 to 11); φ(f) and the power split after
PowerFlow (Gu et al., arXiv 2304.06381). Our own additions, because measurements need them: the rounded corner in
`pass_time` and the busy share in `gpu_power` (both from Zeus' profiles, NSDI'23), the crowding in `compute_time`
(from Pollux' profiles), and the knee in `phi` (from V100, A100 and A40 clock profiles).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from powerflow.arrays import FloatArray


@dataclass(frozen=True, slots=True)
class ThroughputModel:
    """Parameters of the step-time model of one job.

    Attributes:
        alpha_s: α, fixed seconds per pass, independent of the batch (kernel launches, reading input).
        beta_s: β, seconds per sample once the GPU is busy.
        corner: p ≥ 1, shape of the transition between α and β·b (b is the local batch): 1 adds both, ∞ takes the
            larger.
        kappa: κ in [0, 1], share of the computing time that scales with the GPU clock.
        clock_max_mhz: f_max, the clock at which α and β are valid.
        node_alpha_s: α_s inside one node, seconds to synchronise two GPUs.
        node_beta_s: β_s inside one node, seconds added by each further GPU.
        cross_alpha_s: α_s across nodes, seconds to synchronise two GPUs.
        cross_beta_s: β_s across nodes, seconds added by each further GPU.
        gamma: γ in [1, 10], overlap of synchronising and computing: 1 is none, 10 is almost full.
        crowding: Share by which a pass takes longer on each of several GPUs than on a single GPU, because they compete
            for the host and the input.
        two_node_factor: Factor on the synchronising time of more than two GPUs on exactly two nodes, where all traffic
            shares one link.
        knee: q ≥ 1, shape of the transition between time that does not scale with the clock and time that does: 1 adds
            both, ∞ takes the larger, as in a roofline.
    """

    alpha_s: float
    beta_s: float
    corner: float
    kappa: float
    clock_max_mhz: float
    node_alpha_s: float
    node_beta_s: float
    cross_alpha_s: float
    cross_beta_s: float
    gamma: float
    crowding: float = 0.0
    two_node_factor: float = 1.0
    knee: float = 1.0


@dataclass(frozen=True, slots=True)
class PowerModel:
    """Parameters of the power draw of one GPU for one job.

    Attributes:
        idle_w: P_idle, watts of an unused GPU.
        active_w: P_act, watts at the maximum clock while the GPU computes all the time.
        busy_exponent: r ≥ 0: the draw above idle is proportional to (busy share of a pass)^r.
        h_linear: h₁, share of the active draw above idle that is proportional to the clock f.
        h_cubic: h₃, share of it that is proportional to f³ (voltage follows the clock). The rest, 1 − h₁ − h₃, is
            constant.
        sync_share: s in [0, 1], draw while synchronising, as a share of the active draw above idle.
    """

    idle_w: float
    active_w: float
    busy_exponent: float
    h_linear: float
    h_cubic: float
    sync_share: float


@dataclass(frozen=True, slots=True)
class JobModel:
    """Cost model of one class of jobs on one GPU type.

    Attributes:
        name: Model family: a name of the catalogue, or the user's own name.
        gpu_type: GPU type, as named in the catalogue.
        throughput: Parameters of the step time.
        power: Parameters of the power draw.
        local_batch_max: Largest number of samples per pass that fits into the GPU's memory.
        origin: Source of the parameters: "measured", "modelled" (transferred from other hardware), or "prior".
        limit_w: Power limit of one GPU in watts, at which the GPU lowers its own clock (see `cost.limit`), or None if
            no limit is modelled.
    """

    name: str
    gpu_type: str
    throughput: ThroughputModel
    power: PowerModel
    local_batch_max: int
    origin: str = "measured"
    limit_w: float | None = None


def phi(model: ThroughputModel, clock_mhz: ArrayLike) -> FloatArray:
    """Return φ(f) = ((1 − κ) + κ·(f_max/f)^q)^(1/q): the factor by which computing takes longer at clock f.

    κ is the share of the computing time that scales with the clock at the maximum clock f_max, and q is `knee`. q = 1
    gives the sum (1 − κ) + κ·f_max/f. Measured jobs are often limited by memory at high clocks and by the clock below
    a knee, as in the roofline model (Williams et al., CACM 2009); a larger q follows this knee (docs/models.md).
    """
    ratio: FloatArray = model.clock_max_mhz / np.asarray(clock_mhz, float)
    if model.knee == 1.0:
        return (1.0 - model.kappa) + model.kappa * ratio
    factor: FloatArray = ((1.0 - model.kappa) + model.kappa * ratio**model.knee) ** (1.0 / model.knee)
    return factor


def pass_time(model: ThroughputModel, local_batch: ArrayLike) -> FloatArray:
    """Return the seconds of one forward and backward pass at the maximum clock: (α^p + (β·b)^p)^(1/p).

    b is the local batch; α, β and p are parameters of `ThroughputModel`. p = 1 gives Pollux' α + β·b. Zeus' V100
    profiles show a flat part, where launching kernels takes the time, and then a straight line; p rounds the corner
    between both.
    """
    return _norm(model.alpha_s, model.beta_s * np.asarray(local_batch, float), model.corner)


def compute_time(model: ThroughputModel, gpus: ArrayLike, local_batch: ArrayLike, clock_mhz: ArrayLike) -> FloatArray:
    """Return T_comp = pass_time(b)·φ(f), times 1 + crowding if n > 1: the seconds of one pass (docs/models.md).

    b is the local batch, f the clock and n the number of GPUs.
    """
    crowded = np.where(np.asarray(gpus) > 1, 1.0 + model.crowding, 1.0)
    return pass_time(model, local_batch) * phi(model, clock_mhz) * crowded


def sync_time(model: ThroughputModel, gpus: ArrayLike, crosses: ArrayLike) -> FloatArray:
    """Return the seconds of one synchronisation: 0 if n = 1, else α_s + β_s·max(n − 2, 0) (Pollux, eq. 10).

    n is the number of GPUs. The time does not depend on the clock. ``crosses`` is the number of nodes minus 1. With
    more than two GPUs on exactly two nodes the time is multiplied by `two_node_factor`: in Pollux' T4 profile, YOLOv3
    takes 1.6 s a step on 2 × 4 GPUs but 1.0 to 1.1 s on 4 × 2 or 8 × 1.
    """
    n, borders = np.asarray(gpus, float), np.asarray(crosses, int)
    across = borders > 0
    first = np.where(across, model.cross_alpha_s, model.node_alpha_s)
    each = np.where(across, model.cross_beta_s, model.node_beta_s)
    one_link = np.where((borders == 1) & (n > 2), model.two_node_factor, 1.0)
    return np.where(n > 1, (first + each * np.maximum(n - 2, 0)) * one_link, 0.0)


def step_time(
    model: ThroughputModel,
    gpus: ArrayLike,
    local_batch: ArrayLike,
    accumulation: ArrayLike,
    clock_mhz: ArrayLike,
    crosses: ArrayLike,
) -> FloatArray:
    """Return seconds per iteration of s passes (Pollux, eqs. 11 and 12).

        T = (s − 1)·T_comp + (T_comp^γ + T_sync^γ)^(1/γ)

    T_comp is the time of one pass (`compute_time`), T_sync that of one synchronisation (`sync_time`), γ their overlap.
    Only the last accumulated pass synchronises, partly hidden behind its computing.
    """
    computing = compute_time(model, gpus, local_batch, clock_mhz)
    last = _norm(computing, sync_time(model, gpus, crosses), model.gamma)
    return (np.asarray(accumulation, float) - 1.0) * computing + last


def clock_power(model: PowerModel, ratio: ArrayLike) -> FloatArray:
    """Return h(f/f_max): the draw above idle at clock f, as a share of the draw above idle at f_max.

    The function is convex, and h(1) = 1 (docs/models.md).
    """
    x = np.asarray(ratio, float)
    constant = 1.0 - model.h_linear - model.h_cubic
    return constant + model.h_linear * x + model.h_cubic * x**3


def busy_share(model: ThroughputModel, local_batch: ArrayLike) -> FloatArray:
    """Return β·b / pass_time(b): the share of a pass in which the GPU computes instead of waiting for launches.

    b is the local batch and β the seconds per sample.
    """
    samples: FloatArray = model.beta_s * np.asarray(local_batch, float)
    return samples / pass_time(model, local_batch)


def gpu_power(
    throughput: ThroughputModel,
    power: PowerModel,
    gpus: ArrayLike,
    local_batch: ArrayLike,
    accumulation: ArrayLike,
    clock_mhz: ArrayLike,
    crosses: ArrayLike,
) -> FloatArray:
    """Return the watts of one GPU: P_idle + (P_act − P_idle)·busy(b)^r·[h(f)·u + s·(1 − u)] (docs/models.md).

    u is the share of the step time spent computing, b the local batch and f the clock; P_idle, P_act, r and s are
    parameters of `PowerModel`. The factor busy(b)^r (`busy_share`) makes the active draw depend on the local batch; h
    is `clock_power`.
    """
    computing = np.asarray(accumulation, float) * compute_time(throughput, gpus, local_batch, clock_mhz)
    share = computing / step_time(throughput, gpus, local_batch, accumulation, clock_mhz, crosses)
    h = clock_power(power, np.asarray(clock_mhz, float) / throughput.clock_max_mhz)
    active = (power.active_w - power.idle_w) * busy_share(throughput, local_batch) ** power.busy_exponent
    return power.idle_w + active * (h * share + power.sync_share * (1.0 - share))


def _norm(a: ArrayLike, b: ArrayLike, power: float) -> FloatArray:
    """Return (a^p + b^p)^(1/p) for a, b ≥ 0, where p is ``power``.

    Scaling by the larger one prevents over- and underflow.
    """
    x, y = np.asarray(a, float), np.asarray(b, float)
    large, small = np.maximum(x, y), np.minimum(x, y)
    ratio = np.divide(small, large, out=np.zeros(np.broadcast(x, y).shape), where=large > 0)
    norm: FloatArray = large * (1.0 + ratio**power) ** (1.0 / power)
    return norm
