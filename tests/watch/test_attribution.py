"""Energy of a GPU that several jobs hold one after another, from readings of its counter."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.arrays import FloatArray
from powerflow.watch.attribution import attribute
from powerflow.watch.lag import lags, typical
from powerflow.watch.owners import Holding, Segment, segments
from powerflow.watch.series import GpuSeries, intervals, joined, series_of, without_repeats
from tests.watch.site import GPU, POWER, TrueDraw, by_job, random_draw, scraped


def counted(*points: tuple[float, float]) -> GpuSeries:
    time_s, energy_j = np.array(points).T
    return series_of(time_s, energy_j=energy_j)


def test_what_lies_between_two_readings_is_exactly_the_counters() -> None:
    series = counted((0, 100), (10, 700), (20, 4700), (30, 8700), (40, 9300))
    owners = [Segment((), 0, 10, 0), Segment(("a",), 10, 30, 1), Segment((), 30, 40, 1)]
    shares = attribute(series, owners, POWER)
    assert [(s.jobs, s.energy_j, s.low_j, s.high_j) for s in shares] == [
        ((), 600, 600, 600),
        (("a",), 8000, 8000, 8000),
        ((), 600, 600, 600),
    ]


def test_at_a_change_the_idle_gpu_has_what_it_always_draws_and_the_job_the_rest() -> None:
    """Idle at 60 W; the job starts at 14 s, loads data at 80 W for 4 s, and trains at 400 W from 18 s on."""
    series = counted((0, 0), (10, 600), (20, 600 + 240 + 320 + 800), (30, 1960 + 4000), (40, 5960 + 4000))
    shares = attribute(series, segments([Holding("a", GPU, 14, None, 0)], 0, 40), POWER)
    nobody, job = shares
    assert nobody.energy_j == pytest.approx(840, abs=20)
    assert job.energy_j == pytest.approx(320 + 800 + 8000, abs=20)  # its mean drawn out to 14 s would be 1,280 more
    assert job.low_j <= 9120 <= job.high_j


def test_a_job_between_two_readings_has_what_the_idle_gpu_does_not_draw() -> None:
    series = counted((0, 0), (10, 600), (20, 1200), (30, 1200 + 360 + 1600), (40, 3760), (50, 4360))
    found = by_job(attribute(series, segments([Holding("a", GPU, 23, 27, 0)], 0, 50), POWER))
    assert found["a"][0] == pytest.approx(1600, abs=30)
    assert found["a"][1] <= 1600 <= found["a"][2]


def test_jobs_that_share_a_gpu_are_one_owner() -> None:
    held = [Holding("b", GPU, 0, 20), Holding("a", GPU, 10, 30)]
    assert [s.jobs for s in segments(held, 0, 40)] == [("b",), ("a", "b"), ("a",), ()]


def test_pieces_in_time_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(4)
    draw = random_draw(rng, 12, 300.0)
    series = scraped(draw, rng, 15.0)
    owners = segments(draw.holdings(), series.time_s[0], series.time_s[-1])
    whole = by_job(attribute(series, owners, POWER))
    cuts = series.time_s[[0, 7, 40, 41, 90, len(series) - 1]]
    parts: dict[str, np.ndarray] = {}
    for a, b in itertools.pairwise(cuts):
        for job, part in by_job(attribute(series, owners, POWER, since_s=a, until_s=b)).items():
            parts[job] = parts.get(job, np.zeros(3)) + part
    assert parts.keys() == whole.keys()
    for job, part in parts.items():
        assert part == pytest.approx(whole[job])


@pytest.mark.parametrize(
    ("every_s", "exporter_s", "with_resets"),
    [(15.0, 0.0, False), (30.0, 0.0, True), (30.0, 30.0, False), (15.0, 30.0, False)],
)
def test_within_two_percent_for_jobs_of_ten_readings(every_s: float, exporter_s: float, with_resets: bool) -> None:
    """Jobs with start-up phases and pauses; also with an exporter that is late, and with counters that begin anew.

    How late the exporter is, is learned from the ends of the jobs.
    """
    errors, inside, jobs = [], 0, 0
    rng = np.random.default_rng(1)
    step_s = max(every_s, exporter_s)
    for _ in range(8):
        draw = random_draw(rng, 30, 30 * step_s)
        resets: FloatArray | tuple[()] = rng.uniform(0.0, draw.lasts_s, 3) if with_resets else ()
        series = scraped(draw, rng, every_s, exporter_s, resets)
        owners = segments(draw.holdings(), series.time_s[0], series.time_s[-1])
        lag_s = typical([each.lag_s for each in lags(series, owners, POWER)])
        assert lag_s is not None
        on_time = GpuSeries(series.time_s - lag_s, *(getattr(series, n) for n in GpuSeries.__slots__[1:]))
        shares = by_job(attribute(on_time, owners, POWER, lag_s=every_s / 3))
        for number, (start, end) in enumerate(draw.jobs):
            if start < on_time.time_s[0] or end > on_time.time_s[-1]:
                continue
            truth = draw.energy_j(start, end)
            energy, low, high = shares[str(number)]
            jobs += 1
            inside += low <= truth <= high
            if end - start >= 10 * step_s:
                errors.append(abs(energy - truth) / truth)
    assert len(errors) > 100
    assert np.mean(errors) < 0.003
    assert np.mean(np.array(errors) <= 0.02) >= 0.98
    assert inside / jobs >= 0.9


def test_power_is_integrated_where_the_counter_begins_anew() -> None:
    series = series_of(
        np.array([0.0, 10.0, 20.0, 30.0]),
        energy_j=np.array([5000.0, 8000.0, 1500.0, 4500.0]),
        power_w=np.full(4, 300.0),
    )
    between = intervals(series, *POWER)
    assert between.energy_j.tolist() == [3000, 3000, 3000]
    assert between.counted.tolist() == [True, False, True]
    assert between.low_j[1] < 3000 < between.high_j[1]
    assert between.low_j[1] >= 1500  # the counter has already shown that much since


def test_a_counter_that_rises_faster_than_the_gpu_can_draw_is_not_believed() -> None:
    series = series_of(np.array([0.0, 10.0]), energy_j=np.array([0.0, 1e9]), power_w=np.array([200.0, 300.0]))
    between = intervals(series, *POWER)
    assert between.energy_j[0] == pytest.approx(2500)
    assert between.high_j[0] <= 7000


def test_without_counter_and_power_the_bounds_are_all_that_the_gpu_can_draw() -> None:
    between = intervals(series_of(np.array([0.0, 10.0])), 50.0, 500.0)
    assert (between.low_j[0], between.high_j[0]) == (0.0, 5000.0)


def test_values_that_an_exporter_only_repeats_are_dropped() -> None:
    series = counted((0, 100), (15, 100), (30, 900), (45, 900))
    assert without_repeats(series).time_s.tolist() == [0, 30]


def test_readings_are_put_in_order_and_the_last_of_a_moment_counts() -> None:
    found = joined(counted((10, 5), (0, 1)), counted((10, 7), (20, 9)))
    assert (found.time_s.tolist(), found.energy_j.tolist()) == ([0, 10, 20], [1, 7, 9])


def test_the_lag_is_not_told_by_few_ends() -> None:
    assert typical([3.0] * 4) is None
    assert typical([3.0, 4.0, 5.0, 400.0, -7.0]) == 4.0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_joule_has_one_owner_and_lies_in_its_bounds(data: st.DataObject) -> None:
    """Whatever the readings and the jobs: nothing is lost, nothing is counted twice, no part is negative."""
    n = data.draw(st.integers(2, 8))
    time_s = np.cumsum(data.draw(st.lists(st.floats(1, 60), min_size=n, max_size=n)))
    counter = np.cumsum(data.draw(st.lists(st.floats(-500, 20_000), min_size=n, max_size=n)))
    power = np.array(data.draw(st.lists(st.one_of(st.floats(0, 700), st.just(np.nan)), min_size=n, max_size=n)))
    series = series_of(time_s, energy_j=counter, power_w=power)
    ends = sorted(data.draw(st.lists(st.floats(0, 500), min_size=2, max_size=10)))
    held = [Holding(str(i), GPU, a, b) for i, (a, b) in enumerate(itertools.pairwise(ends)) if i % 3]
    owners = segments(held, series.time_s[0], series.time_s[-1])
    shares = attribute(series, owners, POWER, lag_s=data.draw(st.sampled_from([0.0, 20.0])))
    total = intervals(series, *POWER).energy_j.sum()
    assert sum(share.energy_j for share in shares) == pytest.approx(total, rel=1e-9, abs=1e-6)
    for share in shares:
        assert -1e-9 <= share.low_j <= share.energy_j + 1e-6
        assert share.energy_j <= share.high_j + 1e-6


def test_the_power_range_bounds_a_job_of_no_reading_between_others() -> None:
    draw = TrueDraw(np.repeat([300.0, 500.0, 200.0], [150, 40, 310]), [(0, 15), (15, 19), (19, 50)])
    series = scraped(draw, np.random.default_rng(0), 10.0)
    found = by_job(attribute(series, segments(draw.holdings(), series.time_s[0], series.time_s[-1]), POWER))
    assert found["1"][1] <= draw.energy_j(15, 19) <= found["1"][2]
