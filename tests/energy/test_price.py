from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.energy.price import find_price

SCALE = 1 / 250


def falling(price: float) -> float:
    """From 1000 down to 400, half-way where the price is the natural scale."""
    return 400 + 600 / (1 + price / SCALE)


def test_a_target_that_is_met_without_a_price_costs_one_run() -> None:
    found = find_price(falling, 1200, scale=SCALE)
    assert (found.energy_price, found.energy, found.met) == (0.0, 1000, True)
    assert len(found.tried) == 1


def test_finds_the_price_of_a_smooth_curve() -> None:
    found = find_price(falling, 700, scale=SCALE)
    assert found.met
    assert 0 <= found.off <= 0.005
    # 700 is half-way: the exact answer is the scale itself
    assert found.energy_price == pytest.approx(SCALE, rel=0.05)
    assert len(found.tried) <= 8


def test_says_the_least_that_can_be_had() -> None:
    found = find_price(falling, 300, scale=SCALE)
    assert not found.met
    assert found.off < 0
    assert found.energy == min(energy for _, energy in found.tried)
    assert 400 < found.energy < 404


def test_takes_the_best_of_a_staircase() -> None:
    def stairs(price: float) -> float:
        return 1000.0 if price < 0.01 else 800.0 if price < 0.1 else 500.0

    found = find_price(stairs, 790, scale=SCALE, most_runs=20)
    assert found.met
    assert found.energy == 500
    assert 0.1 <= found.energy_price < 0.11
    assert len(found.tried) <= 20


def test_a_price_that_changes_nothing_is_not_met() -> None:
    found = find_price(lambda price: 1000.0, 900, scale=SCALE)
    assert not found.met
    assert found.energy_price == 0.0


@settings(deadline=None, max_examples=60)
@given(
    target=st.floats(420, 990),
    noise=st.floats(0, 0.03),
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(1e-5, 1e2),
)
def test_noise_never_makes_it_lie(target: float, noise: float, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    answers: dict[float, float] = {}

    def noisy(price: float) -> float:
        assert price not in answers, "asked twice"
        assert price >= 0
        assert math.isfinite(price)
        answers[price] = (400 + 600 / (1 + price / scale)) * float(np.exp(noise * rng.standard_normal()))
        return answers[price]

    found = find_price(noisy, target, scale=scale, most_runs=12)
    assert len(answers) <= 12
    assert found.tried == tuple(answers.items())
    assert found.energy == answers[found.energy_price]
    assert found.met == any(energy <= target for energy in answers.values())
    if found.met:
        assert found.energy == max(energy for energy in answers.values() if energy <= target)
    if noise == 0 and found.energy_price > 0 and target > 450:
        assert 0 <= found.off < 0.02
