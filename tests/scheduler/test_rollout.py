"""Unmanaged jobs run as requested; a policy decides about the others, within what is left."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from powerflow.policy.levels import held_gpus
from powerflow.policy.protocol import Allocation, View
from powerflow.policy.registry import load
from powerflow.scheduler.events import ManagedProjects
from powerflow.scheduler.rules.compose import with_rules
from powerflow.scheduler.rules.rollout import Rollout
from powerflow.scheduler.rules.wrapper import find_wrapper
from tests.policy.views import assert_valid, make_view, views

STEP_S = [[[10.0, 8.0], [5.0, 4.0], [2.5, 2.0]]]
POWER_W = [[[125.0, 250.0], [250.0, 500.0], [500.0, 1000.0]]]


def seen(jobs: list[dict[str, float]], capacity: int = 4, **more: Any) -> View:
    view = make_view(
        [{"slowdown": np.inf, **job} for job in jobs],
        step_time_s=STEP_S,
        power_w=POWER_W,
        clocks_mhz=(700.0, 1400.0),
        gpu_counts=(1, 2, 4),
        capacity=capacity,
    )
    return dataclasses.replace(view, **more)


def test_which_projects_are_managed() -> None:
    managed = ManagedProjects(False, {"vision": True})
    assert [managed.manages(project) for project in ("", "vision", "speech")] == [False, True, False]
    assert ManagedProjects().manages("anybody")


@settings(deadline=None)
@given(views())
def test_with_no_managed_project_it_is_fifo(view: View) -> None:
    assume((held_gpus(view) == view.jobs["gpus"]).all())
    rows = view.jobs.copy()
    rows["unmanaged"] = True
    unmanaged = dataclasses.replace(view, jobs=rows, energy_price=1.0, limit_w={"": 0.0})
    answer = with_rules(load("prices")).decide(unmanaged)
    plain = load("fifo").decide(view)
    assert answer.gpus.tolist() == plain.gpus.tolist()
    assert answer.clock.tolist() == plain.clock.tolist()


def test_by_hand() -> None:
    # an unmanaged job runs on two GPUs; a managed one came before two unmanaged ones; four GPUs are left of six
    view = seen(
        [
            {"unmanaged": True, "requested": 2, "gpus": 2},
            {"requested": 2, "arrival_s": 1.0},
            {"unmanaged": True, "requested": 2, "arrival_s": 2.0},
            {"unmanaged": True, "requested": 1, "arrival_s": 3.0},
        ],
        capacity=6,
    )
    answer = Rollout(load("prices")).decide(view)
    assert answer.gpus.tolist() == [2, 2, 2, 0], "who asks for two counts with two, and has the rest"
    view = dataclasses.replace(view, capacity=7)
    assert Rollout(load("prices")).decide(view).gpus.tolist() == [2, 2, 2, 1]


def test_what_the_policy_leaves_free_others_may_have() -> None:
    view = seen([{"requested": 4, "gpus_max": 1}, {"unmanaged": True, "requested": 2, "arrival_s": 1.0}])
    assert Rollout(load("prices")).decide(view).gpus.tolist() == [1, 2]


def test_the_limit_of_the_clusters_budget_is_for_all() -> None:
    # the unmanaged job adds 200 W of the 300 that may be added; the other may add 100 at most: the lower clock's 75
    view = seen([{"unmanaged": True, "requested": 1}, {"requested": 1, "gpus_max": 1}], limit_w={"": 300.0})
    answer = with_rules(load("prices")).decide(view)
    assert answer.gpus.tolist() == [1, 1]
    assert answer.clock.tolist() == [1, 0]


@settings(deadline=None)
@given(views(max_jobs=8), st.data())
def test_unmanaged_jobs_are_never_stopped_or_reclocked(view: View, data: st.DataObject) -> None:
    unmanaged = np.array(data.draw(st.lists(st.booleans(), min_size=len(view.jobs), max_size=len(view.jobs))), bool)
    rows = view.jobs.copy()
    rows["unmanaged"] = unmanaged
    view = dataclasses.replace(view, jobs=rows)
    answer = with_rules(load(data.draw(st.sampled_from(["prices", "srtf", "afs"])))).decide(view)
    rest = dataclasses.replace(view, jobs=view.jobs[~unmanaged])
    assert_valid(rest, Allocation(answer.gpus[~unmanaged], answer.clock[~unmanaged]))
    assert answer.gpus.sum() <= view.capacity
    assert (answer.clock[unmanaged] == view.clock_max).all()
    held = view.jobs["gpus"]
    known = view.count_index[np.minimum(held, len(view.count_index) - 1)] >= 0
    if held.sum() <= view.capacity:  # whatever is believed of them
        assert (answer.gpus == held)[unmanaged & known & (held > 0)].all()


def test_a_wish_is_what_the_policy_would_do_and_leaves_no_trace() -> None:
    job = {"unmanaged": True, "requested": 1, "gpus_max": 1, "gpus": 1, "since_s": -1e4}
    view = seen([job, job], energy_price=0.1)
    policy = with_rules(load("prices"))
    rollout = find_wrapper(policy, Rollout)
    assert rollout is not None
    wish = rollout.wish(view)
    assert (wish.gpus.sum(), wish.clock.max()) == (2, 0), "at this price of energy the lower clock pays"
    assert policy.decide(view).gpus.tolist() == [1, 1]
    assert policy.decide(view).clock.tolist() == [1, 1]


def test_layers() -> None:
    assert find_wrapper(load("fifo"), Rollout) is None


@pytest.mark.parametrize("name", ["prices", "fifo"])
def test_with_all_acted_on_nothing_is_changed(name: str) -> None:
    view = seen([{"requested": 2}, {"requested": 1}])
    plain, rollout = load(name).decide(view), Rollout(load(name)).decide(view)
    assert (plain.gpus.tolist(), plain.clock.tolist()) == (rollout.gpus.tolist(), rollout.clock.tolist())
