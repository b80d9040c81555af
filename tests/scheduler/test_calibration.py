"""Intervals learnt from what came true, and when a canary is taken back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerflow.scheduler.calibration import KEPT, Calibration
from powerflow.scheduler.canary import SAMPLE, CanaryWatch, Usual, usually


def test_by_hand() -> None:
    calibration = Calibration()
    for actual in (8.0, 9.0, 10.0, 10.0, 10.0, 10.0, 11.0, 12.0):
        calibration.add(10.0, actual)
    assert calibration.interval(100.0) is None, "of nine places a tenth at each end is none"
    calibration.add(10.0, 20.0)
    assert calibration.interval(100.0) == pytest.approx((80.0, 200.0)), "the lowest and the highest of nine"
    assert calibration.interval(100.0, 0.5) == pytest.approx((90.0, 120.0))


@given(
    errors=st.lists(st.floats(-20.0, 20.0), max_size=60),
    predicted=st.floats(1e-6, 1e9),
    level=st.floats(0.01, 0.99),
)
def test_what_is_expected_lies_inside_its_own_interval(errors: list[float], predicted: float, level: float) -> None:
    calibration = Calibration(errors)
    expected, interval = calibration.expected(predicted), calibration.interval(predicted, level)
    if calibration.interval(predicted) is None:
        assert expected == predicted
    elif interval is not None:
        assert interval[0] <= expected * (1 + 1e-12)
        assert expected <= interval[1] * (1 + 1e-12)


def test_a_prediction_is_corrected_by_the_median_of_earlier_errors() -> None:
    calibration = Calibration([math.log(2.0)] * 8)
    assert calibration.expected(10.0) == 10.0, "too few outcomes"
    calibration.add(1.0, 8.0)
    assert calibration.expected(10.0) == pytest.approx(20.0)


def test_what_says_nothing_is_left_out_and_old_ones_are_forgotten() -> None:
    calibration = Calibration()
    for predicted, actual in ((0.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.inf)):
        calibration.add(predicted, actual)
    assert calibration.residuals == ()
    for _ in range(KEPT):
        calibration.add(1.0, 5.0)
    for _ in range(KEPT):
        calibration.add(1.0, 2.0)
    assert calibration.interval(1.0) == pytest.approx((2.0, 2.0))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", ["normal", "heavy", "two kinds"])
def test_80_percent_of_what_comes_is_held(noise: str, seed: int) -> None:
    """Whatever errors are like: models that are off by class, outliers, a bias."""
    rng = np.random.default_rng(seed)
    errors = {
        "normal": rng.normal(0.1, 0.2, 3000),
        "heavy": 0.1 * rng.standard_t(2, 3000) - 0.3,
        "two kinds": rng.choice([-0.5, 0.4], 3000) + rng.normal(0.0, 0.05, 3000),
    }[noise]
    calibration, held = Calibration(), []
    for error in errors.tolist():
        interval = calibration.interval(10.0)
        if interval is not None:
            held.append(interval[0] <= 10.0 * math.exp(error) <= interval[1])
        calibration.add(10.0, 10.0 * math.exp(error))
    assert 0.75 <= np.mean(held) <= 0.85


def goes_back(watch: CanaryWatch, what: str, errors: Sequence[float], usual: Usual | None) -> int | None:
    """After how many jobs it is to be taken back; None: never."""
    for count, error in enumerate(errors, 1):
        watch.see(what, error, usual)
        if watch.verdict:
            return count
    return None


def test_a_canary_like_those_before_stays() -> None:
    rng = np.random.default_rng(0)
    usual = usually(rng.normal(0.1, 0.2, 300).tolist())
    back = [goes_back(CanaryWatch(), "time", rng.normal(0.1, 0.2, 100).tolist(), usual) for _ in range(200)]
    # each sample misses by chance once in a hundred; twice running once in ten thousand
    assert sum(count is not None for count in back) <= 2


def test_a_canary_stays_however_long_it_runs() -> None:
    rng = np.random.default_rng(1)
    usual = usually(rng.normal(0.4, 0.05, 300).tolist())
    assert goes_back(CanaryWatch(), "time", rng.normal(0.4, 0.05, 2 * KEPT).tolist(), usual) is None


def test_a_canary_that_is_worse_goes_back_after_two_samples() -> None:
    usual = usually([0.01 * i for i in range(-20, 21)])
    watch = CanaryWatch()
    assert goes_back(watch, "energy", [0.5] * 20, usual) == 2 * SAMPLE
    assert watch.verdict == "energy of jobs missed its prediction twice in a row: +65%, where +0% is usual"


def test_one_bad_sample_is_forgiven() -> None:
    usual = usually([0.01 * i for i in range(-20, 21)])
    errors = [error for error in (0.5, 0.0, 0.5, 0.0) for _ in range(SAMPLE)]
    assert goes_back(CanaryWatch(), "time", errors, usual) is None


def test_without_outcomes_before_only_gross_errors_count() -> None:
    assert goes_back(CanaryWatch(), "time", [0.2] * 20, None) is None
    assert goes_back(CanaryWatch(), "time", [0.5] * 20, usually([0.1] * 5)) == 2 * SAMPLE
