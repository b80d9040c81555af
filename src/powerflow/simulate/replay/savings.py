"""Compute what PowerFlow would have saved over a whole log, with confidence intervals.

A log does not say which models its jobs trained or what these models cost. So these facts are chosen at random, several
times, and each choice (a draw) is simulated. Each result is a ratio of sums over the draws: saved energy divided by
used energy, or saved completion time divided by completion time. Its 95 % interval is Student's t on jackknife
pseudo-values, one for each draw. Draws differ in their part of the log, the models of the jobs, the true costs of the
models, and the noise, so that the interval includes these uncertainties. The interval does not include errors that are
the same in all draws: errors of the built-in cost models, and what the simulator leaves out (`docs/simulator.md`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.simulate.comparison import Estimate
from powerflow.simulate.replay.draws import DrawOutcome, Way

#: Ways to run PowerFlow, by name: without a price of energy; with a quarter of the natural price; with the natural
#: price, at which the energy of a GPU counts as much as its time; and the second way without changes of GPU counts.
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
    """What one way to run PowerFlow would have saved, as modelled; a negative number is a loss.

    The site is the cluster without PowerFlow that wrote the log.

    Attributes:
        name: Name of the way to run PowerFlow, in `WAYS`.
        rigid: True if all jobs kept their requested numbers of GPUs.
        energy_price: λ_E, seconds per joule.
        energy_share: Saved energy as a share of the site's energy.
        energy_j: Saved energy in joules, over the whole log.
        completion_share: Saved completion time as a share of the site's mean completion time.
        completion_s: Saved completion time in seconds per job.
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
    """What all ways to run PowerFlow would have saved, as modelled.

    The site is the cluster without PowerFlow that wrote the log.

    Attributes:
        site_j: Joules of the site over the whole log. They are modelled, because logs do not contain energy.
        site_completion_s: Mean completion time of the site over the whole log, as reproduced, seconds.
        ways: The savings of each way to run PowerFlow.
        recommended: Name of the way with which the site should begin; None if no way saves energy without making jobs
            slower.
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
    """Compute what each way to run PowerFlow would have saved over the whole log.

    Args:
        draws: Results of the simulations, one entry for each random draw of what the log does not say. Each entry has
            the ways to run PowerFlow in the order of `WAYS`.
        log_gpu_s: GPU-seconds of all jobs in the log. The energy that jobs add to idle draw is scaled up to this sum.
        idle_j: Joules that the empty cluster would use over the whole log.
        site_completion_s: Mean completion time of the site over the whole log, seconds.
    """
    site = [draw.site for draw in draws]
    gpu_s = np.array([one.gpu_s for one in site])
    added_j = np.array([one.added_j for one in site])
    # each random draw gets a share of the idle energy: its share of the log's GPU-seconds
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
    """Return the name of the way to run PowerFlow with which a site should begin; None if no way is suitable.

    A way is suitable if it keeps the GPU counts free, saves energy, and does not make jobs slower, even at the lower
    ends of the confidence intervals. Of the suitable ways, the result is the one with the lowest energy price that
    saves at least `ENOUGH` of the largest saving.
    """
    able = [one for one in found if not one.rigid and one.completion_share.low >= 0 and one.energy_share.low > 0]
    most = max((one.energy_share.mean for one in able), default=0.0)
    return next((one.name for one in able if one.energy_share.mean >= ENOUGH * most), None)


def ratio(parts: FloatArray, wholes: FloatArray) -> Estimate:
    """Return the sum of ``parts`` divided by the sum of ``wholes``, with its 95 % confidence interval.

    The interval is Student's t on jackknife pseudo-values (Tukey 1958). With a single entry, both ends of the interval
    are nan.
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
    """Return an estimate and its interval multiplied by a factor, for example to convert units."""
    return Estimate(estimate.mean * factor, estimate.low * factor, estimate.high * factor)
