"""Tables: which batch and how many passes on each count, and how measured points win."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.cost.catalogue import axes_for, families, family, family_model
from powerflow.cost.model import JobModel, step_time
from powerflow.cost.observation import Observation
from powerflow.cost.table import Axes
from powerflow.cost.tabulate import split_batch, tabulate
from powerflow.errors import InputError
from tests.cost.jobs import JOB, observed

AXES = Axes("V100", 4, np.array([1, 2, 4, 8, 16]), np.array([765.0, 1147.5, 1530.0]))


def test_batches_and_passes_by_hand() -> None:
    table = tabulate(JOB, AXES, 200)  # 64 samples fit
    np.testing.assert_array_equal(table.accumulation, [4, 2, 1, 1, 1])
    np.testing.assert_array_equal(table.local_batch, [50, 50, 50, 25, 13])
    # two GPUs: two passes of 50, the second overlapped (γ = 1: added) with 0.1 s inside the node
    assert table.step_time_s[1, -1] == pytest.approx(2 * 0.6 + 0.1)
    assert table.spread_step_time_s[1, -1] == pytest.approx(2 * 0.6 + 0.3)
    # eight GPUs cannot stand on one node of four: packed or not, they cross
    assert table.step_time_s[3, -1] == table.spread_step_time_s[3, -1] == pytest.approx(0.35 + 0.3 + 6 * 0.05)
    assert table.energy_j()[1, -1] == pytest.approx(table.power_w[1, -1] * 1.3)


def test_more_gpus_than_samples_cannot_run() -> None:
    table = tabulate(JOB, AXES, 5)
    np.testing.assert_array_equal(np.isinf(table.step_time_s[:, 0]), [False, False, False, True, True])
    np.testing.assert_array_equal(np.isinf(table.spread_step_time_s), np.isinf(table.step_time_s))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(families()), st.integers(1, 8192), st.integers(1, 64), st.integers(1, 1024))
def test_fewest_passes_are_the_fastest_that_fit(name: str, batch: int, gpus: int, memory: int) -> None:
    model = family_model(name, "V100")
    passes, local = (int(v[0]) for v in split_batch(batch, np.array([gpus]), memory))
    assert local <= memory
    assert passes * local * gpus >= batch
    others = np.arange(passes, passes + 20)
    per_gpu = batch / gpus  # compared at the exact share, where rounding up does not blur
    times = step_time(model.throughput, gpus, per_gpu / others, others, 1530, gpus > 4)
    assert np.all(np.diff(times) >= -1e-12)


def measured(gpus: int, seconds: float, nodes: int = 1, **known: float) -> Observation:
    passes, local = split_batch(200, np.array([gpus]), 64)
    power, clock = known.get("power_w"), known.get("clock_mhz")
    return Observation("by-hand", "V100", gpus, int(local[0]), seconds, nodes, int(passes[0]), clock, power)


def test_measured_points_win_and_correct_their_row() -> None:
    plain = tabulate(JOB, AXES, 200)
    low, high = plain.step_time_s[1, 0], plain.step_time_s[1, -1]
    table = tabulate(JOB, AXES, 200, [measured(2, 2 * high), measured(2, low, clock_mhz=765.0)])
    assert table.step_time_s[1, -1] == 2 * high
    assert table.step_time_s[1, 0] == low
    assert table.step_time_s[1, 1] == pytest.approx(plain.step_time_s[1, 1] * np.sqrt(2))  # halfway between, in log
    for row in (0, 2, 3, 4):
        np.testing.assert_array_equal(table.step_time_s[row], plain.step_time_s[row])
    np.testing.assert_array_equal(table.spread_step_time_s[1], plain.spread_step_time_s[1])
    np.testing.assert_array_equal(table.power_w, plain.power_w)


def test_one_measured_clock_moves_the_whole_row() -> None:
    plain = tabulate(JOB, AXES, 200)
    table = tabulate(JOB, AXES, 200, [measured(1, 3 * plain.step_time_s[0, 1], clock_mhz=1147.5, power_w=100.0)])
    np.testing.assert_allclose(table.step_time_s[0], 3 * plain.step_time_s[0])
    np.testing.assert_allclose(table.spread_step_time_s[0], 3 * plain.step_time_s[0])  # one GPU cannot be spread
    np.testing.assert_allclose(table.power_w[0], plain.power_w[0] * 100 / plain.power_w[0, 1])


def test_spread_points_go_to_the_spread_table_and_repeats_are_averaged() -> None:
    plain = tabulate(JOB, AXES, 200)
    table = tabulate(JOB, AXES, 200, [measured(4, 1.0, nodes=2), measured(4, 4.0, nodes=3), measured(4, 0.5)])
    assert table.spread_step_time_s[2, -1] == pytest.approx(2.0)
    assert table.step_time_s[2, -1] == 0.5
    np.testing.assert_array_equal(table.power_w, plain.power_w)


def test_points_of_other_configurations_are_passed_over() -> None:
    plain = tabulate(JOB, AXES, 200)
    strangers = [
        replace(measured(2, 9.0), local_batch=49),
        replace(measured(2, 9.0), accumulation=1),
        replace(measured(2, 9.0), gpus=3),
        replace(measured(2, 9.0), gpu_type="T4"),
        measured(8, 9.0),  # on one node: not a node of these
    ]
    table = tabulate(JOB, AXES, 200, strangers)
    np.testing.assert_array_equal(table.step_time_s, plain.step_time_s)
    np.testing.assert_array_equal(table.spread_step_time_s, plain.spread_step_time_s)


def test_exact_points_change_nothing() -> None:
    points = observed(JOB, [(1, 1, 50, 1147.5), (2, 1, 32, 1530.0)])
    np.testing.assert_allclose(tabulate(JOB, AXES, 50, points).step_time_s, tabulate(JOB, AXES, 50).step_time_s)


@pytest.mark.parametrize("batch", [0, -4])
def test_an_impossible_batch_is_refused(batch: int) -> None:
    with pytest.raises(InputError, match="global batch"):
        tabulate(JOB, AXES, batch)


def test_a_model_of_another_gpu_type_is_refused() -> None:
    with pytest.raises(InputError, match="model is for V100"):
        tabulate(JOB, axes_for("T4", 4, [1, 2]), 64)


@pytest.mark.parametrize("name", families())
@pytest.mark.parametrize("card", ["T4", "A100"])
def test_every_family_gives_a_table_that_makes_sense(name: str, card: str) -> None:
    kind, axes = family(name), axes_for(card, 8, [1, 2, 4, 8, 16])
    model: JobModel = family_model(name, card)
    table = tabulate(model, axes, kind.global_batches[0])
    assert np.all(np.isfinite(table.step_time_s))
    assert np.all(table.step_time_s > 0)
    assert np.all(np.diff(table.step_time_s, axis=1) <= 0)  # a higher clock is never slower
    assert np.all(np.diff(table.power_w, axis=1) >= 0)
    assert np.all(table.spread_step_time_s >= table.step_time_s * (1 - 1e-12))
    assert np.all(table.local_batch <= model.local_batch_max)


def test_two_nodes_are_slower_where_the_family_says_so_and_spreading_is_never_faster() -> None:
    axes = axes_for("T4", 4, [1, 2, 4, 8, 16])
    table = tabulate(family_model("yolov3", "T4"), axes, 64)
    # ElasticFlow's T4 table: 0.611 iterations a second on 8 GPUs at batch 64, 0.851 on 16
    assert table.step_time_s[3, -1] == pytest.approx(1 / 0.611, rel=0.1)
    assert table.step_time_s[4, -1] == pytest.approx(1 / 0.851, rel=0.1)
    assert (table.spread_step_time_s >= table.step_time_s).all()


def test_a_power_limit_is_not_a_clock() -> None:
    model = replace(JOB, limit_w=300.0)
    free = Observation(JOB.name, "V100", 1, 50, 0.5, accumulation=4, power_w=150.0, power_limit_w=300.0)
    lower = replace(free, step_time_s=0.9, power_w=98.0, power_limit_w=100.0)
    cell = (0, -1)  # one GPU at the maximum clock, which neither point names
    table = tabulate(model, AXES, 200, [free, lower])
    assert (table.step_time_s[cell], table.power_w[cell]) == (0.5, 150.0)
    only_lower = tabulate(model, AXES, 200, [lower])
    np.testing.assert_array_equal(only_lower.step_time_s, tabulate(model, AXES, 200).step_time_s)
    far_below = replace(lower, power_w=60.0)  # 60 of 100 W: its clock was its own
    assert tabulate(model, AXES, 200, [far_below]).step_time_s[cell] == 0.9
    unknown = replace(lower, power_w=None)
    assert tabulate(model, AXES, 200, [unknown]).step_time_s[cell] != 0.9
