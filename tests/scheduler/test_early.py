"""Between decisions: who starts at once beside free GPUs, who waits, and that nobody who runs is touched."""

from __future__ import annotations

from typing import Any

import pytest

from powerflow.energy.terms import EnergyTerms
from powerflow.policy.prices import Prices
from powerflow.scheduler.cap import PowerCap
from powerflow.scheduler.events import (
    Cancelled,
    Completed,
    Failed,
    NodeDrained,
    NodeFailed,
    NodeRecovered,
    PowerCapSet,
)
from powerflow.scheduler.plan import Plan
from powerflow.scheduler.rules.compose import with_rules
from powerflow.scheduler.rules.power_limit import PowerLimit
from powerflow.scheduler.rules.protection import Protection
from tests.scheduler.situations import SchedulerDriver, Told, submitted

FULL = 1


def started(plan: Plan) -> dict[str, int]:
    """GPUs of the jobs that a plan between decisions starts; it says a reason for these and for nobody else."""
    assert plan.early or not plan.changes
    assert not plan.early or plan.reasons().keys() == {change.job_id for change in plan.changes}
    return {change.job_id: change.gpus for change in plan.changes}


@pytest.mark.parametrize("policy", ["prices", "fifo", "srtf", "tiresias", "gandiva", "afs", "optimus", "pollux"])
def test_who_comes_beside_free_gpus_starts_at_once_and_nobody_else_is_touched(policy: str) -> None:
    driver = SchedulerDriver(policy)
    driver.at(0, submitted("a", gpus=2, gpus_max=2))
    assert started(driver.at(10, submitted("b", gpus=4, gpus_min=4, gpus_max=4))) == {"b": 4}
    assert driver.row("a")["gpus"] == 2
    due = driver.at(60)
    assert due.decided
    assert not due.early
    assert not [change for change in due.changes if change.moved], "the decision finds nothing to move"


def test_a_decision_is_still_due_when_it_was() -> None:
    driver = SchedulerDriver("fifo")
    driver.at(0, submitted("a"))
    plan = driver.at(59, submitted("b"))
    assert (plan.decided, plan.early, plan.wake_s) == (True, True, 60.0)


def test_nobody_overtakes_the_head_of_the_queue() -> None:
    driver = SchedulerDriver("fifo")
    driver.at(0, submitted("a", gpus=2))
    assert started(driver.at(10, submitted("big", gpus=8))) == {}
    assert started(driver.at(20, submitted("small", gpus=1))) == {}
    assert started(driver.at(30, Completed("a"), submitted("last"))) == {"big": 8}


def test_a_job_that_is_tried_again_starts_at_once() -> None:
    driver = SchedulerDriver("prices")
    driver.at(0, submitted("a", gpus_max=2))
    plan = driver.at(10, Failed("a", retry=True, done=100.0))
    assert started(plan) == {"a": 2}
    assert plan.reasons()["a"].sentence() == "resumed on 2 GPUs at 1400 MHz"


def test_a_job_whose_node_failed_starts_on_another_and_one_that_waits_on_a_node_that_is_back() -> None:
    driver = SchedulerDriver("fifo")
    driver.at(0, submitted("a", gpus=4))
    home = driver.scheduler.pools["A100"].occupancy.placement(driver.scheduler.slot("a"))[0].node
    assert started(driver.at(10, NodeFailed(home))) == {"a": 4}
    assert started(driver.at(20, submitted("b", gpus=4))) == {}
    assert started(driver.at(30, NodeRecovered(home))) == {"b": 4}


def test_a_job_that_was_preempted_waits_for_the_decision() -> None:
    driver = SchedulerDriver(Told({0: (8, FULL)}))
    driver.at(0, submitted("a"))
    driver.tell({1: (2, FULL)})
    driver.at(60, submitted("b"))
    assert driver.row("a")["gpus"] == 0
    driver.tell({0: (2, FULL), 1: (2, FULL), 2: (4, FULL)})
    assert started(driver.at(70, submitted("c"))) == {"c": 4}, "to go on costs it a pause: that is for a decision"
    driver.tell({0: (2, FULL), 2: (4, FULL)})
    assert [change.job_id for change in driver.at(120).changes] == ["b", "a"]


def test_what_falls_free_is_shared_out_by_the_next_decision_unless_a_job_comes() -> None:
    driver = SchedulerDriver("fifo")
    driver.at(0, submitted("a", gpus=8))
    assert not driver.at(10, submitted("b", gpus=4)).decided
    assert not driver.at(20, Completed("a")).decided
    assert started(driver.at(30, submitted("c", gpus=4))) == {"b": 4, "c": 4}


def test_where_a_decision_would_give_more_than_is_free_a_job_starts_on_what_is_free() -> None:
    driver = SchedulerDriver("afs")
    driver.at(0, submitted("a", 1e5, gpus=4, gpus_max=4))
    view = driver.scheduler.view(driver.scheduler.pools["A100"], 10.0)
    assert view.jobs["gpus"].tolist() == [4]
    plan = driver.at(10, submitted("b", 10.0))
    assert driver.row("a")["gpus"] == 4
    assert started(plan).get("b", 0) <= 4


@pytest.mark.parametrize("promise", [{"protected": True, "max_slowdown": 0.0}, {"keeps": True}])
def test_who_must_not_run_on_fewer_starts_whole_or_waits(promise: dict[str, Any]) -> None:
    driver = SchedulerDriver(Protection(Told({0: (4, FULL)})))
    driver.at(0, submitted("a"))
    policy = driver.scheduler.policies["A100"]
    assert isinstance(policy, Protection)
    policy.inner = Told({1: (8, FULL)})
    assert started(driver.at(10, submitted("b", gpus=8, **promise))) == {}
    assert [change.gpus for change in driver.at(60).changes] == [0, 8]


def test_a_job_that_would_stand_on_more_nodes_than_it_needs_waits_for_the_decision() -> None:
    driver = SchedulerDriver(Told({0: (2, FULL), 1: (2, FULL), 2: (2, FULL), 3: (2, FULL)}))
    driver.at(0, *(submitted(name) for name in "abcd"))
    occupancy = driver.scheduler.pools["A100"].occupancy
    homes = {name: occupancy.placement(driver.scheduler.slot(name))[0].node for name in "abcd"}
    one, other = (next(n for n in "abcd" if homes[n] == node) for node in sorted(set(homes.values())))
    driver.tell({"abcd".index(n): (2, FULL) for n in "abcd" if n not in (one, other)} | {4: (4, FULL)})
    assert started(driver.at(10, Cancelled(one), Cancelled(other), submitted("e"))) == {}
    assert driver.row("e")["since_s"] == 10.0
    assert [change.job_id for change in driver.at(60).changes if change.reason.gpus_before == 0] == ["e"]


def test_who_would_exceed_a_budgets_limit_waits() -> None:
    # one GPU adds 250 − 50 = 200 W at full clock, as told
    for limit_w, starts in ((500.0, {"b": 1}), (300.0, {})):
        driver = SchedulerDriver(PowerLimit(Told({0: (1, FULL), 1: (1, FULL)})))
        driver.at(0, EnergyTerms(0.0, {}, {"": limit_w}), submitted("a"))
        assert started(driver.at(10, submitted("b"))) == starts


def test_who_would_exceed_a_power_cap_waits_and_so_does_one_that_a_cap_would_meet_before_the_decision() -> None:
    # eight idle GPUs draw 400 W; "a" adds 200 W, "b" would add as many
    for watts, start_s, starts in (
        (850.0, 0.0, {"b": 1}),
        (750.0, 0.0, {}),
        (750.0, 45.0, {}),
        (750.0, 400.0, {"b": 1}),
    ):
        driver = SchedulerDriver(Told({0: (1, FULL), 1: (1, FULL)}))
        driver.at(-1.0, PowerCapSet(PowerCap(watts, start_s=start_s)))
        driver.at(0, submitted("a"))
        plan = driver.at(10, submitted("b"))
        assert started(plan) == starts
        if plan.early:
            assert plan.power_w == pytest.approx(driver.scheduler.caps.drawn_w(driver.scheduler.caps.scopes()[0]))


def test_who_stays_on_a_node_that_drains_stays_until_the_decision() -> None:
    driver = SchedulerDriver("fifo")
    driver.at(0, submitted("a", gpus=2))
    home = driver.scheduler.pools["A100"].occupancy.placement(driver.scheduler.slot("a"))[0].node
    assert started(driver.at(10, NodeDrained(home), submitted("b", gpus=2))) == {"b": 2}
    occupancy = driver.scheduler.pools["A100"].occupancy
    assert occupancy.placement(driver.scheduler.slot("a"))[0].node == home
    assert occupancy.placement(driver.scheduler.slot("b"))[0].node != home
    assert [change.job_id for change in driver.at(60).changes] == ["a"]


def test_all_rules_together_let_a_newcomer_start_at_once() -> None:
    driver = SchedulerDriver(with_rules(Prices()))
    driver.at(0, submitted("a", gpus_max=2))
    assert started(driver.at(10, submitted("b", gpus_max=2))) == {"b": 2}
    assert started(driver.at(20, submitted("c", gpus=4, gpus_min=4, gpus_max=4, keeps=True))) == {"c": 4}
    assert not [change for change in driver.at(60).changes if change.moved]
