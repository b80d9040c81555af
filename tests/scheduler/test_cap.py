"""Power caps in the scheduler: what they allow when, when it decides, and what it says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.cluster.spec import Node, NodeGroup, build_cluster
from powerflow.errors import InputError
from powerflow.policy.protocol import Allocation, View
from powerflow.policy.registry import load
from powerflow.scheduler.cap import CALM_S, CLUSTER, STEP_S, PowerCap, Scope, named_scope, parse_scope
from powerflow.scheduler.caps.meter import UNSEEN
from powerflow.scheduler.events import (
    Completed,
    CostLearned,
    Event,
    NodeAdded,
    NodeFailed,
    NodeRecovered,
    PowerCapLifted,
    PowerCapSet,
    PowerMetered,
)
from powerflow.scheduler.plan import Plan, Why
from powerflow.scheduler.scheduler import Scheduler
from powerflow.testing.invariants import check
from tests.scheduler.situations import IDLE_W, LINEAR, SchedulerDriver, Told, axes, submitted, table

# nobody has metered anything: a GPU is reckoned with at 275 W at full clock and 110 W at half, 50 W when idle
FULL_W, HALF_W = UNSEEN * 250.0, UNSEEN * 100.0


class Modest(Told):
    """Gives what it was told, or the most that a job can use."""

    def decide(self, view: View) -> Allocation:
        """As told."""
        allocation = super().decide(view)
        np.minimum(allocation.gpus, view.jobs["gpus_max"], out=allocation.gpus)
        return allocation


def two_jobs(*events: Event, **more: object) -> SchedulerDriver:
    """Jobs of weights 2 and 1, each on one of two nodes of four GPUs at full clock."""
    driver = SchedulerDriver(Modest({0: (4, 1), 1: (4, 1)}))
    driver.at(0.0, submitted("a", weight=2.0, **more), submitted("b", weight=1.0, **more), *events)  # type: ignore[arg-type]
    return driver


def has(driver: SchedulerDriver, name: str) -> tuple[int, int]:
    """GPUs and clock of a job; the clock is 0 while it waits."""
    row = driver.row(name)
    return int(row["gpus"]), int(row["clock"]) if row["gpus"] else 0


def reading(driver: SchedulerDriver, **job_w: float) -> PowerMetered:
    """Meters that say what these jobs draw, and that the other GPUs idle."""
    slots = np.array([driver.scheduler.slot(name) for name in job_w], np.int64)
    used = driver.scheduler.ledger.rows["gpus"][slots].sum()
    watts = sum(job_w.values()) + float(8 - used) * IDLE_W
    return PowerMetered(watts, slots, np.array(list(job_w.values())), np.ones(len(slots), bool))


# ---- what a cap allows ----


def test_a_cap_holds_from_its_start_to_its_end() -> None:
    cap = PowerCap(100.0, start_s=10.0, end_s=20.0)
    allowed = [cap.allowed_w(s, math.nan) for s in (9.9, 10.0, 19.9, 20.0)]
    assert allowed == [math.inf, 100.0, 100.0, math.inf]


def test_power_goes_down_before_the_start_and_up_after_the_end_as_steeply_as_the_ramp() -> None:
    cap = PowerCap(100.0, start_s=1000.0, end_s=2000.0, ramp_w_per_s=2.0)
    assert cap.allowed_w(990.0, 500.0) == 120.0
    assert cap.allowed_w(2050.0, 500.0) == 200.0
    assert cap.allowed_w(2300.0, 500.0) == 500.0  # what was drawn before, and no more
    assert cap.allowed_w(2000.0 + CALM_S, 500.0) == math.inf


def test_a_deadline_leaves_until_then_to_go_down() -> None:
    cap = PowerCap(100.0, start_s=1000.0, deadline_s=1060.0, ramp_w_per_s=2.0)
    assert [cap.allowed_w(s, math.nan) for s in (999.0, 1000.0, 1060.0)] == [math.inf, 220.0, 100.0]


def test_the_least_of_a_while_is_found_at_corners() -> None:
    cap = PowerCap(100.0, start_s=1000.0, deadline_s=1060.0, end_s=1100.0, ramp_w_per_s=2.0)
    assert cap.least_w(900.0, 999.0, math.nan) == math.inf
    assert cap.least_w(900.0, 1010.0, math.nan) == 200.0
    assert cap.least_w(900.0, 5000.0, math.nan) == 100.0


@given(
    st.floats(0.0, 3000.0),
    st.floats(0.0, 500.0),
    st.sampled_from([None, 1000.0, 1200.0]),
    st.sampled_from([math.inf, 0.5, 3.0]),
    st.sampled_from([math.nan, 50.0, 900.0]),
)
@settings(max_examples=200, deadline=None)
def test_nothing_within_a_while_is_below_its_least(
    from_s: float, for_s: float, deadline_s: float | None, ramp: float, baseline_w: float
) -> None:
    cap = PowerCap(100.0, start_s=1000.0, end_s=2000.0, deadline_s=deadline_s, ramp_w_per_s=ramp)
    least_w = cap.least_w(from_s, from_s + for_s, baseline_w)
    moments = np.linspace(from_s, from_s + for_s, 300)
    lowest_w = min(cap.allowed_w(float(s), baseline_w) for s in moments)
    assert least_w <= lowest_w + 1e-9
    assert least_w == lowest_w or lowest_w - least_w <= (ramp * for_s / 299 if math.isfinite(ramp) else math.inf)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"watts": 0.0}, "watts > 0"),
        ({"watts": math.nan}, "watts > 0"),
        ({"watts": 1.0, "start_s": 5.0, "end_s": 5.0}, "ends before"),
        ({"watts": 1.0, "start_s": 5.0, "deadline_s": 4.0}, "deadline"),
        ({"watts": 1.0, "ramp_w_per_s": 0.0}, "W/s"),
    ],
)
def test_caps_that_cannot_be_are_refused(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        PowerCap(**fields)


def test_scopes_are_racks_rows_or_nodes() -> None:
    spec = build_cluster([NodeGroup("A100", 4, 8, rack_size=2)], source="test")
    assert parse_scope("cluster", spec.nodes) == CLUSTER
    assert parse_scope("rack:rack-1", spec.nodes).nodes == frozenset({"a100-2", "a100-3"})
    assert parse_scope("row:rack-0, rack-1", spec.nodes) == Scope(
        "row:rack-0,rack-1",
        frozenset({"a100-0", "a100-1", "a100-2", "a100-3"}),
        frozenset({"rack-0", "rack-1"}),
    )
    assert parse_scope("nodes:a100-3", spec.nodes).nodes == frozenset({"a100-3"})
    for wrong in ("rack:", "rack:rack-9", "aisle:3", "nodes:gpu7", "rack:rack-0,rack-1", ""):
        with pytest.raises(InputError):
            parse_scope(wrong, spec.nodes)


# ---- what a plan does about it ----


def test_a_cap_decides_at_once_and_slows_the_lightest_job() -> None:
    driver = two_jobs()
    plan = driver.at(1.0, PowerCapSet(PowerCap(2000.0)))
    assert plan.decided
    assert (has(driver, "a"), has(driver, "b")) == ((4, 1), (4, 0))
    assert plan.power_w == pytest.approx(4 * FULL_W + 4 * HALF_W)
    assert plan.cap_w == 2000.0
    assert plan.watt_price == pytest.approx(0.2 / (4 * (FULL_W - HALF_W)))
    assert [change.reason.why for change in plan.changes] == [Why.CAP_RECLOCKED]
    assert plan.changes[0].reason.sentence() == "slowed because of the power cap, from 1400 to 700 MHz"
    assert not plan.changes[0].moved


def test_without_a_cap_a_plan_says_nothing_of_watts() -> None:
    plan = two_jobs().at(100.0, submitted("c"))
    assert math.isnan(plan.power_w)
    assert (plan.cap_w, plan.watt_price, list(plan.notices)) == (math.inf, 0.0, [])


def test_then_gpus_and_at_last_the_lightest_jobs_go() -> None:
    driver = two_jobs()
    plan = driver.at(1.0, PowerCapSet(PowerCap(8 * HALF_W - 1.0)))
    assert (has(driver, "a"), has(driver, "b")) == ((4, 0), (2, 0))
    assert {change.job_id: change.reason.why for change in plan.changes} == {
        "a": Why.CAP_RECLOCKED,
        "b": Why.CAP_SHRUNK,
    }
    driver = two_jobs(gpus_min=4, gpus=4)
    plan = driver.at(1.0, PowerCapSet(PowerCap(8 * HALF_W - 1.0)))
    assert (has(driver, "a"), has(driver, "b")) == ((4, 0), (0, 0))
    assert plan.reasons()["b"].why is Why.CAP_PAUSED
    later = driver.at(100.0, submitted("late"))
    assert later.reasons()["b"].why is Why.WAITS_CAP
    assert later.reasons()["a"].why is Why.CAP_KEPT


def test_a_guarded_job_is_slowed_last() -> None:
    driver = two_jobs()
    driver.scheduler.pools["A100"].guarded.add(driver.scheduler.slot("b"))
    driver.at(1.0, PowerCapSet(PowerCap(2000.0)))
    assert (has(driver, "a"), has(driver, "b")) == ((4, 0), (4, 1))


def test_what_idles_above_the_cap_goes_as_low_as_it_can_and_says_so() -> None:
    driver = two_jobs()
    plan = driver.at(1.0, PowerCapSet(PowerCap(399.0)))
    assert (has(driver, "a"), has(driver, "b")) == ((0, 0), (0, 0))
    assert list(plan.notices) == [
        "power cap on cluster: 399 W are allowed, 400 W are believed to be drawn: all jobs are paused"
    ]


def test_an_empty_cluster_has_nothing_to_pause() -> None:
    driver = SchedulerDriver("prices")
    plan = driver.at(0.0, PowerCapSet(PowerCap(100.0)))
    assert plan.decided
    assert plan.power_w == 400.0
    assert len(plan.notices) == 1


def test_a_node_is_capped_alone() -> None:
    driver = two_jobs()
    (share,) = driver.scheduler.pools["A100"].occupancy.placement(driver.scheduler.slot("a"))
    scope = Scope(f"nodes:{share.node}", frozenset({share.node}))
    driver.at(1.0, PowerCapSet(PowerCap(600.0, scope)))
    assert (has(driver, "a"), has(driver, "b")) == ((4, 0), (4, 1))
    plan = driver.at(2.0, PowerCapSet(PowerCap(320.0, scope)))  # 2 of them at 110 W and 2 idle
    assert (has(driver, "a"), has(driver, "b")) == ((2, 0), (4, 1))
    assert driver.scheduler.pools["A100"].occupancy.placement(driver.scheduler.slot("a"))[0].node == share.node
    assert [change.reason.why for change in plan.changes] == [Why.CAP_SHRUNK]
    # the policy still wants it on four GPUs: it is not moved to and fro
    assert not driver.at(100.0, submitted("late")).changes


def test_caps_within_caps_hold_together() -> None:
    driver = two_jobs()
    (share,) = driver.scheduler.pools["A100"].occupancy.placement(driver.scheduler.slot("a"))
    inner = PowerCap(600.0, Scope(f"nodes:{share.node}", frozenset({share.node})))
    driver.at(1.0, PowerCapSet(inner), PowerCapSet(PowerCap(1000.0)))
    assert (has(driver, "a"), has(driver, "b")) == ((4, 0), (4, 0))


def test_a_lifted_cap_gives_back_what_it_took() -> None:
    driver = two_jobs(PowerCapSet(PowerCap(1000.0)))
    assert (has(driver, "a"), has(driver, "b")) == ((4, 0), (4, 0))
    plan = driver.at(10.0, PowerCapLifted("cluster"))
    assert plan.decided
    assert driver.at(20.0, PowerCapLifted("rack:none")).ignored == ["there is no power cap on rack:none"]


def test_after_a_lift_power_rises_on_the_ramp_above_what_was_drawn_before() -> None:
    driver = SchedulerDriver(Told({0: (4, 1)}))  # an idle cluster: 400 W
    driver.at(0.0, PowerCapSet(PowerCap(700.0, start_s=0.0, ramp_w_per_s=2.0)))
    driver.at(100.0, PowerCapLifted("cluster"))
    limit_w = driver.scheduler.caps.limit_w
    assert [limit_w(CLUSTER, s, s) for s in (100.0, 150.0, 400.0)] == [700.0, 800.0, 1300.0]
    driver.at(200.0, submitted("a"))
    assert [limit_w(CLUSTER, s, s) for s in (200.0, 400.0)] == [900.0, 1300.0]


def test_after_the_end_nothing_draws_more_than_before() -> None:
    driver = SchedulerDriver(Told({0: (4, 1)}))
    driver.at(0.0, submitted("a"))
    before_w = 4 * 250.0 + 4 * 50.0
    driver.at(100.0, PowerCapSet(PowerCap(700.0, start_s=100.0, end_s=200.0)))
    driver.tell({0: (4, 1), 1: (4, 1)})
    driver.at(150.0, submitted("b"))
    plan = driver.at(200.0)
    assert plan.decided
    assert 700.0 < plan.power_w <= before_w
    plan = driver.at(200.0 + CALM_S)
    assert plan.decided
    assert (has(driver, "a"), has(driver, "b")) == ((4, 1), (4, 1))
    assert driver.at(300.0 + CALM_S, submitted("c")).cap_w == math.inf


def test_what_was_drawn_long_before_is_no_measure() -> None:
    driver = two_jobs()
    driver.at(1.0, reading(driver, a=1000.0, b=1000.0))
    later_s = 2 * CALM_S
    driver.at(later_s, Completed("b"), PowerCapSet(PowerCap(700.0, start_s=later_s, end_s=later_s + 100.0)))
    after_s = later_s + 200.0
    assert driver.scheduler.caps.limit_w(CLUSTER, after_s, after_s) == pytest.approx(1000.0 + 4 * IDLE_W)


def test_a_cap_on_a_rack_covers_nodes_that_join_the_rack_later() -> None:
    driver = two_jobs()
    here, there = (node.name for node in driver.scheduler.nodes())
    rack = driver.scheduler.nodes()[0].rack
    cap = PowerCap(2000.0, named_scope(f"rack:{rack}", driver.scheduler.nodes()))
    driver.at(1.0, PowerCapSet(cap))
    caps = driver.scheduler.caps
    assert [scope.nodes for scope in caps.scopes()] == [None]  # the rack is the whole cluster
    driver.at(2.0, NodeAdded(Node(2, "late", "A100", 4, rack)), NodeAdded(Node(3, "far", "A100", 4, "another")))
    assert [scope.nodes for scope in caps.scopes()] == [frozenset({here, there, "late"})]
    assert caps.idle_w(caps.scopes()[0]) == pytest.approx(12 * IDLE_W)


def test_a_cap_on_a_node_that_is_not_there_holds_once_it_joins() -> None:
    driver = two_jobs()
    plan = driver.at(1.0, PowerCapSet(PowerCap(4 * IDLE_W + 1.0, named_scope("nodes:late", driver.scheduler.nodes()))))
    assert not plan.ignored
    rack = driver.scheduler.nodes()[0].rack
    driver.tell({0: (4, 1), 1: (4, 1), 2: (4, 1)})
    driver.at(100.0, NodeAdded(Node(2, "late", "A100", 4, rack)), submitted("c"))
    (scope,) = driver.scheduler.caps.scopes()
    assert driver.scheduler.caps.drawn_w(scope) <= 4 * IDLE_W + 1.0


# ---- when it decides ----


def test_it_wakes_for_start_and_end() -> None:
    driver = two_jobs(pause_s=0.0)
    plan = driver.at(70.0, PowerCapSet(PowerCap(1000.0, start_s=1000.0, end_s=2000.0)))
    assert (has(driver, "a"), has(driver, "b")) == ((4, 1), (4, 1))
    assert plan.wake_s == 1000.0
    plan = driver.at(1000.0)
    assert (has(driver, "a"), has(driver, "b")) == ((4, 0), (4, 0))
    assert plan.wake_s == 2000.0


def test_jobs_that_have_to_stop_begin_to_before_it_is_due() -> None:
    driver = two_jobs(gpus_min=4, gpus=4)
    assert driver.at(70.0, PowerCapSet(PowerCap(700.0, start_s=1000.0))).wake_s == 970.0  # a pause takes 30 s
    driver.at(970.0)
    assert has(driver, "b") == (0, 0)
    driver = two_jobs(gpus_min=4, gpus=4)
    driver.at(70.0, PowerCapSet(PowerCap(1000.0, start_s=1000.0)))
    driver.at(970.0)
    assert (has(driver, "a"), has(driver, "b")) == ((4, 1), (4, 1))  # clocks need no time


def test_on_a_ramp_it_decides_step_by_step_and_stays_below_the_line() -> None:
    driver = two_jobs()
    cap = PowerCap(1000.0, start_s=1000.0, end_s=1200.0, ramp_w_per_s=10.0)
    plan = driver.at(70.0, PowerCapSet(cap))
    decisions = 0
    while plan.wake_s < 1500.0:
        plan = driver.at(plan.wake_s)
        decisions += 1
        assert plan.power_w <= cap.least_w(plan.now_s, min(plan.wake_s, plan.now_s + STEP_S), 8 * 250.0)
    assert decisions > 30
    assert plan.power_w > 1000.0


def test_the_meter_corrects_the_belief_at_once() -> None:
    driver = two_jobs(PowerCapSet(PowerCap(1800.0)))
    assert (has(driver, "a"), has(driver, "b")) == ((4, 1), (4, 0))
    plan = driver.at(1.0, reading(driver, a=1300.0, b=520.0))  # more than was reckoned with, above the cap
    assert plan.decided
    assert (has(driver, "a"), has(driver, "b")) == ((4, 0), (4, 0))


def test_jobs_that_draw_less_than_was_reckoned_with_may_run_faster() -> None:
    driver = two_jobs(PowerCapSet(PowerCap(2080.0)))
    assert has(driver, "b") == (4, 0)
    assert not driver.at(1.0, reading(driver, a=1000.0, b=400.0)).decided  # no breach: in its time
    driver.at(60.0, submitted("late"))
    assert (has(driver, "a"), has(driver, "b")) == ((4, 1), (4, 1))


def test_what_nobody_can_explain_is_kept_free() -> None:
    driver = two_jobs(PowerCapSet(PowerCap(2000.0)))
    rest = reading(driver, a=1000.0, b=400.0)
    more = PowerMetered(rest.watts + 700.0, rest.slots, rest.job_w, rest.steady)  # hosts, fans
    plan = driver.at(1.0, more)
    assert plan.decided
    assert plan.power_w <= 2000.0
    assert has(driver, "a") == (4, 0)


def test_a_reading_of_jobs_that_are_gone_is_no_fault() -> None:
    driver = two_jobs(PowerCapSet(PowerCap(2000.0)))
    driver.at(1.0, PowerMetered(1500.0, np.array([63, 5]), np.array([100.0, 1.0]), np.ones(2, bool)))


def test_a_belief_that_turns_out_dearer_leads_to_a_decision_at_once() -> None:
    driver = two_jobs(PowerCapSet(PowerCap(2000.0)))
    plan = driver.at(1.0, CostLearned("linear", "A100", table([8.0, 4.0, 2.0, 1.0], (120.0, 400.0))))
    assert plan.decided
    assert (has(driver, "a"), has(driver, "b")) == ((4, 0), (4, 0))
    assert not driver.at(2.0, CostLearned("linear", "A100", LINEAR)).decided


def test_a_node_that_comes_back_idles_and_counts() -> None:
    driver = SchedulerDriver(Told({0: (4, 1)}))
    driver.at(0.0, submitted("a"), NodeFailed("a100-1"), PowerCapSet(PowerCap(1200.0)))
    assert has(driver, "a") == (4, 1)
    assert driver.at(1.0, NodeRecovered("a100-1")).decided
    assert has(driver, "a") == (4, 0)


# ---- nodes that sleep ----


def sleepy(watts: float) -> tuple[Scheduler, Plan]:
    """Four sleeping nodes of four GPUs (500 W awake, 20 W asleep), a cap, and a queue that could use all."""
    spec = build_cluster([NodeGroup("A100", 4, 4, idle_w=300.0, can_sleep=True, sleep_w=20.0, wake_s=90.0)], source="x")
    scheduler = Scheduler(spec, {"A100": axes()}, {"A100": IDLE_W}, load("prices"))
    scheduler.step(0.0, [CostLearned("linear", "A100", LINEAR)])
    scheduler.step(1e5, [CostLearned("linear", "A100", LINEAR)])
    assert scheduler.pools["A100"].occupancy.asleep == 16
    queue = [submitted(f"job-{i}", gpus_max=4) for i in range(8)]
    plan = scheduler.step(2e5, [PowerCapSet(PowerCap(watts)), *queue])
    check(scheduler, plan)
    return scheduler, plan


@pytest.mark.parametrize(("watts", "woken"), [(5000.0, 4), (1700.0, 2), (900.0, 1), (300.0, 0)])
def test_no_more_nodes_are_woken_than_may_be_awake(watts: float, woken: int) -> None:
    _, plan = sleepy(watts)
    assert len(plan.woken) == woken
    assert plan.power_w <= watts
    assert not plan.notices


def test_two_types_of_gpus_share_a_cap() -> None:
    driver = SchedulerDriver(Told({0: (4, 1), 1: (2, 1)}), "1x4:A100+1x2:T4")
    driver.at(0.0, submitted("a", gpu_type="A100"), submitted("t", gpu_type="T4"), PowerCapSet(PowerCap(1000.0)))
    assert (has(driver, "a"), has(driver, "t")) == ((4, 0), (2, 1))  # either loses a fifth: four GPUs save more
    plan = driver.at(1.0, PowerCapSet(PowerCap(900.0)))
    assert (has(driver, "a"), has(driver, "t")) == ((4, 0), (2, 0))
    assert plan.power_w == pytest.approx(6 * HALF_W)
