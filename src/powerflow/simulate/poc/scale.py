"""Compare measured with modelled energy, and find the factor between them with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.simulate.poc.matching import JobMatching
from powerflow.simulate.replay.draws import DrawOutcome
from powerflow.simulate.replay.windows import LogWindow
from powerflow.trace.record import Trace


@dataclass(frozen=True, slots=True, eq=False)
class EnergyCheck:
    """The modelled energy of the measured jobs beside the measured energy.

    Attributes:
        measured_j, low_j, high_j: Measured joules and their bounds, over the parts of the log that were simulated.
        modelled_j: Joules that the models of the draws give for the same GPU-seconds; the mean over the draws.
        factors: ``[D]`` measured ÷ modelled energy above the idle draw, for each draw; the draw's energy is multiplied
            by it.
        relative_error: Half-width of the 95 % interval of the factor that all draws share, as a share of it: which jobs
            were measured, and the bounds of their joules.
    """

    measured_j: float
    low_j: float
    high_j: float
    modelled_j: float
    factors: FloatArray
    relative_error: float

    @property
    def miss(self) -> float:
        """Error of the modelled energy before it is corrected, as a share of the measured one; positive if too high."""
        return self.modelled_j / self.measured_j - 1


def energy_check(
    trace: Trace, matching: JobMatching, windows: Sequence[LogWindow], draws: Sequence[DrawOutcome], idle_w: float
) -> EnergyCheck:
    """Compare the measured energy of jobs with the modelled one.

    Args:
        trace: The log.
        matching: Measured energy of its jobs; some jobs of the windows have one.
        windows: The part of the log of each draw.
        draws: The results of the draws.
        idle_w: Idle watts of a GPU.
    """
    gpus = np.array([job.gpus for job in trace.jobs])
    measured, modelled, factors = [], [], []
    for window, draw in zip(windows, draws, strict=True):
        at = window.positions
        gpu_s = matching.gpu_s[at]
        added_j = draw.added_w / gpus[at] * gpu_s
        idle_j = idle_w * float(gpu_s.sum())
        seen_j = float(matching.energy_j[at].sum())
        measured.append((seen_j, float(matching.low_j[at].sum()), float(matching.high_j[at].sum())))
        modelled.append(float(added_j.sum()) + idle_j)
        known = added_j.sum() > 0 and seen_j > idle_j
        factors.append((seen_j - idle_j) / float(added_j.sum()) if known else math.nan)
    seen_j, low_j, high_j = np.mean(measured, axis=0).tolist()
    known = np.array(factors)
    known[np.isnan(known)] = np.nanmean(known) if np.isfinite(known).any() else 1.0
    bounds = max(high_j - seen_j, seen_j - low_j) / seen_j if seen_j else math.inf
    return EnergyCheck(
        seen_j, low_j, high_j, float(np.mean(modelled)), known, math.hypot(bounds, _sampling(trace, matching, idle_w))
    )


def _sampling(trace: Trace, matching: JobMatching, idle_w: float) -> float:
    """Return the error of the mean power above idle that comes from jobs without measurement, as a share of it.

    It is the 95 % half-width of a ratio over users (delete-one jackknife), because the jobs of one user are alike. The
    measured share f of the log is known: √(1 − f) of the error is left, as for a sample of a finite population.
    """
    users = [job.user or job.project for job in trace.jobs]
    names = {name: i for i, name in enumerate(dict.fromkeys(users))}
    of: IntArray = np.array([names[user] for user in users])
    above_j = np.bincount(of, matching.energy_j - idle_w * matching.gpu_s)
    gpu_s = np.bincount(of, matching.gpu_s)
    above_j, gpu_s = above_j[gpu_s > 0], gpu_s[gpu_s > 0]
    left = math.sqrt(max(0.0, 1 - matching.share))
    if left == 0.0:
        return 0.0
    count = len(gpu_s)
    if count < 2:
        return left
    from scipy.special import stdtrit

    total = above_j.sum() / gpu_s.sum()
    without = (above_j.sum() - above_j) / (gpu_s.sum() - gpu_s)
    spread = math.sqrt((count - 1) / count * float(np.sum((without - without.mean()) ** 2)))
    return left * float(stdtrit(count - 1, 0.975)) * spread / total if total > 0 else math.inf
