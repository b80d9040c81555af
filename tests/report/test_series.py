"""Courses over time: shorter, yet adding up to the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from powerflow.report.series import allocation_raster, cumulative, step_means
from tests.report.factories import simulation

lengths = st.integers(2, 300)


def integral(time_s: np.ndarray, value: np.ndarray, end_s: float) -> float:
    return float(np.sum(value * np.diff(np.append(time_s, end_s))))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), size=lengths, points=st.integers(1, 40))
def test_step_means_keep_the_joules(data: st.DataObject, size: int, points: int) -> None:
    steps = data.draw(arrays(np.float64, size, elements=st.floats(0, 1e4)))  # zero: two rows at one moment
    value = data.draw(arrays(np.float64, size, elements=st.floats(0, 1e6)))
    time_s = np.cumsum(steps)
    end_s = float(time_s[-1]) + 1.0
    short_s, means = step_means(time_s, value, end_s, points=points)
    assert len(short_s) == len(means) <= max(points, 0) or size <= points
    assert integral(short_s, means, end_s) == pytest.approx(integral(time_s, value, end_s), rel=1e-9, abs=1e-3)
    assert np.all(means >= value.min() - 1e-6 * (1 + value.max()))
    assert np.all(means <= value.max() * (1 + 1e-6) + 1e-6)


def test_step_means_by_hand() -> None:
    # 10 W for 1 s, 40 W for 3 s, in two steps of 2 s: (10 + 40)/2 = 25 W and 40 W
    time_s, means = step_means(np.array([0.0, 1.0, 2.0]), np.array([10.0, 40.0, 40.0]), 4.0, points=2)
    assert time_s.tolist() == [0.0, 2.0]
    assert means == pytest.approx([25.0, 40.0])


def test_a_weighted_mean_counts_gpus_and_is_nan_where_there_are_none() -> None:
    clock = np.array([1000.0, 1400.0, 0.0])
    busy = np.array([3.0, 1.0, 0.0])
    _, means = step_means(np.array([0.0, 1.0, 2.0]), clock, 4.0, busy, points=2)
    assert means[0] == pytest.approx((3 * 1000 + 1400) / 4)
    assert np.isnan(means[1])
    _, whole = step_means(np.array([0.0, 1.0, 2.0]), clock, 4.0, busy)
    assert np.isnan(whole[2])


def test_cumulative_reaches_one_and_skips_what_has_no_value() -> None:
    value, share = cumulative(np.array([3.0, np.nan, 1.0, 2.0]))
    assert value.tolist() == [1.0, 2.0, 3.0]
    assert share == pytest.approx([1 / 3, 2 / 3, 1.0])
    value, share = cumulative(np.arange(100_000.0), points=101)
    assert len(value) == 101
    assert value[-1] == 99_999
    assert value[50] / 1e5 == pytest.approx(share[50], abs=1e-4)
    assert len(cumulative(np.empty(0))[0]) == 0


def test_the_raster_shows_waiting_then_gpus_then_nothing() -> None:
    result = simulation(jobs=40, gpus=8, seed=3)
    shown, middle_s, held = allocation_raster(result.jobs, result.segments, result.end_s, columns=2000)
    assert shown.tolist() == list(range(40))
    jobs = result.jobs
    width = middle_s[1] - middle_s[0]
    for row in range(40):
        for column, moment in enumerate(middle_s):
            edges = (jobs.submit_s[row], jobs.start_s[row], jobs.finish_s[row])
            if min(abs(moment - edge) for edge in edges) <= width:
                continue  # within a column of a change either answer is right
            if moment < edges[0] or moment > edges[2]:
                assert np.isnan(held[row, column])
            else:
                assert held[row, column] == (jobs.requested[row] if moment > edges[1] else 0)


def test_the_raster_thins_jobs_evenly_and_hides_none_that_it_shows() -> None:
    result = simulation(jobs=1000, gpus=512)
    shown, _, held = allocation_raster(result.jobs, result.segments, result.end_s, rows=50, columns=30)
    assert len(shown) == 50
    assert (shown[0], shown[-1]) == (0, 999)
    assert np.ptp(np.diff(shown)) <= 1
    assert np.all(np.nanmax(held, axis=1) >= 1)
