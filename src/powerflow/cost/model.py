"""What one iteration costs, as formulas: seconds and watts on n GPUs at one clock, local batch and placement.

All parameters of a job are three small frozen tuples; everything else here is a pure function of them and of
arrays that broadcast against each other. `docs/models.md` tells where the forms come from and how well they fit.

Sources: the step time and its overlap norm are Pollux (Qiao et al., OSDI'21, eqs. 8 to 11); φ(f), the power
split and their symbols are the project's design §4, after PowerFlow (Gu et al., arXiv 2304.06381). Ours, because
the profiles call for them: the rounded corner of `pass_time` and the busy share in `gpu_power` (Zeus, NSDI'23), and
the crowding in `compute_time` (Pollux).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerflow.arrays import FloatArray

#: A number or an array of them; all arguments of a function broadcast against each other.
Values = npt.ArrayLike


@dataclass(frozen=True, slots=True)
class ThroughputModel:
    """How long a job's iteration takes.

    Attributes:
        alpha_s: α, seconds a pass takes however small its batch (launching kernels, reading input).
        beta_s: β, seconds that one sample adds once the GPU is busy.
        corner: p ≥ 1, how sharply a pass turns from launch-bound to compute-bound: 1 adds α and β·b, ∞ takes
            the larger of the two.
        kappa: κ in [0, 1], the share of computing time that scales with the GPU clock.
        clock_max_mhz: f_max, the clock at which α and β hold.
        node_alpha_s: α_s inside one node, seconds to synchronise two GPUs.
        node_beta_s: β_s inside one node, seconds that each further GPU adds.
        cross_alpha_s: α_s across nodes.
        cross_beta_s: β_s across nodes.
        gamma: γ in [1, 10], how far synchronising hides behind computing: 1 not at all, 10 almost fully.
        two_node_factor: By how much synchronising takes longer on exactly two nodes, once more than two GPUs take
            part, than on more nodes: all of it goes over one link.
        crowding: Share by which a pass takes longer on each of several GPUs than on one alone: they compete for
            hosts and input, however fast they synchronise.
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


@dataclass(frozen=True, slots=True)
class PowerModel:
    """How many watts one GPU draws for a job.

    Attributes:
        idle_w: P_idle, watts of the GPU when nobody uses it.
        active_w: P_act, watts at the maximum clock when the GPU computes all the time.
        busy_exponent: r ≥ 0: the draw above idle grows as (busy share of a pass)^r.
        h_linear: Share of the active draw that falls as f.
        h_cubic: Share that falls as f³ (voltage follows clock); the rest, 1 − both, does not fall.
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
    """What a job of one kind costs on one GPU type.

    Attributes:
        name: Model family (a name of the catalogue, or the user's own).
        gpu_type: GPU type of the catalogue.
        throughput: Seconds.
        power: Watts.
        local_batch_max: Largest number of samples of one pass that fits the GPU's memory.
        origin: Where it comes from: "measured", "modelled" (carried over from other hardware), or "prior".
        limit_w: Power limit of one GPU, at which the card lowers its own clock (`cost.limit`); None: none is modelled.
    """

    name: str
    gpu_type: str
    throughput: ThroughputModel
    power: PowerModel
    local_batch_max: int
    origin: str = "measured"
    limit_w: float | None = None


def phi(model: ThroughputModel, clock_mhz: Values) -> FloatArray:
    """φ(f) = (1 − κ) + κ·f_max/f: how much longer computing takes at clock f (design §4)."""
    ratio: FloatArray = model.clock_max_mhz / np.asarray(clock_mhz, float)
    return (1.0 - model.kappa) + model.kappa * ratio


def pass_time(model: ThroughputModel, local_batch: Values) -> FloatArray:
    """Seconds of one forward and backward pass at the maximum clock: (α^p + (β·b)^p)^(1/p).

    p = 1 is Pollux' α + β·b. Zeus' V100 profiles show a flat launch-bound floor and then a straight line, with
    a corner between them that p rounds.
    """
    return _norm(model.alpha_s, model.beta_s * np.asarray(local_batch, float), model.corner)


def compute_time(model: ThroughputModel, gpus: Values, local_batch: Values, clock_mhz: Values) -> FloatArray:
    """T_comp(n, b, f) = pass_time(b)·φ(f), times 1 + crowding where n > 1: seconds of one pass (design §4)."""
    crowded = np.where(np.asarray(gpus) > 1, 1.0 + model.crowding, 1.0)
    return pass_time(model, local_batch) * phi(model, clock_mhz) * crowded


def sync_time(model: ThroughputModel, gpus: Values, crosses: Values) -> FloatArray:
    """T_sync(n, P) = 0 if n = 1, else α_s + β_s·max(n − 2, 0): seconds (Pollux, eq. 10); the clock does not matter.

    ``crosses`` is how many borders between nodes the GPUs stand across: nodes − 1, 0 inside one node. On exactly two
    nodes (1) and with more than two GPUs it takes `two_node_factor` times as long: Pollux' T4 profile has YOLOv3 on
    2 × 4 GPUs at 1.6 s a step, and on 4 × 2 or 8 × 1 at 1.0 to 1.1 s.
    """
    n, borders = np.asarray(gpus, float), np.asarray(crosses, int)
    across = borders > 0
    first = np.where(across, model.cross_alpha_s, model.node_alpha_s)
    each = np.where(across, model.cross_beta_s, model.node_beta_s)
    one_link = np.where((borders == 1) & (n > 2), model.two_node_factor, 1.0)
    return np.where(n > 1, (first + each * np.maximum(n - 2, 0)) * one_link, 0.0)


def step_time(
    model: ThroughputModel, gpus: Values, local_batch: Values, accumulation: Values, clock_mhz: Values, crosses: Values
) -> FloatArray:
    """T = (s − 1)·T_comp + (T_comp^γ + T_sync^γ)^(1/γ): seconds per iteration of s passes (Pollux, eqs. 11 and 12).

    Only the last of the accumulated passes synchronises, and hides what it can behind its computing.
    """
    computing = compute_time(model, gpus, local_batch, clock_mhz)
    last = _norm(computing, sync_time(model, gpus, crosses), model.gamma)
    return (np.asarray(accumulation, float) - 1.0) * computing + last


def clock_power(model: PowerModel, ratio: Values) -> FloatArray:
    """h(f/f_max): draw above idle at a clock, as a share of that at the maximum; convex, h(1) = 1 (design §4)."""
    x = np.asarray(ratio, float)
    constant = 1.0 - model.h_linear - model.h_cubic
    return constant + model.h_linear * x + model.h_cubic * x**3


def busy_share(model: ThroughputModel, local_batch: Values) -> FloatArray:
    """β·b / pass_time(b): share of a pass in which the GPU works rather than waits to be told what to do."""
    samples: FloatArray = model.beta_s * np.asarray(local_batch, float)
    return samples / pass_time(model, local_batch)


def gpu_power(
    throughput: ThroughputModel,
    power: PowerModel,
    gpus: Values,
    local_batch: Values,
    accumulation: Values,
    clock_mhz: Values,
    crosses: Values,
) -> FloatArray:
    """Watts of one GPU: P_idle + (P_act − P_idle)·busy(b)^r·[h(f)·u + s·(1 − u)] (design §4).

    u is the computing share of the step time; busy(b)^r makes P_act depend on the local batch.
    """
    computing = np.asarray(accumulation, float) * compute_time(throughput, gpus, local_batch, clock_mhz)
    share = computing / step_time(throughput, gpus, local_batch, accumulation, clock_mhz, crosses)
    h = clock_power(power, np.asarray(clock_mhz, float) / throughput.clock_max_mhz)
    active = (power.active_w - power.idle_w) * busy_share(throughput, local_batch) ** power.busy_exponent
    return power.idle_w + active * (h * share + power.sync_share * (1.0 - share))


def step_energy(
    model: JobModel, gpus: Values, local_batch: Values, accumulation: Values, clock_mhz: Values, crosses: Values
) -> FloatArray:
    """E = n·P_gpu·T: joules per iteration, idle draw of its GPUs included (design §4)."""
    where = (gpus, local_batch, accumulation, clock_mhz, crosses)
    watts = np.asarray(gpus, float) * gpu_power(model.throughput, model.power, *where)
    return watts * step_time(model.throughput, *where)


def _norm(a: Values, b: Values, power: float) -> FloatArray:
    """(a^p + b^p)^(1/p) for a, b ≥ 0, scaled by the larger so that no power under- or overflows."""
    x, y = np.asarray(a, float), np.asarray(b, float)
    large, small = np.maximum(x, y), np.minimum(x, y)
    ratio = np.divide(small, large, out=np.zeros(np.broadcast(x, y).shape), where=large > 0)
    norm: FloatArray = large * (1.0 + ratio**power) ** (1.0 / power)
    return norm
