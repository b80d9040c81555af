"""Intervals learnt from what came true, and when a canary is taken back."""

from __future__ import annotations

import math

import numpy as np
import pytest

from powerflow.scheduler.calibration import KEPT, Calibration
from powerflow.scheduler.canary import SAMPLE, Watch


def test_by_hand() -> None:
    calibration = Calibration()
    for actual in (8.0, 9.0, 10.0, 10.0, 10.0, 10.0, 11.0, 12.0):
        calibration.add(10.0, actual)
    assert calibration.interval(100.0) is None, "of nine places a tenth at each end is none"
    calibration.add(10.0, 20.0)
    assert calibration.interval(100.0) == pytest.approx((80.0, 200.0)), "the lowest and the highest of nine"
    assert calibration.interval(100.0, 0.5) == pytest.approx((90.0, 120.0))


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


def test_a_canary_like_those_before_stays() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(0.1, 0.2, 300).tolist()
    back = 0
    for _ in range(200):
        watch = Watch()
        back += any(watch.see("time", error, before) for error in rng.normal(0.1, 0.2, 100).tolist())
    assert back <= 2, "each sample misses by chance once in a hundred; twice running once in ten thousand"


def test_a_canary_that_is_worse_goes_back_after_two_samples() -> None:
    before = [0.01 * i for i in range(-20, 21)]
    watch = Watch()
    said = [watch.see("energy", 0.5, before) for _ in range(2 * SAMPLE)]
    assert said[:-1] == [""] * (2 * SAMPLE - 1)
    assert said[-1] == "energy of jobs missed its prediction twice running: +65%, where +0% is usual"
    assert watch.see("time", 0.0, before) == ""


def test_one_bad_sample_is_forgiven() -> None:
    before = [0.01 * i for i in range(-20, 21)]
    watch = Watch()
    for error in (0.5, 0.0, 0.5, 0.0):
        assert [watch.see("time", error, before) for _ in range(SAMPLE)] == [""] * SAMPLE


def test_without_outcomes_before_only_gross_errors_count() -> None:
    watch = Watch()
    assert not any(watch.see("time", 0.2, []) for _ in range(4 * SAMPLE))
    assert any(watch.see("time", 0.5, []) for _ in range(2 * SAMPLE))
