"""What steps of one configuration draw is measured over these steps alone, also where a driver averages its power."""

from __future__ import annotations

import math

import numpy as np
import pytest

from powerflow.api.job_spec import JobSpec
from powerflow.cost.table import Axes, CostTable
from powerflow.device.meter import MeanPower
from powerflow.gangs.types import Progressed
from powerflow.live.jobs.active_job import EXPLORE_S, ActiveJob
from powerflow.live.jobs.cost_learning import JobClass
from powerflow.live.jobs.step_timing import timed

AXES = Axes("A100", 8, np.array([1]), np.array([705.0, 1410.0]))
SECONDS = np.full((1, 2), 0.1)
TABLE = CostTable(SECONDS, SECONDS, np.full((1, 2), 300.0), np.array([32]), np.array([1]))


def trained(timed_steps: int, timed_s: float) -> Progressed:
    return Progressed("1", timed_steps, None, 1, 1, 1, timed_steps, timed_s, local_batch=32)


@pytest.fixture
def job() -> ActiveJob:
    made = ActiveJob("1", JobSpec(run="python train.py"), "ada", JobClass("lm", "", "lm", 32, 32), 0.0)
    made.gpu_type, made.training = "A100", True
    return made


def test_power_of_the_clock_before_is_no_part_of_a_measurement(job: ActiveJob) -> None:
    assert timed(job, trained(10, 1.0), TABLE, AXES, 705.0, now_s=100.0) is None  # the clock was set: timing begins
    job.metered(MeanPower(390.0, 1.0), disturbed=False, now_s=100.6)  # most of it was drawn at the other clock
    assert timed(job, trained(40, 4.0), TABLE, AXES, 705.0, now_s=101.2) is None  # enough steps, but no power yet
    job.metered(MeanPower(210.0, 1.0), disturbed=False, now_s=101.6)
    seen = timed(job, trained(41, 4.1), TABLE, AXES, 705.0, now_s=101.7)
    assert seen is not None
    assert seen.step_time_s == pytest.approx(0.1)
    assert seen.power_w == 210.0
    job.metered(MeanPower(230.0, 1.0), disturbed=False, now_s=102.6)  # its first tenth belongs to the last measurement
    assert job.window is not None
    assert job.window.samples == 0


def test_power_of_the_moment_counts_at_once(job: ActiveJob) -> None:
    timed(job, trained(10, 1.0), TABLE, AXES, 705.0, now_s=100.0)
    job.metered(MeanPower(210.0, 0.0), disturbed=False, now_s=100.0)
    seen = timed(job, trained(40, 4.0), TABLE, AXES, 705.0, now_s=101.2)
    assert seen is not None
    assert seen.power_w == 210.0


def test_a_timing_that_begins_again_does_not_replace_the_one_before_at_once(job: ActiveJob) -> None:
    """The log was read late: one step seems to take half of its time, and the job would seem to end in half of it."""
    timed(job, trained(0, 0.0), TABLE, AXES, 705.0, now_s=100.0)
    timed(job, trained(20, 20.0), TABLE, AXES, 705.0, now_s=120.0)
    timed(job, trained(21, 20.5), TABLE, AXES, 705.0, now_s=120.5)
    assert job.step_time_s == 1.0
    timed(job, trained(26, 32.5), TABLE, AXES, 705.0, now_s=132.5)
    assert job.step_time_s == pytest.approx(12.5 / 6), "by now, steps really take longer"


def test_each_repeated_trial_takes_as_many_steps(job: ActiveJob) -> None:
    job.explore((705.0, 705.0, 1410.0))
    timed(job, trained(0, 0.0), TABLE, AXES, 705.0, now_s=100.0)
    for steps in (20, 40):
        assert timed(job, trained(steps, steps / 10), TABLE, AXES, 705.0, now_s=100.0 + steps) is not None
        job.tried(705.0, 100.0 + steps)
    assert job.explore_mhz == (1410.0,)


def test_a_clock_without_steps_is_given_up_with_all_its_trials(job: ActiveJob) -> None:
    job.explore((705.0, 705.0, 1410.0))
    for now_s in (100.0, 100.0 + 2.0 * EXPLORE_S):
        timed(job, trained(0, 0.0), TABLE, AXES, 705.0, now_s)
        job.window = None if now_s == 100.0 else job.window
        job.metered(MeanPower(210.0, 0.0), disturbed=False, now_s=now_s)
    assert job.explore_mhz == (1410.0,)


def test_steps_are_timed_where_no_power_is_read(job: ActiveJob) -> None:
    timed(job, trained(10, 1.0), TABLE, AXES, None, now_s=100.0)
    job.metered(MeanPower(0.0, 0.0), disturbed=False, now_s=100.5)
    seen = timed(job, trained(40, 4.0), TABLE, AXES, None, now_s=101.2)
    assert seen is not None
    assert seen.power_w is None
    assert math.isclose(seen.step_time_s, 0.1)
