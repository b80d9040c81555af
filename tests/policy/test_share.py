"""Fair share: what a project has had lately weighs on its jobs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerflow.errors import InputError
from powerflow.policy.prices import Prices
from powerflow.policy.protocol import Allocation, View
from powerflow.scheduler.rules.fair_share import LEAST_FACTOR, FairShare, decayed, factors
from tests.policy.views import make_view


class Weights:
    """A policy that notes the weights it is shown, and gives every job a GPU while there are some."""

    name = "weights"
    needs_sizes = False
    period_s: float | None = None

    def __init__(self) -> None:
        self.seen: list[float] = []

    def decide(self, view: View) -> Allocation:
        """One GPU each."""
        self.seen = view.jobs["weight"].tolist()
        answer = view.nothing()
        answer.gpus[: view.capacity] = 1
        return answer


def test_usage_halves_with_each_half_life() -> None:
    assert decayed(800.0, 0.0, 100.0) == 800.0
    assert decayed(800.0, 300.0, 100.0) == pytest.approx(100.0)


def test_factors_by_hand() -> None:
    # all of the usage with half of the shares: 2^(1 − 2)
    assert factors(np.array([5.0, 0.0]), np.array([1.0, 1.0])).tolist() == [0.5, 2.0]
    assert factors(np.array([3.0, 1.0]), np.array([3.0, 1.0])).tolist() == [1.0, 1.0]
    assert factors(np.zeros(3), np.ones(3)).tolist() == [1.0, 1.0, 1.0]
    assert factors(np.array([1.0] + [0.0] * 9), np.ones(10))[0] == LEAST_FACTOR


@given(st.lists(st.floats(0.0, 1e12), min_size=1, max_size=8))
def test_factors_fall_with_usage_and_are_bounded(usage: list[float]) -> None:
    found = factors(np.array(usage), np.ones(len(usage)))
    assert ((found >= LEAST_FACTOR) & (found <= 2.0)).all()
    order = np.argsort(usage, kind="stable")
    assert (np.diff(found[order]) <= 1e-12).all()


def test_jobs_are_weighed_by_what_their_projects_have_had() -> None:
    inner = Weights()
    policy = FairShare(inner, half_life_s=1000.0)

    def at(now_s: float, *jobs: dict[str, float], capacity: int = 1) -> None:
        view = make_view(jobs, step_time_s=[[8.0, 4.0, 2.0, 1.0]], capacity=capacity, now_s=now_s)
        rows = view.jobs.copy()
        rows["project"] = [{0: 1, 1: 2}.get(row, 0) for row in rows["id"].tolist()]
        policy.decide(dataclasses.replace(view, jobs=rows, projects=("", "a", "b")))

    at(0.0, {"id": 0, "weight": 3.0}, {"id": 1}, {"id": 2})
    assert inner.seen == [3.0, 1.0, 1.0]
    at(100.0, {"id": 0, "gpus": 1, "weight": 3.0}, {"id": 1}, {"id": 2})
    assert policy.usage_gpu_s == {"a": 100.0, "b": 0.0}
    assert inner.seen == [1.5, 2.0, 1.0]  # the third belongs to no project
    at(100.0, {"id": 0, "gpus": 1})  # asked again in the same moment
    assert policy.usage_gpu_s == {"a": 100.0, "b": 0.0}
    at(1100.0, {"id": 1})  # the first has ended meanwhile
    assert policy.usage_gpu_s == {"a": 50.0 + 1000.0, "b": 0.0}


def test_shares_must_be_positive() -> None:
    with pytest.raises(InputError, match="share"):
        FairShare(Prices(), {"a": 0.0})
    with pytest.raises(InputError, match="half-life"):
        FairShare(Prices(), half_life_s=0.0)
