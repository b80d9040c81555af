"""Generate random jobs that resemble the jobs of a real cluster over days or months.

Jobs come in bursts of similar jobs. The rate of bursts varies over the day and the week, and randomly over some hours.
Requested GPU counts are powers of two, and a few jobs last very long (heavy-tailed durations).
`powerflow.trace.profiles` has the parameters, which were fitted to published traces and statistics. All random choices
come from one seed, so that the same arguments give the same trace.
"""

from __future__ import annotations

import math

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.cluster.spec import MOST_GPUS
from powerflow.errors import InputError
from powerflow.trace.arrivals import bursts, normalised, submissions
from powerflow.trace.fields import clip
from powerflow.trace.profile import LARGEST_CLASS, Profile
from powerflow.trace.profiles import PROFILES
from powerflow.trace.record import JobOutcome, Trace, TraceJob
from powerflow.units import DAY_S

MOST_JOBS = 5_000_000
LONGEST_DAYS = 3_660.0

# Trained models: family → (share of bursts, most GPUs, usual samples per GPU, usual global batches).
# Families and batches are the catalogue's; the shares are our choice, because no trace publishes them.
MODELS: dict[str, tuple[float, int, int, tuple[int, ...]]] = {
    "cifar10": (0.25, 16, 256, (128, 512, 2048, 4096)),
    "imagenet": (0.20, 64, 64, (64, 128, 256, 3200, 6400)),
    "bert": (0.20, 64, 16, (64, 128, 384)),
    "deepspeech2": (0.15, 32, 32, (32, 64, 320, 640)),
    "yolov3": (0.10, 8, 8, (64,)),
    "ncf": (0.10, 1, 32768, (32768,)),
}
_WIDEST_MODELS = ("imagenet", "bert")
_PROJECTS = 12


def generate(
    *,
    jobs: int | None = None,
    days: float = 1.0,
    gpus: int = 128,
    load: float | None = None,
    seed: int = 0,
    profile: str = "philly",
) -> Trace:
    """Generate a random trace.

    Args:
        jobs: Number of jobs. With None it follows from the load and the durations of the profile.
        days: Days over which jobs are submitted, beginning at hour 0 of a Monday.
        gpus: Number of GPUs of the cluster. No job requests more.
        load: Mean number of GPUs that the jobs keep busy, as a share of ``gpus``. To reach it, all durations are
            multiplied by one factor (the trace's notes have it), and cut to ``days``. None keeps the durations.
        seed: Seed of everything random. The same arguments and seed give the same trace.
        profile: Kind of cluster: a name in ``PROFILES``.

    Returns:
        Jobs with times in whole seconds from 0, with model, global batch, project, name and outcome, but without
        iterations (simulations compute these from the duration and the cost model).

    Raises:
        InputError: An argument is out of range, neither ``jobs`` nor ``load`` is given, or ``jobs`` is too small to
            reach the load.
    """
    kind = _profile(profile)
    _check(jobs, days, gpus, load)
    rng = np.random.default_rng(seed)
    share = {size: part for size, part in kind.size_share.items() if size <= gpus}
    span_s = days * DAY_S
    if jobs is None:
        assert load is not None
        jobs = max(1, min(round(load * gpus * span_s / _gpu_s_per_job(kind, share, span_s)), MOST_JOBS))

    burst = bursts(rng, kind.arrivals, jobs)
    count = int(burst[-1]) + 1
    submit_s = submissions(rng, kind.arrivals, burst, span_s)
    burst_gpus = rng.choice(np.array(list(share)), size=count, p=normalised(np.array(list(share.values()))))
    size = burst_gpus[burst].astype(np.int64)
    drawn_s = _durations(rng, kind, burst, size)
    factor = 1.0 if load is None else _factor(drawn_s, size, load * gpus * span_s, span_s)
    duration_s = np.minimum(drawn_s * factor, span_s if load is not None else np.inf).round().clip(1.0)

    models = _models(rng, burst_gpus)
    projects = rng.choice(_PROJECTS, size=count, p=normalised(1.0 / np.arange(1, _PROJECTS + 1)))
    # outcomes of Helios' GPU jobs (Hu et al., SC'21, the artifact's cluster summary)
    outcomes = rng.choice(
        np.array([JobOutcome.COMPLETED, JobOutcome.CANCELLED, JobOutcome.FAILED]), size=jobs, p=[0.624, 0.221, 0.155]
    )
    order = np.argsort(submit_s, kind="stable")
    records = tuple(
        TraceJob(
            id=f"job-{position}",
            submit_s=float(submit_s[k]),
            duration_s=float(duration_s[k]),
            gpus=int(size[k]),
            model=models[burst[k]],
            global_batch=_batch(models[burst[k]], int(size[k])),
            project=f"project-{projects[burst[k]] + 1:02d}",
            name=f"{models[burst[k]]}-{burst[k]}",
            outcome=JobOutcome(outcomes[k]),
        )
        for position, k in enumerate(order)
    )
    asked = (
        f"jobs={jobs} days={days:g} gpus={gpus} load={'as drawn' if load is None else format(load, 'g')} seed={seed}"
    )
    notes = (
        f"generated at random, modelled on {kind.source}",
        f"durations are those of the profile, multiplied by {factor:.3g}",
        "models are drawn from our own mix, because no trace publishes one",
    )
    return Trace(f"synthetic {kind.name}: {asked}", "synthetic", records, (), notes)


def _profile(name: str) -> Profile:
    if name not in PROFILES:
        raise InputError(f"unknown profile {clip(name)}", where="--profile", fix=f"give one of {', '.join(PROFILES)}")
    return PROFILES[name]


def _check(jobs: int | None, days: float, gpus: int, load: float | None) -> None:
    if jobs is None and load is None:
        raise InputError("neither jobs nor load is given", where="--jobs", fix="give one of them, or both")
    if jobs is not None and not 1 <= jobs <= MOST_JOBS:
        raise InputError(f"cannot generate {jobs} jobs", where="--jobs", fix=f"give 1 to {MOST_JOBS}")
    if not 0.01 <= days <= LONGEST_DAYS:  # also rejects nan
        raise InputError(f"cannot span {days:g} days", where="--days", fix=f"give 0.01 to {LONGEST_DAYS:g}")
    if not 1 <= gpus <= MOST_GPUS:
        raise InputError(f"{gpus} GPUs is out of range", where="--gpus", fix=f"give 1 to {MOST_GPUS}")
    if load is not None and not 0.0 < load <= 100.0:
        raise InputError(
            f"load {load:g} is out of range",
            where="--load",
            fix="give a number above 0 and at most 100; 1 fills the cluster",
        )


def _gpu_s_per_job(kind: Profile, share: dict[int, float], longest_s: float) -> float:
    """Return the expected GPU-seconds per job, if durations are lognormal and cut to ``longest_s``."""
    total = 0.0
    for size, part in share.items():
        for lognormal in kind.durations[min(size, LARGEST_CLASS)]:
            z = (math.log(longest_s / lognormal.median_s)) / lognormal.sigma
            below = lognormal.median_s * math.exp(lognormal.sigma**2 / 2) * _normal_cdf(z - lognormal.sigma)
            total += part * size * lognormal.share * (below + longest_s * (1 - _normal_cdf(z)))
    return total / sum(share.values())


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _durations(rng: np.random.Generator, kind: Profile, burst: IntArray, size: IntArray) -> FloatArray:
    """Draw the duration of each job in seconds, from the mixture of distributions for its GPU count.

    In a burst of jobs, a share ``alike`` of the jobs last about as long as the job before.
    """
    log_s = np.empty(len(burst))
    for gpu_class in np.unique(np.minimum(size, LARGEST_CLASS)):
        members = np.flatnonzero(np.minimum(size, LARGEST_CLASS) == gpu_class)
        mixture = kind.durations[int(gpu_class)]
        which = rng.choice(len(mixture), size=len(members), p=normalised(np.array([part.share for part in mixture])))
        median = np.log([part.median_s for part in mixture])[which]
        sigma = np.array([part.sigma for part in mixture])[which]
        log_s[members] = median + sigma * rng.normal(size=len(members))
    first = np.append(True, burst[1:] != burst[:-1])
    fresh = first | (rng.random(len(burst)) >= kind.arrivals.alike)
    leader = np.maximum.accumulate(np.where(fresh, np.arange(len(burst)), 0))
    jitter = np.where(fresh, 0.0, rng.normal(scale=0.03, size=len(burst)))
    return np.exp(log_s[leader] + jitter).clip(1.0, LONGEST_DAYS * DAY_S)


def _factor(drawn_s: FloatArray, size: IntArray, wanted_gpu_s: float, longest_s: float) -> float:
    """Return the factor by which durations are multiplied to reach ``wanted_gpu_s`` GPU-seconds.

    A duration that would be longer than ``longest_s`` is cut to it.
    """
    if float(size.sum()) * longest_s < wanted_gpu_s:
        raise InputError(
            f"{len(size)} jobs cannot reach that load, even if each lasts the whole span",
            where="--load",
            fix="give more jobs or less load",
        )
    low, high = 0.0, longest_s / float(drawn_s.min())
    for _ in range(80):
        factor = (low + high) / 2
        short = float((size * np.minimum(drawn_s * factor, longest_s)).sum()) < wanted_gpu_s
        low, high = (factor, high) if short else (low, factor)
    return high


def _models(rng: np.random.Generator, burst_gpus: IntArray) -> list[str]:
    """Draw a model family for each burst of jobs, among the families that run on the number of GPUs of this burst."""
    names = list(MODELS)
    share = np.array([MODELS[name][0] for name in names])
    widest = np.array([MODELS[name][1] for name in names])
    weights = share * (widest >= burst_gpus[:, None])
    beyond = weights.sum(axis=1) == 0
    weights[beyond] = [float(name in _WIDEST_MODELS) for name in names]
    edges = np.cumsum(weights, axis=1)
    drawn = (rng.random(len(burst_gpus)) * edges[:, -1])[:, None] >= edges
    return [names[k] for k in drawn.sum(axis=1)]


def _batch(model: str, gpus: int) -> int:
    """Return one of the usual global batches of a model for a number of GPUs.

    It is the batch nearest (by ratio) to the usual samples per GPU, multiplied by the number of GPUs.
    """
    _, _, per_gpu, usual = MODELS[model]
    return min(usual, key=lambda batch: abs(math.log(batch / (per_gpu * gpus))))
