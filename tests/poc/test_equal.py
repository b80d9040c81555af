"""What is saved where the other quantity is as at the site, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from powerflow.simulate.poc.equal import LINE_ERROR, SavingCurve, energy_at_equal_time, further, time_at_equal_energy


def curve(energy: list[list[float]], time: list[list[float]]) -> SavingCurve:
    """Return results of draws, as multiples of the site's."""
    draws = len(energy)
    return SavingCurve(np.ones(draws), np.array(energy), np.ones(draws), np.array(time))


#: The fast way needs 20 % more energy and half the time; the most sparing one 60 % of the energy and 50 % more time.
TWO = curve([[1.2, 0.8, 0.6]] * 2, [[0.5, 0.7, 1.5]] * 2)


def test_between_two_ways_a_straight_line() -> None:
    # time is equal at 3/8 of the line from the second way to the third: 20 % + 3/8 · 20 %
    energy = energy_at_equal_time(TWO, relative_error=0.0, time_error=0.0)
    assert energy.share.mean == pytest.approx(0.275)
    assert energy.reached
    # energy is equal in the middle between the first way and the second: between 50 % and 30 %
    time = time_at_equal_energy(TWO, time_error=0.0)
    assert time.share.mean == pytest.approx(0.4)
    assert time.reached
    assert energy.share.high - energy.share.mean == pytest.approx(LINE_ERROR), "both draws are the same"


def test_errors_that_all_draws_share_widen_the_interval() -> None:
    energy = energy_at_equal_time(TWO, relative_error=0.1, time_error=0.08)
    # the line moves by 20 % of energy for 80 % of time: 0.08 of time is 0.02 of energy
    assert energy.share.high - energy.share.mean == pytest.approx(math.hypot(0.0275, 0.02, LINE_ERROR))
    time = time_at_equal_energy(TWO, time_error=0.08)
    assert time.share.mean - time.share.low == pytest.approx(math.hypot(0.08, LINE_ERROR))


def test_beyond_the_last_way_nothing_is_claimed() -> None:
    better = curve([[0.9, 0.7]] * 2, [[0.5, 0.8]] * 2)
    energy = energy_at_equal_time(better, relative_error=0.0, time_error=0.0)
    assert energy.share.mean == pytest.approx(0.3)
    assert not energy.reached
    time = time_at_equal_energy(better, time_error=0.0)
    assert time.share.mean == pytest.approx(0.5)
    assert not time.reached
    worse = curve([[1.1, 1.05]] * 2, [[1.1, 1.2]] * 2)
    assert math.isnan(energy_at_equal_time(worse, relative_error=0.0, time_error=0.0).share.mean)
    assert math.isnan(time_at_equal_energy(worse, time_error=0.0).share.mean)


def test_the_interval_is_one_for_a_further_draw() -> None:
    """Of a mean, it is Student's prediction interval."""
    values = np.array([1.0, 2.0, 4.0])
    without = [float(np.delete(values, i).mean()) for i in range(3)]
    t = 4.302652729749464  # 97.5 %, two degrees of freedom
    assert further(float(values.mean()), without) == pytest.approx(t * values.std(ddof=1) * math.sqrt(4 / 3))
