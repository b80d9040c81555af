from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest

from powerflow.simulate.comparison import Metrics
from powerflow.simulate.metrics import estimate, metrics
from powerflow.simulate.result import JobResults, Segments, SimulationResult, Timeline

NONE = np.empty(0)
NO_COUNT = np.empty(0, np.int64)


def three_jobs() -> SimulationResult:
    """Three jobs by hand: submitted at 0, 10, 20; started at 0, 30, 60; finished at 30, 60, 120."""
    return SimulationResult(
        policy="by hand",
        seed=0,
        energy_price=0.0,
        jobs=JobResults(
            ids=("a", "b", "c"),
            cost_class=("x/1",) * 3,
            submit_s=np.array([0.0, 10.0, 20.0]),
            start_s=np.array([0.0, 30.0, 60.0]),
            finish_s=np.array([30.0, 60.0, 120.0]),
            requested=np.array([1, 1, 2]),
            gpu_s=np.array([1800.0, 1800.0, 3600.0]),
            energy_j=np.array([100.0, 200.0, 300.0]),
            rescales=np.array([0, 1, 2]),
            weight=np.array([1.0, 1.0, 2.0]),
            alone_s=np.array([30.0, 25.0, 50.0]),
            failed=np.zeros(3, bool),
        ),
        timeline=Timeline(NONE, NONE, NO_COUNT, NO_COUNT, NO_COUNT, NONE, NONE),
        segments=Segments(NO_COUNT, NONE, NONE, NO_COUNT, NONE, NONE),
        end_s=120.0,
        metered_j=1000.0,
        idle_j=400.0,
        tail_w=5.0,
        decisions=6,
        cpu_s=0.0,
    )


def test_numbers_by_hand() -> None:
    found = metrics(three_jobs(), 200.0)
    # completion times 30, 50, 100; waits 0, 20, 40; slowdowns 1, 2, 2
    assert found.jct_mean_s == pytest.approx(60.0)
    assert found.jct_weighted_s == pytest.approx((30 + 50 + 2 * 100) / 4)
    assert found.jct_p50_s == pytest.approx(50.0)
    assert found.jct_p99_s == pytest.approx(50 + 0.98 * 50)
    assert found.wait_mean_s == pytest.approx(20.0)
    assert found.slowdown_mean == pytest.approx(5 / 3)
    assert found.makespan_s == pytest.approx(120.0)
    assert found.gpu_hours == pytest.approx(2.0)
    assert found.rescales_per_job == pytest.approx(1.0)
    assert found.energy_j == pytest.approx(1000 + 5 * 80)  # the empty cluster draws 5 W for the last 80 s
    assert all(type(getattr(found, field.name)) is float for field in fields(Metrics))


def test_interval_is_students() -> None:
    found = estimate([1.0, 2.0, 3.0])
    # t(0.975, 2) = 4.302653, standard deviation 1
    assert found.mean == pytest.approx(2.0)
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_one_seed_has_no_interval() -> None:
    found = estimate([7.0])
    assert found.mean == 7.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)
