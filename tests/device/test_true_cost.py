"""The truth of an emulated job: near what is believed, not the same, and the same again for the same seed."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from powerflow.cost.catalogue import families, family_model
from powerflow.cost.model import gpu_power, step_time
from powerflow.device.emulated.true_cost import model_from, model_json, true_activity, truth_of
from powerflow.errors import InputError
from tests.device.cards import a_job


def test_it_is_near_the_model_but_not_the_model() -> None:
    believed = a_job()
    ratios = []
    for seed in range(40):
        truth = truth_of(believed, seed)
        assert truth != believed
        assert truth == truth_of(believed, seed)
        steps = [float(step_time(model.throughput, 4, 64, 1, 1410.0, False)) for model in (truth, believed)]
        ratios.append(np.log(steps[0] / steps[1]))
    assert 0.08 < np.std(ratios) < 0.35  # the parameters' log-sd is 0.2; a step adds several of them up
    assert abs(np.mean(ratios)) < 0.15


def test_no_variation_is_the_model_itself() -> None:
    assert truth_of(a_job(), 3, variation=0.0) == a_job()


@pytest.mark.parametrize("name", families())
def test_every_family_has_a_truth_that_can_be(name: str) -> None:
    truth = truth_of(family_model(name, "A100"), 7)
    where = (np.array([1, 2, 8]), 32, 1, np.array([[705.0], [1410.0]]), False)
    watts = gpu_power(truth.throughput, truth.power, *where)
    assert np.all(step_time(truth.throughput, *where) > 0)
    assert np.all((watts >= truth.power.idle_w) & (watts < 1.2 * 400))


@pytest.mark.parametrize("name", families())
@pytest.mark.parametrize("seed", [1, 2])
def test_a_step_has_the_same_work_at_each_clock(name: str, seed: int) -> None:
    truth = truth_of(family_model(name, "A100"), seed)
    fastest_s = float(step_time(truth.throughput, 4, 32, 2, 1410.0, 1))
    work = []
    for clock_mhz in (210.0, 705.0, 1410.0):
        step_s = float(step_time(truth.throughput, 4, 32, 2, clock_mhz, 1))
        did = true_activity(truth, 4, 32, 2, clock_mhz, 1, speed=fastest_s / step_s)
        assert 0.0 <= did.tensor <= 1.0
        assert 0.0 <= did.dram <= 1.0
        work.append((did.tensor * clock_mhz * step_s, did.dram * step_s))
    assert work[:2] == [pytest.approx(work[2])] * 2


def test_the_activity_of_a_job_by_hand() -> None:
    # a pass of 0.1 s of which 60 % scale with the clock, on one GPU: no synchronising. At half the clock it takes
    # 0.04 + 0.12 = 0.16 s: for 0.12 s of it tensor cores compute, for 0.04 s the memory is busy
    model = dataclasses.replace(
        a_job().throughput, alpha_s=0.1, beta_s=0.0, corner=1.0, kappa=0.6, knee=1.0, clock_max_mhz=1400.0
    )
    job = dataclasses.replace(a_job(), throughput=model)
    fast, slow = (true_activity(job, 1, 8, 1, f, 0, speed=v) for f, v in ((1400.0, 1.0), (700.0, 0.1 / 0.16)))
    assert (fast.tensor, fast.dram) == pytest.approx((0.6, 0.4))
    assert (slow.tensor, slow.dram) == pytest.approx((0.12 / 0.16, 0.04 / 0.16))


def test_it_is_read_back_unchanged() -> None:
    truth = truth_of(a_job(), 5)
    assert model_from(json.loads(json.dumps(model_json(truth))), "here") == truth


@pytest.mark.parametrize("value", [-1.0, float("nan"), "x", None])
def test_a_parameter_that_cannot_be_is_refused(value: object) -> None:
    plain = json.loads(json.dumps(model_json(a_job())))
    plain["throughput"]["alpha_s"] = value
    with pytest.raises(InputError, match="does not describe a cost model"):
        model_from(plain, "here")


def test_an_unknown_or_missing_parameter_is_refused() -> None:
    for change in ({"unknown": 1.0}, {}):
        plain = model_json(dataclasses.replace(a_job()))
        plain["power"] = {"idle_w": 60.0, **change}
        with pytest.raises(InputError):
            model_from(plain, "here")
