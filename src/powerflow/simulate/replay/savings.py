"""Compute the savings over the whole log from the draws, with confidence intervals.

Each number is a ratio of sums over the draws: energy saved over energy used, completion time saved over completion
time. Its 95 % interval is Student's t on jackknife pseudo-values, one per draw. Draws differ in the part of the log,
the models, their true costs and the noise, so that the interval includes these uncertainties. It does not include what
is the same in all draws: the catalogue, and what the simulator leaves out (`docs/simulator.md`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.simulate.comparison import Estimate
from powerflow.simulate.replay.draws import DrawOutcome, Way

#: Ways to run PowerFlow, by name: without a price of energy; with a quarter of the natural price; with that price, at
#: which the energy of a GPU counts as much as its time; and the second way without changes of GPU counts.
WAYS = (
    ("fast", Way(0.0)),
    ("balanced", Way(0.25)),
    ("sparing", Way(1.0)),
    ("balanced, GPUs as asked", Way(0.25, rigid=True)),
)
#: Share of the largest saving that is enough to recommend a lower price.
ENOUGH = 0.9


@dataclass(frozen=True, slots=True)
class Saving:
    """Modelled saving of one way to run PowerFlow; negative if it costs more.

    Attributes:
        name: Name in `WAYS`.
        rigid: Whether all jobs kept their requested GPUs.
        energy_price: λ_E, seconds per joule.
        energy_share: Saving as a share of the site's energy.
        energy_j: The same in joules, over the whole log.
        completion_share: Saving as a share of the site's mean completion time.
        completion_s: The same in seconds per job.
    """

    name: str
    rigid: bool
    energy_price: float
    energy_share: Estimate
    energy_j: Estimate
    completion_share: Estimate
    completion_s: Estimate


@dataclass(frozen=True, slots=True)
class Savings:
    """Modelled savings of all ways to run PowerFlow.

    Attributes:
        site_j: Joules of the site over the whole log, modelled because logs do not have them.
        site_completion_s: Mean completion time of the site over the whole log, as reproduced.
        ways: One entry for each way.
        recommended: Name of the way to begin with; None if none saves energy without making jobs slower.
    """

    site_j: float
    site_completion_s: float
    ways: Sequence[Saving]
    recommended: str | None


def savings(
    draws: Sequence[DrawOutcome],
    *,
    log_gpu_s: float,
    idle_j: float,
    site_completion_s: float,
) -> Savings:
    """Compute the savings from the draws.

    Args:
        draws: Results of the draws, in the order of `WAYS`.
        log_gpu_s: GPU-seconds of the whole log, to scale up what jobs add to idle draw.
        idle_j: Joules of the empty cluster over the whole log.
        site_completion_s: Mean completion time over the whole log.
    """
    site = [draw.site for draw in draws]
    gpu_s = np.array([one.gpu_s for one in site])
    added_j = np.array([one.added_j for one in site])
    # the share of idle draw of each draw is its share of the log's GPU-seconds
    used_j = added_j + idle_j * gpu_s / log_gpu_s
    site_j = idle_j + float(added_j.sum() / gpu_s.sum()) * log_gpu_s
    took_s = np.array([one.completion_s for one in site])
    found = []
    for i, (name, way) in enumerate(WAYS):
        mine = [draw.ours[i] for draw in draws]
        energy = ratio(np.array([was.energy_j - now.energy_j for was, now in zip(site, mine, strict=True)]), used_j)
        completion = ratio(took_s - np.array([now.completion_s for now in mine]), took_s)
        price = mine[0].energy_price
        found.append(
            Saving(
                name,
                way.rigid,
                price,
                energy,
                times(energy, site_j),
                completion,
                times(completion, site_completion_s),
            )
        )
    return Savings(site_j, site_completion_s, found, recommended(found))


def recommended(found: Sequence[Saving]) -> str | None:
    """Return the way with the lowest price that saves most of what can be saved without making jobs slower.

    Candidates have non-negative savings of time and positive savings of energy at the lower ends of the intervals. The
    result is the first of them by price that saves at least `ENOUGH` of the best.
    """
    able = [one for one in found if not one.rigid and one.completion_share.low >= 0 and one.energy_share.low > 0]
    most = max((one.energy_share.mean for one in able), default=0.0)
    return next((one.name for one in able if one.energy_share.mean >= ENOUGH * most), None)


def ratio(parts: FloatArray, wholes: FloatArray) -> Estimate:
    """Return Σ parts / Σ wholes with its 95 % interval: Student's t on jackknife pseudo-values (Tukey 1958).

    The interval of a single entry is nan.
    """
    count = len(parts)
    mean = float(parts.sum() / wholes.sum())
    if count < 2:
        return Estimate(mean, math.nan, math.nan)
    from scipy.special import stdtrit

    without = (parts.sum() - parts) / (wholes.sum() - wholes)
    pseudo = count * mean - (count - 1) * without
    half = float(stdtrit(count - 1, 0.975) * pseudo.std(ddof=1) / math.sqrt(count))
    return Estimate(mean, mean - half, mean + half)


def times(estimate: Estimate, factor: float) -> Estimate:
    """Return an estimate in other units."""
    return Estimate(estimate.mean * factor, estimate.low * factor, estimate.high * factor)
