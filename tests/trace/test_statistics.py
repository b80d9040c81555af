"""A trace in numbers, worked by hand."""

import math

import pytest

from powerflow.trace.record import Skipped, Trace, TraceJob
from powerflow.trace.statistics import describe


def test_by_hand() -> None:
    jobs = (
        TraceJob("a", 0.0, 3600.0, 1, wait_s=10.0, model="bert"),
        TraceJob("b", 100.0, 7200.0, 8, wait_s=30.0),
        TraceJob("c", 400.0, 3600.0, 1),
        TraceJob("d", 500.0, math.nan, 4, model="bert", iterations=5.0),
    )
    skipped = (Skipped(3, "duration is negative (-1)"), Skipped(4, "duration is negative (-2)"))
    found = describe(Trace("t", "t", jobs, skipped))
    assert (found.jobs, found.durations_known, found.span_s, found.gpus_max) == (4, 3, 500.0, 8)
    assert found.gpu_hours == 18.0
    assert found.demand_gpus == pytest.approx(18 * 3600 / 500)
    assert found.duration_s is not None
    assert found.duration_s[0.5] == 3600.0
    assert found.duration_mean_s == 4800.0
    assert found.wait_s is not None
    assert found.wait_s[0.5] == 20.0
    assert found.jobs_by_gpus == {1: 0.5, 4: 0.25, 8: 0.25}
    assert found.gpu_hours_by_gpus == {1: pytest.approx(2 / 18), 4: 0.0, 8: pytest.approx(16 / 18)}
    assert found.one_gpu_jobs == 0.5
    assert found.big_job_gpu_hours == pytest.approx(16 / 18)
    # gaps 100, 300, 100: mean 500/3, deviation √(80000/9)
    assert found.interarrival_cv == pytest.approx(math.sqrt(80000 / 9) / (500 / 3))
    assert found.models == {"bert": 2}
    assert found.skipped == {"duration is negative": 2}


def test_what_cannot_be_said_is_none() -> None:
    found = describe(Trace("t", "t", (TraceJob("a", 5.0, math.nan, 2),)))
    assert found.gpu_hours is None
    assert found.duration_s is None
    assert found.duration_mean_s is None
    assert found.wait_s is None
    assert found.interarrival_cv is None
    assert found.demand_gpus is None
    assert found.gpu_hours_by_gpus is None
    assert found.big_job_gpu_hours is None
