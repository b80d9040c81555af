"""Limits in watts that budgets set: they hold for the cluster and for projects, and touch nobody else's jobs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.policy.protocol import Policy, View
from powerflow.policy.registry import load
from powerflow.scheduler.rules.compose import with_rules
from powerflow.scheduler.rules.power_limit import PowerLimit, added_w, dearest
from tests.policy.views import assert_valid, make_view, views

#: Two clocks: the lower takes half the watts and 1.25 times as long. Watts of n GPUs, 50 of each when idle.
STEP_S = [[[10.0, 8.0], [5.0, 4.0]]]
POWER_W = [[[125.0, 250.0], [250.0, 500.0]]]


def two_projects(limit_w: dict[str, float], **more: float) -> View:
    """Two jobs of project a, then two of b, each on one of two GPUs counts; 8 GPUs are up."""
    jobs = [{"project": 1 + i // 2, "gpus_max": 1, **more} for i in range(4)]
    view = make_view(
        jobs, step_time_s=STEP_S, power_w=POWER_W, clocks_mhz=(700.0, 1400.0), gpu_counts=(1, 2), capacity=8
    )
    return dataclasses.replace(view, projects=("", "a", "b"), limit_w=limit_w)


def test_without_limits_nothing_is_changed() -> None:
    view = two_projects({})
    answer = PowerLimit(load("prices")).decide(view)
    assert answer.gpus.tolist() == [1, 1, 1, 1]
    assert answer.clock.tolist() == [1, 1, 1, 1]
    assert added_w(view, answer) == pytest.approx(4 * 200.0)
    assert added_w(view, answer, "a") == pytest.approx(2 * 250.0)  # charged with the idle watts of its GPUs


@pytest.mark.parametrize(
    ("limit_w", "gpus", "clock"),
    [
        ({"": 900.0}, [1, 1, 1, 1], [1, 1, 1, 1]),
        ({"": 4 * 75.0}, [1, 1, 1, 1], [0, 0, 0, 0]),  # dearer joules do it
        ({"": 150.0}, [1, 1, 0, 0], [0, 0, 0, 0]),  # two GPUs fewer
        ({"": 0.0}, [0, 0, 0, 0], [1, 1, 1, 1]),
        ({"a": 250.0}, [1, 1, 1, 1], [0, 0, 1, 1]),
        ({"a": 125.0}, [1, 0, 1, 1], [0, 0, 1, 1]),
        ({"a": 0.0, "b": 250.0}, [0, 0, 1, 1], [1, 1, 0, 0]),
        ({"nobody": 0.0}, [1, 1, 1, 1], [1, 1, 1, 1]),
    ],
)
def test_by_hand(limit_w: dict[str, float], gpus: list[int], clock: list[int]) -> None:
    view = two_projects(limit_w)
    limit = PowerLimit(load("prices"))
    answer = limit.decide(view)
    assert answer.gpus.tolist() == gpus
    assert np.where(answer.gpus > 0, answer.clock, 1).tolist() == np.where(answer.gpus > 0, clock, 1).tolist()
    assert limit.binding == {scope for scope in limit_w if limit_w[scope] < 800.0 and scope != "nobody"}


def test_a_protected_job_is_the_last_of_its_project_to_stop() -> None:
    view = two_projects({"a": 250.0})
    rows = view.jobs.copy()
    rows["protected"][1], rows["slowdown"][1] = True, 0.1
    answer = with_rules(load("prices")).decide(dataclasses.replace(view, jobs=rows))
    assert answer.gpus.tolist() == [0, 1, 1, 1]
    assert answer.clock[1] == view.clock_max


@settings(deadline=None)
@given(views(max_jobs=8), st.data())
def test_limits_hold_whatever_decides(view: View, data: st.DataObject) -> None:
    code = data.draw(st.lists(st.integers(0, 2), min_size=len(view.jobs), max_size=len(view.jobs)))
    rows = view.jobs.copy()
    rows["project"] = code
    free = dataclasses.replace(view, jobs=rows, projects=("", "a", "b"))
    policy: Policy = load(data.draw(st.sampled_from(["prices", "afs", "srtf"])))
    wish = policy.decide(free)
    scopes = data.draw(st.sets(st.sampled_from(["", "a", "b"]), min_size=1))
    limit_w = {scope: data.draw(st.floats(0.0, 1.2)) * max(added_w(free, wish, scope), 0.0) for scope in scopes}
    limited = dataclasses.replace(free, limit_w=limit_w)
    answer = PowerLimit(policy).decide(limited)
    assert_valid(limited, answer)
    for scope in scopes:
        assert added_w(limited, answer, scope) <= limit_w[scope] + 1e-9
    assert dearest(limited) >= 0.0
