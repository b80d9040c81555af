"""The generator: its promises, and that its profiles are what they say they are."""

import math
from dataclasses import replace

import numpy as np
import pytest
from benchmarks.calibrate import lognormal_mixture
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.errors import InputError
from powerflow.trace.arrivals import bursts, submissions
from powerflow.trace.demo import demo_day
from powerflow.trace.profile import Arrivals
from powerflow.trace.profiles import PROFILES
from powerflow.trace.statistics import describe
from powerflow.trace.synthetic import MODELS, generate


@settings(deadline=None, max_examples=40)
@given(
    jobs=st.integers(1, 400),
    days=st.floats(0.05, 30),
    gpus=st.sampled_from([1, 2, 7, 64, 1024]),
    load=st.none() | st.floats(0.01, 0.5),
    seed=st.integers(0, 2**32),
    profile=st.sampled_from(sorted(PROFILES)),
)
def test_promises(jobs: int, days: float, gpus: int, load: float | None, seed: int, profile: str) -> None:
    try:
        trace = generate(jobs=jobs, days=days, gpus=gpus, load=load, seed=seed, profile=profile)
    except InputError as error:
        assert load is not None  # too few jobs for the load is the only thing that can go wrong here
        assert "cannot reach that load" in str(error)  # noqa: PT017
        return
    span_s = days * 86_400
    assert len(trace.jobs) == jobs
    submits_s = [job.submit_s for job in trace.jobs]
    assert submits_s == sorted(submits_s)
    assert submits_s[0] >= 0
    assert submits_s[-1] <= span_s
    for job in trace.jobs:
        assert job.gpus & (job.gpus - 1) == 0
        assert job.gpus <= gpus
        assert job.duration_s >= 1
        assert job.submit_s == int(job.submit_s)
        assert job.model in MODELS
        assert job.global_batch in MODELS[job.model][3]
    if load is not None:
        wanted = load * gpus * span_s
        rounding = sum(job.gpus for job in trace.jobs)  # a second a job, which is also the shortest
        assert sum(job.gpus * job.duration_s for job in trace.jobs) == pytest.approx(wanted, abs=rounding)
        assert max(job.duration_s for job in trace.jobs) <= math.ceil(span_s)


def test_same_seed_same_jobs_and_other_seed_other_jobs() -> None:
    first, again, other = (generate(jobs=50, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.jobs != other.jobs


def test_number_of_jobs_follows_from_load() -> None:
    few, many = (len(generate(load=load, days=7, profile="itp").jobs) for load in (0.5, 2.0))
    assert many == pytest.approx(4 * few, abs=4)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "neither jobs nor load"),
        ({"jobs": 0}, "cannot generate 0 jobs"),
        ({"jobs": 10**9}, "cannot generate"),
        ({"jobs": 5, "days": math.nan}, "cannot span nan days"),
        ({"jobs": 5, "days": -1.0}, "cannot span"),
        ({"jobs": 5, "gpus": 0}, "0 GPUs is out of range"),
        ({"jobs": 5, "load": math.inf}, "load inf"),
        ({"jobs": 5, "load": 0.0}, "load 0"),
        ({"jobs": 1, "load": 50.0, "gpus": 1024}, "cannot reach that load"),
        ({"jobs": 5, "profile": "alibaba"}, "unknown profile 'alibaba'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, float | int | str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        generate(**arguments)  # type: ignore[arg-type]


#: As published; see `powerflow.trace.profiles`.
HELIOS_MEDIAN_S, HELIOS_MEAN_S, HELIOS_GPUS, HELIOS_GPU_S = 206.0, 6651.7, 3.716, 49_351.0


def test_helios_holds_to_its_published_figures() -> None:
    found = [describe(generate(jobs=100_000, days=60, gpus=2048, seed=seed, profile="helios")) for seed in range(2)]
    medians = {
        "median_s": (np.median([s.duration_s[0.5] for s in found if s.duration_s]), HELIOS_MEDIAN_S),
        "mean_s": (np.median([s.duration_mean_s for s in found if s.duration_mean_s]), HELIOS_MEAN_S),
        "gpus": (np.median([s.gpus_mean for s in found]), HELIOS_GPUS),
        "gpu_s": (np.median([s.gpu_hours * 3600 / s.jobs for s in found if s.gpu_hours]), HELIOS_GPU_S),
    }
    for name, (drawn, published) in medians.items():
        assert drawn == pytest.approx(published, rel=0.08), name


STEADY = Arrivals(
    burst_mean=1.0001,
    burst_max=2,
    burst_gap_s=1.0,
    alike=0.0,
    day_swing=0.0,
    peak_hour=0.0,
    weekend=1.0,
    swing=0.0,
    memory=0.0,
)


def _gaps_cv(arrivals: Arrivals) -> float:
    rng = np.random.default_rng(1)
    submit_s = np.sort(submissions(rng, arrivals, bursts(rng, arrivals, 20_000), 30 * 86_400.0))
    gaps_s = np.diff(submit_s)
    return float(gaps_s.std() / gaps_s.mean())


def test_without_bursts_and_swings_arrivals_are_poisson() -> None:
    assert _gaps_cv(STEADY) == pytest.approx(1.0, abs=0.03)


def test_bursts_and_swings_each_make_arrivals_burstier() -> None:
    bursty = replace(STEADY, burst_mean=4.0, burst_max=100)
    swinging = replace(STEADY, swing=1.2, memory=0.9)
    assert _gaps_cv(bursty) > 2
    assert _gaps_cv(swinging) > 1.5
    assert _gaps_cv(replace(bursty, swing=1.2, memory=0.9)) > max(_gaps_cv(bursty), _gaps_cv(swinging))


def test_burst_lengths_have_the_mean_asked_for() -> None:
    rng = np.random.default_rng(0)
    which = bursts(rng, PROFILES["philly"].arrivals, 400_000)
    assert 400_000 / (which[-1] + 1) == pytest.approx(PROFILES["philly"].arrivals.burst_mean, rel=0.1)


def test_day_and_week_are_where_they_were_asked() -> None:
    rng = np.random.default_rng(0)
    arrivals = replace(STEADY, day_swing=0.5, peak_hour=15.0, weekend=0.5)
    submit_s = submissions(rng, arrivals, bursts(rng, arrivals, 100_000), 28 * 86_400.0)
    by_hour = np.bincount((submit_s % 86_400 // 3600).astype(int).clip(0, 23), minlength=24) / len(submit_s) * 24
    assert by_hour.argmax() in (14, 15)
    assert by_hour[14:16].mean() == pytest.approx(1.5, abs=0.05)
    assert by_hour[2:4].mean() == pytest.approx(0.5, abs=0.05)
    weekend = (submit_s // 86_400 % 7 >= 5).mean()
    assert weekend == pytest.approx(2 * 0.5 / (5 + 2 * 0.5), abs=0.01)


def test_a_mixture_is_found_again() -> None:
    rng = np.random.default_rng(0)
    log_s = np.concatenate(
        [rng.normal(np.log(60), 0.3, 3000), rng.normal(np.log(3000), 0.5, 5000), rng.normal(np.log(1e5), 0.4, 2000)]
    )
    found = lognormal_mixture(log_s)
    for part, (share, median_s, sigma) in zip(found, [(0.3, 60, 0.3), (0.5, 3000, 0.5), (0.2, 1e5, 0.4)], strict=True):
        assert part.share == pytest.approx(share, abs=0.02)
        assert part.median_s == pytest.approx(median_s, rel=0.05)
        assert part.sigma == pytest.approx(sigma, rel=0.1)


def test_demo_day_is_what_the_generator_makes() -> None:
    day = demo_day()
    made = generate(jobs=800, days=1, gpus=128, load=1.0, seed=5, profile="itp")
    assert day.jobs == made.jobs
    found = describe(day)
    assert found.gpu_hours == pytest.approx(128 * 24, rel=0.001)
    assert found.one_gpu_jobs > 0.8
    assert found.big_job_gpu_hours is not None
    assert found.big_job_gpu_hours > 0.5
    assert found.interarrival_cv is not None
    assert found.interarrival_cv > 3
    assert set(found.models) == set(MODELS)
