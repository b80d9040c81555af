"""Jobs that nobody acts on run as asked; a policy decides for the others within what is left."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from powerflow.policy.levels import held_gpus
from powerflow.policy.protocol import Allocation, View
from powerflow.policy.registry import load
from powerflow.scheduler.events import Acting
from powerflow.scheduler.rules.compose import with_rules
from powerflow.scheduler.rules.rollout import Rollout
from powerflow.scheduler.rules.wrapper import layer
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


def test_who_is_acted_on() -> None:
    acting = Acting(False, {"vision": True})
    assert [acting.acts(project) for project in ("", "vision", "speech")] == [False, True, False]
    assert Acting().acts("anybody")


@given(views())
def test_with_nobody_acted_on_it_is_fifo(view: View) -> None:
    assume((held_gpus(view) == view.jobs["gpus"]).all())
    rows = view.jobs.copy()
    rows["untouched"] = True
    watched = dataclasses.replace(view, jobs=rows, energy_price=1.0, limit_w={"": 0.0})
    answer = with_rules(load("prices")).decide(watched)
    plain = load("fifo").decide(view)
    assert answer.gpus.tolist() == plain.gpus.tolist()
    assert answer.clock.tolist() == plain.clock.tolist()


def test_by_hand() -> None:
    # a watched job runs on two GPUs; one acted on came before two watched ones; four GPUs are left of six
    view = seen(
        [
            {"untouched": True, "requested": 2, "gpus": 2},
            {"requested": 2, "arrival_s": 1.0},
            {"untouched": True, "requested": 2, "arrival_s": 2.0},
            {"untouched": True, "requested": 1, "arrival_s": 3.0},
        ],
        capacity=6,
    )
    answer = Rollout(load("prices")).decide(view)
    assert answer.gpus.tolist() == [2, 2, 2, 0], "who asks for two counts with two, and has the rest"
    view = dataclasses.replace(view, capacity=7)
    assert Rollout(load("prices")).decide(view).gpus.tolist() == [2, 2, 2, 1]


def test_what_the_policy_leaves_free_others_may_have() -> None:
    view = seen([{"requested": 4, "gpus_max": 1}, {"untouched": True, "requested": 2, "arrival_s": 1.0}])
    assert Rollout(load("prices")).decide(view).gpus.tolist() == [1, 2]


def test_the_limit_of_the_clusters_budget_is_for_all() -> None:
    # the watched job adds 200 W of the 300 that may be added; the other may add 100 at most: the lower clock's 75
    view = seen([{"untouched": True, "requested": 1}, {"requested": 1, "gpus_max": 1}], limit_w={"": 300.0})
    answer = with_rules(load("prices")).decide(view)
    assert answer.gpus.tolist() == [1, 1]
    assert answer.clock.tolist() == [1, 0]


@given(views(max_jobs=8), st.data())
def test_who_is_watched_is_never_stopped_or_reclocked(view: View, data: st.DataObject) -> None:
    watched = np.array(data.draw(st.lists(st.booleans(), min_size=len(view.jobs), max_size=len(view.jobs))), bool)
    rows = view.jobs.copy()
    rows["untouched"] = watched
    view = dataclasses.replace(view, jobs=rows)
    answer = with_rules(load(data.draw(st.sampled_from(["prices", "srtf", "afs"])))).decide(view)
    rest = dataclasses.replace(view, jobs=view.jobs[~watched])
    assert_valid(rest, Allocation(answer.gpus[~watched], answer.clock[~watched]))
    assert answer.gpus.sum() <= view.capacity
    assert (answer.clock[watched] == view.clock_max).all()
    held = view.jobs["gpus"]
    known = view.count_index[np.minimum(held, len(view.count_index) - 1)] >= 0
    if held.sum() <= view.capacity:  # whatever is believed of them
        assert (answer.gpus == held)[watched & known & (held > 0)].all()


def test_a_wish_is_what_the_policy_would_do_and_leaves_no_trace() -> None:
    job = {"untouched": True, "requested": 1, "gpus_max": 1, "gpus": 1, "since_s": -1e4}
    view = seen([job, job], energy_price=0.1)
    policy = with_rules(load("prices"))
    staged = layer(policy, Rollout)
    assert staged is not None
    wish = staged.wish(view)
    assert (wish.gpus.sum(), wish.clock.max()) == (2, 0), "at this price of energy the lower clock pays"
    assert policy.decide(view).gpus.tolist() == [1, 1]
    assert policy.decide(view).clock.tolist() == [1, 1]


def test_layers() -> None:
    assert layer(load("fifo"), Rollout) is None


@pytest.mark.parametrize("name", ["prices", "fifo"])
def test_with_all_acted_on_nothing_is_changed(name: str) -> None:
    view = seen([{"requested": 2}, {"requested": 1}])
    plain, staged = load(name).decide(view), Rollout(load(name)).decide(view)
    assert (plain.gpus.tolist(), plain.clock.tolist()) == (staged.gpus.tolist(), staged.clock.tolist())
