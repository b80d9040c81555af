"""From draws to what would have been saved over the whole log, with intervals.

Every number is a ratio of sums over the draws: energy saved over energy used, completion time saved over completion
time taken. Its 95 % interval is Student's t on jackknife pseudo-values, one per draw. Draws differ in the stretch of
the log, the models, their true costs, and the noise of what is told; so the interval holds all of these. It does not
hold what is the same in all draws: the catalogue itself, and what else `docs/simulator.md` leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.simulate.comparison import Estimate
from powerflow.simulate.replay.draws import DrawOutcome, Way

#: Ways to run PowerFlow, by name: no price on energy; a quarter of the natural one; that one, at which a GPU's energy
#: counts as much as its time; and what remains of the second if no job changes its GPUs.
WAYS = (
    ("fast", Way(0.0)),
    ("balanced", Way(0.25)),
    ("sparing", Way(1.0)),
    ("balanced, GPUs as asked", Way(0.25, rigid=True)),
)
#: A price is not recommended for the last tenth of what could be saved.
ENOUGH = 0.9


@dataclass(frozen=True, slots=True)
class Saving:
    """What one way to run PowerFlow would have saved; negative where it would have cost more. All modelled.

    Attributes:
        name: Of `WAYS`.
        rigid: Whether every job kept the GPUs it asked for.
        energy_price: λ_E, seconds per joule.
        energy_share: Of the site's energy.
        energy_j: The same in joules, over the whole log.
        completion_share: Of the site's mean completion time.
        completion_s: The same in seconds a job.
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
    """What PowerFlow would have saved.

    Attributes:
        site_j: Joules of the site over the whole log, modelled: nobody logged them.
        site_completion_s: Its mean completion time over the whole log, reproduced.
        ways: One entry for each way to run PowerFlow.
        recommended: Which way to begin with, by name; None where none saves energy without making jobs slower.
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
    """Pool the draws.

    Args:
        draws: What came of them, in the `WAYS`.
        log_gpu_s: GPU-seconds of the whole log, by which what jobs add to idle draw is scaled up.
        idle_j: Joules of the empty cluster over the whole log.
        site_completion_s: Mean completion time over the whole log.
    """
    site = [draw.site for draw in draws]
    gpu_s = np.array([one.gpu_s for one in site])
    added_j = np.array([one.added_j for one in site])
    # each draw stands for as much of the log as it holds of the log's GPU-seconds, idle draw included
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
    """The lowest price of energy that saves most of what can be saved without making jobs slower.

    Only ways count whose jobs are no slower at the lower end of the interval, and that save energy at theirs; of these
    the first by price that saves at least `ENOUGH` of what the best of them does.
    """
    able = [one for one in found if not one.rigid and one.completion_share.low >= 0 and one.energy_share.low > 0]
    most = max((one.energy_share.mean for one in able), default=0.0)
    return next((one.name for one in able if one.energy_share.mean >= ENOUGH * most), None)


def ratio(parts: FloatArray, wholes: FloatArray) -> Estimate:
    """Σ parts / Σ wholes, and its 95 % interval: Student's t on jackknife pseudo-values (Tukey 1958), one per entry.

    Of a single entry there is no interval (nan).
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
    """An estimate in other units."""
    return Estimate(estimate.mean * factor, estimate.low * factor, estimate.high * factor)
