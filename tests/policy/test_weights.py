"""Weights: of two jobs that are equal but for their weights, the heavier is never served after the lighter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.policy.pollux import Pollux
from powerflow.policy.prices import Prices
from powerflow.policy.protocol import Policy, View
from powerflow.scheduler.rules.fair_share import FairShare
from powerflow.scheduler.rules.hysteresis import Hysteresis
from tests.policy.views import given_gpus, make_view, views
from tests.slow import examples

WEIGHING: dict[str, Callable[[], Policy]] = {
    "prices": Prices,
    "pollux": Pollux,
    "hysteresis": lambda: Hysteresis(Prices()),
    "fair share": lambda: FairShare(Hysteresis(Prices())),
}


def with_twin(view: View, random: Random, heavier: float, larger: float = 1.0) -> tuple[View, int, int]:
    """The view with a twin of one job, both waiting; the later of the two in order of submission is the heavier.

    Args:
        view: Any jobs.
        random: Says which job gets a twin.
        heavier: How many times the weight the twin has.
        larger: How many times the remaining iterations the twin has.

    Returns:
        The view, the row of the lighter job and the row of the heavier one.
    """
    row = random.randrange(len(view.jobs))
    jobs = np.concatenate([view.jobs, view.jobs[row : row + 1]])
    twins = [row, len(jobs) - 1]
    jobs["gpus"][twins], jobs["clock"][twins] = 0, 0
    jobs["id"][-1] = jobs["id"].max() + 1
    jobs["weight"][-1] *= heavier
    jobs["remaining"][-1] *= larger
    return replace(view, jobs=jobs), row, len(jobs) - 1


@settings(max_examples=examples(150), deadline=None)
@given(view=views(), random=st.randoms(use_true_random=False), heavier=st.sampled_from([1.01, 1.5, 4.0, 1000.0]))
@pytest.mark.parametrize("name", WEIGHING)
def test_of_waiting_twins_the_heavier_gets_no_fewer_gpus(name: str, view: View, random: Random, heavier: float) -> None:
    if not len(view.jobs):
        return
    view, light, heavy = with_twin(view, random, heavier)
    gpus = given_gpus(WEIGHING[name](), view)
    assert gpus[heavy] >= gpus[light]


@settings(max_examples=examples(150), deadline=None)
@given(view=views(max_jobs=40, sizes_known=True), random=st.randoms(use_true_random=False))
@pytest.mark.parametrize("heavier", [2.0, 4.0, 1000.0])
def test_a_heavier_job_that_is_a_little_larger_is_not_served_after_its_twin(
    view: View, random: Random, heavier: float
) -> None:
    if not len(view.jobs):
        return
    view, light, heavy = with_twin(view, random, heavier, larger=1.1)
    gpus = given_gpus(Prices(), view)
    assert gpus[heavy] >= gpus[light]


@pytest.mark.parametrize("capacity", [1, 2, 64])
@pytest.mark.parametrize("heavier", [4.0, 100.0])
def test_a_heavy_job_is_first_among_many_that_are_a_little_smaller(capacity: int, heavier: float) -> None:
    many = 400
    jobs = [{"remaining": 100.0 + k / many, "gpus_max": 1} for k in range(many)]
    jobs.append({"remaining": 102.0, "gpus_max": 1, "weight": heavier})
    view = make_view(jobs, step_time_s=[[100.0] * 4], capacity=capacity)
    assert given_gpus(Prices(), view)[-1] == 1
