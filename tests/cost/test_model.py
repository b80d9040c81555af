"""The formulas, worked by hand, and what must hold of them everywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.cost import model as m
from powerflow.cost.model import PowerModel, ThroughputModel
from tests.cost.jobs import BY_HAND, POWER

HALF = 765.0

throughputs = st.builds(
    ThroughputModel,
    alpha_s=st.floats(1e-6, 10),
    beta_s=st.floats(1e-8, 1),
    corner=st.floats(1, 8),
    kappa=st.floats(0, 1),
    clock_max_mhz=st.just(1530.0),
    node_alpha_s=st.floats(0, 10),
    node_beta_s=st.floats(0, 1),
    cross_alpha_s=st.floats(0, 10),
    cross_beta_s=st.floats(0, 1),
    gamma=st.floats(1, 10),
    crowding=st.floats(0, 1),
)


def test_a_pass_by_hand() -> None:
    assert m.pass_time(BY_HAND, 10) == pytest.approx(0.1 + 0.01 * 10)
    assert m.pass_time(replace(BY_HAND, corner=2.0), 10) == pytest.approx(np.hypot(0.1, 0.1))
    assert m.phi(BY_HAND, HALF) == pytest.approx(1.5)
    assert m.compute_time(BY_HAND, 1, 10, HALF) == pytest.approx(0.3)
    crowded = replace(BY_HAND, crowding=0.1)
    np.testing.assert_allclose(m.compute_time(crowded, [1, 2, 8], 10, HALF), [0.3, 0.33, 0.33])


def test_synchronising_by_hand() -> None:
    np.testing.assert_allclose(m.sync_time(BY_HAND, [1, 2, 4, 4], [False, False, False, True]), [0, 0.1, 0.14, 0.4])
    assert m.sync_time(BY_HAND, 1, True) == 0


def test_a_step_by_hand() -> None:
    assert m.step_time(BY_HAND, 4, 10, 1, HALF, False) == pytest.approx(0.3 + 0.14)
    assert m.step_time(replace(BY_HAND, gamma=2.0), 4, 10, 1, HALF, False) == pytest.approx(np.hypot(0.3, 0.14))
    assert m.step_time(BY_HAND, 4, 10, 3, HALF, False) == pytest.approx(2 * 0.3 + 0.3 + 0.14)


def test_power_by_hand() -> None:
    assert m.clock_power(POWER, 0.5) == pytest.approx(0.3 + 0.1 + 0.0625)
    # one GPU: busy half of its pass, computing all the time
    assert m.gpu_power(BY_HAND, POWER, 1, 10, 1, HALF, False) == pytest.approx(36 + 200 * 0.5 * 0.4625)
    # four GPUs at the maximum clock: computing 0.2 s of 0.34 s, a quarter of the draw in the rest
    share = 0.2 / 0.34
    watts = 36 + 200 * 0.5 * (share + 0.25 * (1 - share))
    assert m.gpu_power(BY_HAND, POWER, 4, 10, 1, 1530, False) == pytest.approx(watts)
    energy_j = 4 * m.gpu_power(BY_HAND, POWER, 4, 10, 1, 1530, False) * m.step_time(BY_HAND, 4, 10, 1, 1530, False)
    assert energy_j == pytest.approx(4 * watts * 0.34)


@settings(max_examples=60, deadline=None)
@given(throughputs, st.integers(2, 64), st.integers(1, 512), st.integers(1, 8), st.floats(400, 1530), st.booleans())
def test_overlap_lies_between_hiding_all_and_hiding_nothing(
    model: ThroughputModel, gpus: int, batch: int, passes: int, clock: float, crosses: bool
) -> None:
    computing = m.compute_time(model, gpus, batch, clock)
    sync = m.sync_time(model, gpus, crosses)
    step = m.step_time(model, gpus, batch, passes, clock, crosses)
    assert passes * computing <= step * (1 + 1e-12)
    assert (passes - 1) * computing + max(computing, sync) <= step * (1 + 1e-12)
    assert step <= (passes * computing + sync) * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(throughputs, st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 2), st.floats(0, 1))
def test_power_stays_between_idle_and_active_and_falls_with_the_clock(
    model: ThroughputModel, linear: float, cubic: float, exponent: float, sync: float
) -> None:
    power = PowerModel(40.0, 240.0, exponent, linear, cubic, sync)
    clocks = np.linspace(700, 1530, 9)
    watts = m.gpu_power(model, power, 1, 32, 1, clocks, False)
    assert np.all(watts >= 40)
    assert np.all(watts <= 240 * (1 + 1e-12))
    assert np.all(np.diff(watts) >= -1e-9)
    h = m.clock_power(power, clocks / 1530)
    assert np.all(np.diff(h, 2) >= -1e-12)
    assert h[-1] == pytest.approx(1.0)


def test_two_nodes_share_one_link() -> None:
    model = replace(BY_HAND, two_node_factor=1.5)
    more_nodes = 0.3 + 0.05 * 2  # four GPUs: α_s, and β_s for each beyond two
    assert m.sync_time(model, 4, 1) == pytest.approx(1.5 * more_nodes)
    assert m.sync_time(model, 4, [2, 3]) == pytest.approx([more_nodes] * 2)
    assert m.sync_time(model, 2, 1) == pytest.approx(0.3)  # one GPU on each: nothing to share
    assert m.sync_time(model, 4, 0) == pytest.approx(0.1 + 0.02 * 2)
    assert m.sync_time(BY_HAND, 4, [1, 2]) == pytest.approx([more_nodes] * 2)  # a family without it


def test_extremes_do_not_overflow() -> None:
    sharp = replace(BY_HAND, corner=8.0, gamma=10.0, alpha_s=1e-9, cross_alpha_s=1e4)
    step = m.step_time(sharp, [1, 2, 64], [1, 10**6, 1], 1, 1530, [False, True, True])
    assert np.all(np.isfinite(step))
    assert np.all(step > 0)
