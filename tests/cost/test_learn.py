"""A belief that is sharpened while jobs run."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from powerflow.cost.catalogue import axes_for
from powerflow.cost.clock_choice import RESERVE
from powerflow.cost.learn import NOISE, NOISE_WEIGHT, Learner
from powerflow.cost.model import JobModel
from powerflow.cost.observation import Observation
from powerflow.cost.table import CostTable
from powerflow.cost.tabulate import tabulate
from tests.cost.jobs import JOB, TRUTH, observed

AXES = axes_for("V100", 4, [1, 2, 4, 8], clocks=5)
BATCH = 64
NAME = "truth"


def learner(prior: JobModel = JOB) -> Learner:
    """One class on V100, believed to be like the model worked by hand."""
    made = Learner({"V100": AXES})
    made.expect(NAME, "V100", prior, BATCH)
    return made


def point(gpus: int, clock: int, *, noise: float = 0.0, seed: int = 0) -> Observation:
    """What the truth shows on so many GPUs at the clock of this index."""
    nodes = -(-gpus // 4)
    return observed(TRUTH, [(gpus, nodes, BATCH // gpus, float(AXES.clocks_mhz[clock]))], noise, seed)[0]


def off(table: CostTable) -> float:
    """Mean absolute log error of step times."""
    truth = tabulate(TRUTH, AXES, BATCH)
    return float(np.abs(np.log(table.step_time_s / truth.step_time_s)).mean())


def test_before_the_first_observation_the_prior_is_believed() -> None:
    table = learner().table(NAME, "V100")
    expected = tabulate(JOB, AXES, BATCH)
    assert np.array_equal(table.step_time_s, expected.step_time_s)
    assert np.array_equal(table.power_w, expected.power_w)


def test_what_was_measured_is_believed_as_measured() -> None:
    knows = learner()
    seen = [point(1, clock) for clock in (0, 2, 4)]
    assert knows.observe(NAME, "V100", seen)
    table = knows.table(NAME, "V100")
    assert table.step_time_s[0, [0, 2, 4]] == pytest.approx([o.step_time_s for o in seen])
    assert table.power_w[0, [0, 2, 4]] == pytest.approx([o.power_w for o in seen])


def test_each_new_count_brings_the_belief_closer() -> None:
    knows = learner()
    errors = [off(knows.table(NAME, "V100"))]
    for gpus in (1, 2, 4, 8):
        knows.observe(NAME, "V100", [point(gpus, clock) for clock in (0, 2, 4)])
        errors.append(off(knows.table(NAME, "V100")))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.3
    assert errors[-1] < 0.01


def test_repeats_are_averaged_geometrically_and_refit_at_powers_of_two() -> None:
    knows = learner()
    first = point(1, 4)
    times = [1.0, 4.0, 2.0, 2.0, 2.0]
    news = [knows.observe(NAME, "V100", [dataclasses.replace(first, step_time_s=each)]) for each in times]
    assert news == [True, True, False, True, False]
    # (1·4·2·2·2)^(1/5) = 2
    assert knows.table(NAME, "V100").step_time_s[0, 4] == pytest.approx(2.0)


def test_many_noisy_repeats_are_as_good_as_one_exact_one() -> None:
    knows = learner()
    knows.observe(NAME, "V100", [point(1, 4, noise=0.1, seed=seed) for seed in range(256)])
    exact = point(1, 4).step_time_s
    assert knows.table(NAME, "V100").step_time_s[0, 4] == pytest.approx(exact, rel=0.025)  # 4 sd: 0.4/16


def test_a_mean_of_powers_is_over_those_that_were_measured() -> None:
    knows = learner()
    for power_w in (None, 100.0, 400.0, None):  # believed again after the 1st, 2nd and 4th
        knows.observe(NAME, "V100", [dataclasses.replace(point(1, 4), power_w=power_w)])
    assert knows.table(NAME, "V100").power_w[0, 4] == pytest.approx(200.0)


def test_the_order_of_observations_does_not_matter_to_what_is_believed_of_them() -> None:
    seen = [point(gpus, clock) for gpus in (1, 2) for clock in (0, 4)]
    tables = []
    for order in (seen, seen[::-1]):
        knows = learner()
        knows.observe(NAME, "V100", order)
        tables.append(knows.table(NAME, "V100"))
    assert tables[0].step_time_s == pytest.approx(tables[1].step_time_s, rel=1e-6)


def test_classes_do_not_teach_each_other() -> None:
    knows = learner()
    knows.expect("other", "V100", JOB, BATCH)
    knows.observe(NAME, "V100", [point(1, 4)])
    assert np.array_equal(knows.table("other", "V100").step_time_s, tabulate(JOB, AXES, BATCH).step_time_s)


def test_a_class_nobody_expected() -> None:
    with pytest.raises(KeyError):
        learner().observe("surprise", "V100", [point(1, 4)])
    with pytest.raises(KeyError):
        learner().table(NAME, "A100")


def test_steps_are_certain_only_where_they_were_measured() -> None:
    knows = learner()
    before = knows.table(NAME, "V100").margin
    assert before is not None
    top = AXES.clocks_mhz[-1] / AXES.clocks_mhz
    assert before[0] == pytest.approx(top / (0.5 + 0.5 * top))  # κ = 0.5 is believed, 1 is possible
    knows.observe(NAME, "V100", [point(1, clock) for clock in (0, 2, 4)])
    after = knows.table(NAME, "V100").margin
    assert after is not None
    reserve = math.exp(RESERVE * NOISE * math.sqrt(2.0))  # each was measured once
    assert after[0, [0, 2, 4]].tolist() == pytest.approx([reserve, reserve, 1.0])
    assert (after[0] >= 1.0).all()
    assert (after[0] < 1.01 * reserve).all()
    assert (after[1, :-1] > 1.0).all()  # two GPUs were not measured


def test_noise_is_learnt_from_repeats() -> None:
    knows = learner()
    for off in (0.98, 1.02, 0.98, 1.02):
        for clock in (2, 4):
            exact = point(1, clock)
            knows.observe(NAME, "V100", [dataclasses.replace(exact, step_time_s=off * exact.step_time_s)])
    # squared deviations of log time: 8 · (ln(1.02/0.98)/2)²; 6 repeats
    noise = math.sqrt((NOISE_WEIGHT * NOISE**2 + 8.0 * (math.log(1.02 / 0.98) / 2.0) ** 2) / (NOISE_WEIGHT + 6.0))
    margin = knows.table(NAME, "V100").margin
    assert margin is not None
    assert margin[0, 2] == pytest.approx(math.exp(RESERVE * noise * math.sqrt(2.0 / 4.0)))


def test_at_another_batch_clocks_are_tried_anew() -> None:
    knows = learner()
    knows.observe(NAME, "V100", [point(1, clock) for clock in (0, 2, 4)])
    assert knows.clocks_to_try(NAME, "V100", 1, 20.0, packed=True, remaining=0.0) == []
    knows.rebatch(NAME, "V100", 2 * BATCH, 2 * BATCH)
    assert len(knows.clocks_to_try(NAME, "V100", 1, 20.0, packed=True, remaining=0.0)) == 3


def test_a_class_is_measured_at_three_clocks_then_at_those_that_pay_and_then_no_more() -> None:
    knows = learner()
    tried: list[float] = []
    for _ in range(9):
        clocks = knows.clocks_to_try(NAME, "V100", 1, 20.0, packed=True)
        if not clocks:
            break
        tried += clocks
        knows.observe(NAME, "V100", [point(1, int(np.searchsorted(AXES.clocks_mhz, clock))) for clock in clocks])
    assert tried[:3] == [float(AXES.clocks_mhz[k]) for k in (4, 2, 0)]
    assert 3 < len(tried) <= 5
    assert knows.clocks_to_try(NAME, "V100", 1, 20.0, packed=True) == []
    assert len(knows.clocks_to_try(NAME, "V100", 2, 20.0, packed=True)) == 3  # another GPU count
    assert len(knows.clocks_to_try(NAME, "V100", 2, 20.0, packed=False)) == 3
    assert knows.clocks_to_try(NAME, "V100", 3, 20.0, packed=True) == ()  # the tables have no such count
