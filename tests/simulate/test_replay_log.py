"""Does the queue do what its disciplines say, and does a log find the one that made it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.cost.batch_range import BatchRange
from powerflow.errors import InputError
from powerflow.simulate.replay.log import WEEK_S, Match, log_of, reproductions, utilisation
from powerflow.simulate.replay.queue import DISCIPLINES, start_times
from powerflow.trace.read import read_trace
from powerflow.trace.record import Trace
from tests.simulate.small import small_trace

TRACES = Path(__file__).resolve().parents[3] / "shared" / "data" / "traces"


def starts(
    jobs: Sequence[tuple[float, float, int]], capacity: int, discipline: str, limits: Sequence[float] | None = None
) -> list[float]:
    submit_s, run_s, gpus = (np.array(column, float) for column in zip(*jobs, strict=True))
    limit_s = None if limits is None else np.array(limits)
    return list(start_times(submit_s, run_s, gpus.astype(np.int64), capacity, discipline, limit_s))


# submitted at, runs for, GPUs; on five GPUs
WORKED = [(0, 10, 2), (1, 5, 4), (2, 20, 2), (3, 7, 2), (4, 100, 1)]


@pytest.mark.parametrize(
    ("discipline", "expected"),
    [
        # the second job does not fit beside the first: it starts at 10, and all that came later when it ends
        ("fifo", [0, 10, 15, 15, 15]),
        # it is promised 10 s, with one GPU to spare: the third would put that off, the fourth ends at just that moment
        # (3 + 7), the last takes the spare one
        ("easy", [0, 10, 15, 3, 4]),
        # the third takes what is free at 2, the last the fifth GPU; at 10 two GPUs are free, for the fourth; the second
        # must wait for the third and fourth
        ("first-fit", [0, 22, 2, 10, 4]),
    ],
)
def test_worked_by_hand(discipline: str, expected: list[float]) -> None:
    assert starts(WORKED, 5, discipline) == expected


def test_time_limits_by_hand() -> None:
    """As `WORKED`, but the site knows limits only: the first job has one of 30 s and ends after 10 s all the same.

    The second is promised 30 s. The third would end at 22 s, so it may start at once; the fourth has a limit of 40 s,
    which would put the promise off, and the last takes the spare GPU.
    """
    limits = [30.0, np.nan, np.nan, 40.0, np.nan]
    assert starts(WORKED, 5, "easy-limits", limits) == [0, 22, 2, 27, 4]
    assert starts(WORKED, 5, "easy", limits) == starts(WORKED, 5, "easy"), "who knows the ends needs no limits"
    assert starts(WORKED, 5, "easy-limits") == starts(WORKED, 5, "easy"), "nor who knows no limit"


def slowly(
    jobs: list[tuple[float, float, int]], capacity: int, discipline: str, limits: Sequence[float] | None = None
) -> list[float]:
    """The same disciplines, as plainly as they can be said."""
    plans = [job[1] for job in jobs] if limits is None else limits
    start: dict[int, float] = {}
    moments = sorted({submit for submit, _, _ in jobs})
    while moments:
        now = moments.pop(0)
        queue = [i for i, (submit, _, _) in enumerate(jobs) if submit <= now and i not in start]
        blocked: int | None = None
        promised = float("inf")
        for i in queue:
            running = [k for k in start if start[k] + jobs[k][1] > now]
            free = capacity - sum(jobs[k][2] for k in running)
            fits = jobs[i][2] <= free
            if blocked is not None and discipline == "fifo":
                break
            if fits and blocked is not None and discipline.startswith("easy"):
                start[i] = now
                fits = promise(jobs, plans, start, capacity, blocked, now) <= promised
                del start[i]
            if fits:
                start[i] = now
                moments = sorted({*moments, now + jobs[i][1]})
            elif blocked is None:
                blocked = i
                promised = promise(jobs, plans, start, capacity, i, now)
    return [start[i] for i in range(len(jobs))]


def promise(
    jobs: list[tuple[float, float, int]],
    plans: Sequence[float],
    start: dict[int, float],
    capacity: int,
    waits: int,
    now: float,
) -> float:
    """When so many GPUs are free by plan if nobody else starts."""
    ends = {k: max(start[k] + plans[k], now) for k in start if start[k] + jobs[k][1] > now}
    return next(
        end
        for end in sorted({now, *ends.values()})
        if capacity - sum(jobs[k][2] for k, planned in ends.items() if planned > end) >= jobs[waits][2]
    )


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 15), st.integers(1, 6)), min_size=1, max_size=25),
    st.sampled_from(DISCIPLINES),
)
@settings(max_examples=150, deadline=None)
def test_as_the_plain_version_does(jobs: list[tuple[int, int, int]], discipline: str) -> None:
    ordered = sorted([(float(submit), float(run), gpus) for submit, run, gpus in jobs], key=lambda job: job[0])
    assert starts(ordered, 6, discipline) == slowly(ordered, 6, discipline)


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 15), st.integers(1, 6), st.integers(1, 40)),
        min_size=1,
        max_size=25,
    )
)
@settings(max_examples=150, deadline=None)
def test_with_time_limits_too(jobs: list[tuple[int, int, int, int]]) -> None:
    """Also limits that jobs run past: they are planned to end at once."""
    ordered = sorted(jobs, key=lambda job: job[0])
    plain = [(float(submit), float(run), gpus) for submit, run, gpus, _ in ordered]
    limits = [float(limit) for *_, limit in ordered]
    assert starts(plain, 6, "easy-limits", limits) == slowly(plain, 6, "easy-limits", limits)


@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_never_more_gpus_than_there_are(discipline: str) -> None:
    rng = np.random.default_rng(5)
    submit_s, run_s = np.sort(rng.uniform(0, 1e5, 2_000)), rng.lognormal(7, 1.5, 2_000)
    gpus = 2 ** rng.integers(0, 5, 2_000)
    start_s = start_times(submit_s, run_s, gpus, 32, discipline)
    assert (start_s >= submit_s).all()
    moments = np.concatenate([start_s + run_s, start_s])  # of one moment, ends first
    change = np.concatenate([-gpus, gpus])
    held = np.cumsum(change[np.lexsort((change, moments))])
    assert held.max() == 32
    if discipline == "fifo":
        assert (np.diff(start_s) >= 0).all()


def logged(discipline: str, capacity: int = 16, jobs: int = 400) -> Trace:
    """A log of a site that runs the discipline."""
    trace = small_trace(jobs)
    log = log_of(trace, capacity)
    rng = np.random.default_rng(3)
    limit_s = log.run_s * rng.uniform(1.0, 8.0, jobs) if discipline == "easy-limits" else None
    start_s = start_times(log.submit_s, log.run_s, log.gpus, capacity, discipline, limit_s)
    limits = [None] * jobs if limit_s is None else limit_s.tolist()
    waits = (start_s - log.submit_s).tolist()
    told = zip(trace.jobs, waits, limits, strict=True)
    return replace(trace, jobs=tuple(replace(job, wait_s=wait, limit_s=limit) for job, wait, limit in told))


@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_a_log_finds_the_discipline_that_made_it(discipline: str) -> None:
    found = reproductions(log_of(logged(discipline), 16), 16)
    assert found[0].discipline == discipline
    assert found[0].whole.error < 1e-9
    limits = discipline == "easy-limits"  # without limits in the log it is not tried
    assert len(found) == len(DISCIPLINES) - (not limits)
    assert all(one.whole.error <= other.whole.error for one, other in pairwise(found))


def test_a_smaller_cluster_does_not_reproduce_it() -> None:
    assert reproductions(log_of(logged("easy"), 12), 12)[0].whole.error > 0.1


def test_errors_are_relative() -> None:
    match = Match(0.0, 10, wait_logged_s=1000.0, wait_s=1250.0, utilisation_logged=0.8, utilisation=0.72)
    assert match.wait_error == pytest.approx(0.25)
    assert match.utilisation_error == pytest.approx(0.1)
    assert match.error == match.wait_error
    short = Match(0.0, 10, wait_logged_s=5.0, wait_s=2.0, utilisation_logged=0.8, utilisation=0.8)
    assert short.error == pytest.approx(0.05)  # of a minute, not of five seconds


def test_utilisation_counts_what_lies_in_the_span() -> None:
    # four GPUs, from 10 s to 20 s: two of them for 5 s, one for 10 s
    start_s, run_s, gpus = np.array([0.0, 5.0, 30.0]), np.array([15.0, 40.0, 1.0]), np.array([2, 1, 4])
    assert utilisation(start_s, run_s, gpus, 4, 10.0, 20.0) == pytest.approx((2 * 5 + 10) / 40)


def test_weeks_add_up() -> None:
    trace = logged("fifo")
    jobs = tuple(replace(job, submit_s=job.submit_s * 100) for job in trace.jobs)
    log = log_of(replace(trace, jobs=jobs), 16)
    (best, *_) = reproductions(log, 16)
    assert len(best.weeks) == int(np.ceil(log.span_s / WEEK_S)) > 1
    assert sum(week.jobs for week in best.weeks) == best.whole.jobs == len(jobs)
    waited_s = sum(week.jobs * week.wait_s for week in best.weeks if week.jobs)
    assert waited_s / len(jobs) == pytest.approx(best.whole.wait_s)


def test_without_starts_there_is_nothing_to_compare() -> None:
    assert reproductions(log_of(small_trace(), 16), 16) == []


def test_refuses_what_no_such_cluster_ran() -> None:
    with pytest.raises(InputError, match="hold more than the cluster's 2 GPUs"):
        log_of(small_trace(), 2)
    one = small_trace(1)
    with pytest.raises(InputError, match="all jobs have one submission time"):
        log_of(one, 16)
    endless = replace(one.jobs[0], duration_s=float("nan"))
    changing = replace(one.jobs[0], global_batch=64, batch_range=BatchRange(32, 128, 1.0))
    with pytest.raises(InputError, match="PowerFlow never changes them"):
        log_of(replace(one, jobs=(changing,)), 16)
    with pytest.raises(InputError, match="has no duration"):
        log_of(replace(one, jobs=(endless,)), 16)


@pytest.mark.real_data
def test_the_published_philly_waits_are_a_fifo_simulation() -> None:
    """Every start of that table is FIFO's on 2,490 GPUs, to the second: these waits were computed, not logged."""
    path = TRACES / "philly_waits.csv.gz"
    if not path.exists():
        pytest.skip("no real traces beside the checkout")
    log = log_of(read_trace(path), 2490)
    assert np.array_equal(start_times(log.submit_s, log.run_s, log.gpus, 2490, "fifo"), log.start_s)
