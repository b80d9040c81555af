"""When the scheduler decides, what it takes note of, and what it passes over."""

from __future__ import annotations

import math

import numpy as np
import pytest

from powerflow.cluster.occupancy import NodeShare
from powerflow.cluster.spec import NodeGroup, build_cluster
from powerflow.energy.terms import EnergyTerms
from powerflow.policy.protocol import Allocation, View
from powerflow.scheduler.check import PolicyError
from powerflow.scheduler.events import (
    Adopted,
    Cancelled,
    Completed,
    CostLearned,
    Failed,
    GpuFailed,
    GpuRecovered,
    NodeDrained,
    NodeFailed,
    NodeRecovered,
    Progress,
    SizeLearned,
)
from powerflow.scheduler.scheduler import Scheduler
from powerflow.testing.invariants import check
from tests.scheduler.situations import IDLE_W, LINEAR, SchedulerDriver, Told, axes, submitted, table

FULL = 1


def test_decisions_are_60_s_apart() -> None:
    driver = SchedulerDriver("fifo")
    assert driver.at(0, submitted("a")).decided
    early = driver.at(10, submitted("b", gpus=8))
    assert (early.decided, early.changes, early.wake_s) == (False, (), 60.0)
    assert driver.at(59.9, SizeLearned("b", 5.0)).wake_s == 60.0
    due = driver.at(60, Completed("a"))
    assert due.decided
    assert not due.early
    assert [change.job_id for change in due.changes] == ["b"]
    assert due.wake_s == math.inf  # FIFO does nothing unless something happens
    late = driver.at(1000, submitted("c"))  # nothing was decided for long: at once
    assert late.decided


def test_nothing_happened_nothing_decided() -> None:
    driver = SchedulerDriver("fifo")
    driver.at(0, submitted("a"))
    plan = driver.at(500)
    assert (plan.decided, plan.wake_s) == (False, math.inf)
    assert plan.reasons() == {}


def test_policies_with_a_period_are_asked_again_while_jobs_are_active() -> None:
    driver = SchedulerDriver("optimus")  # rounds of 600 s
    assert driver.at(0, submitted("a")).wake_s == 600.0
    assert driver.at(599).decided is False
    assert driver.at(600).decided
    assert driver.at(700, Completed("a")).wake_s == math.inf


def test_a_shorter_period_does_not_break_the_interval() -> None:
    told = Told()
    told.period_s = 5.0
    driver = SchedulerDriver(told)
    assert driver.at(0, submitted("a")).wake_s == 60.0


def test_progress_never_takes_work_back_but_a_failure_does() -> None:
    driver = SchedulerDriver(Told({0: (2, FULL)}))
    driver.at(0, submitted("a"), submitted("b"))
    driver.at(10, driver.done(a=500.0))
    driver.at(11, driver.done(a=200.0))
    assert driver.row("a")["done"] == 500.0
    driver.tell({})
    driver.at(12, Failed("a", retry=True, done=120.0))  # since the checkpoint at 120 all is lost
    assert driver.row("a")["done"] == 120.0
    assert driver.row("a")["gpus"] == 0
    slot = driver.scheduler.slot("a")
    driver.at(13, Progress(np.array([slot, -1, 10**9]), np.array([np.nan, 1.0, 1.0])))
    assert driver.row("a")["done"] == 120.0


def _as_seen(driver: SchedulerDriver, now_s: float, column: str) -> float:
    rows = driver.scheduler.ledger.view_rows(np.array([driver.scheduler.slot("a")]), now_s)
    return float(rows[column][0])


def test_attained_service_is_settled_whenever_the_count_changes() -> None:
    driver = SchedulerDriver(Told({0: (2, FULL)}))
    driver.at(0, submitted("a"))
    assert _as_seen(driver, 50.0, "attained_gpu_s") == 100.0
    driver.tell({0: (4, FULL)})
    driver.at(100, EnergyTerms(0.1))
    assert _as_seen(driver, 150.0, "attained_gpu_s") == 2 * 100 + 4 * 50
    driver.tell({})
    driver.at(200, EnergyTerms(0.2))
    assert _as_seen(driver, 1000.0, "attained_gpu_s") == 2 * 100 + 4 * 100


def test_a_job_that_outlives_its_prediction_is_expected_to_need_a_tenth_of_what_it_had() -> None:
    driver = SchedulerDriver(Told({0: (2, FULL)}))
    driver.at(0, submitted("a", 100.0))
    assert _as_seen(driver, 0.0, "remaining") == 100.0
    driver.at(60, driver.done(a=30.0))
    assert _as_seen(driver, 60.0, "remaining") == 70.0
    driver.at(120, driver.done(a=150.0))
    assert _as_seen(driver, 120.0, "remaining") == 15.0


def test_what_cannot_be_used_is_listed_and_changes_nothing() -> None:
    driver = SchedulerDriver(Told({0: (2, FULL)}))
    driver.at(0, submitted("a"))
    plan = driver.at(
        1000,
        submitted("a"),
        submitted("x", gpu_type="H100"),
        Completed("nobody"),
        Failed("nobody", retry=True),
        Failed("nobody", retry=False),
        Cancelled("nobody"),
        CostLearned("linear", "H100", LINEAR),
        NodeFailed("nowhere"),
        NodeDrained("nowhere"),
        NodeRecovered("nowhere"),
    )
    assert len(plan.ignored) == 10
    assert plan.ignored[:2] == ["job a is active already", "job x needs H100: this cluster has none"]
    assert plan.decided is False
    assert driver.scheduler.submitted == 1


def test_every_job_ends_one_way_and_a_name_may_come_back() -> None:
    driver = SchedulerDriver("fifo")
    driver.at(0, *(submitted(name) for name in "abcd"))
    driver.at(100, Completed("a"), Failed("b", retry=False), Cancelled("c"), Completed("a"), submitted("a"))
    assert driver.scheduler.ended == {"completed": 1, "failed": 1, "cancelled": 1}
    assert driver.scheduler.submitted == 5
    assert set(driver.scheduler.ledger.slot_of) == {"a", "d"}


def test_more_jobs_than_slots_at_first() -> None:
    driver = SchedulerDriver("fifo")
    driver.at(0, *(submitted(f"job-{i}") for i in range(200)))
    driver.at(60, *(Cancelled(f"job-{i}") for i in range(0, 200, 2)))
    plan = driver.at(120, *(submitted(f"more-{i}") for i in range(150)))
    assert len(plan.reasons()) == 250


def test_gpus_are_given_up_before_they_are_taken() -> None:
    driver = SchedulerDriver(Told({0: (4, FULL), 1: (4, FULL)}))
    driver.at(0, *(submitted(name) for name in "abcd"))
    driver.tell({0: (1, FULL), 2: (4, FULL), 3: (2, FULL)})
    plan = driver.at(60, EnergyTerms(1.0))
    assert [(c.job_id, c.gpus) for c in plan.changes] == [("b", 0), ("a", 1), ("d", 2), ("c", 4)]
    free = 8 - 4 - 4
    for change in plan.changes:
        free -= change.gpus - change.reason.gpus_before
        assert free >= 0


def test_drained_nodes_take_nobody_new_and_recovered_ones_do() -> None:
    driver = SchedulerDriver("fifo")
    driver.at(0, NodeDrained("a100-0"), submitted("a", gpus=4), submitted("b", gpus=4))
    assert (driver.row("a")["gpus"], driver.row("b")["gpus"]) == (4, 0)
    driver.at(60, NodeRecovered("a100-0"))
    assert driver.row("b")["gpus"] == 4


def test_a_node_that_is_back_before_the_next_decision_keeps_its_jobs() -> None:
    driver = SchedulerDriver(Told({0: (8, FULL)}))
    driver.at(0, submitted("a"))
    driver.at(10, NodeDrained("a100-0"), NodeDrained("a100-1"), NodeRecovered("a100-0"))
    assert driver.scheduler.pools["A100"].evicted == {0}  # half of it is still on a node that drains
    driver.at(20, NodeRecovered("a100-1"))
    assert driver.at(60).changes == []


def test_a_job_leaves_a_pool_that_broke_down() -> None:
    driver = SchedulerDriver("fifo", "1x4:A100+1x4:T4")
    driver.at(0, submitted("a", gpus=4))
    before = driver.scheduler.pools["A100"]
    assert list(before.active) == [driver.scheduler.slot("a")]
    plan = driver.at(60, NodeFailed("a100-0"))
    assert [(c.job_id, c.pool, c.gpus) for c in plan.changes] == [("a", "T4", 4)]
    assert not before.active


def test_a_job_does_not_go_where_its_least_count_does_not_exist() -> None:
    # The A100 are crowded and the two T4 free; but the job needs four GPUs.
    driver = SchedulerDriver("fifo", "1x4:A100+1x2:T4")
    driver.at(0, *(submitted(f"big-{i}", gpus=4, gpus_min=4) for i in range(3)))
    assert len(driver.scheduler.pools["A100"].active) == 3
    driver.at(60, submitted("small"))
    assert len(driver.scheduler.pools["T4"].active) == 1


def test_waiting_jobs_stay_in_order_of_submission_when_they_change_pools() -> None:
    driver = SchedulerDriver("fifo", "1x4:A100+1x4:T4")
    driver.at(0, NodeFailed("a100-0"), NodeFailed("t4-0"))
    driver.at(60, submitted("a", gpus=4), submitted("b", gpus=4, gpu_type="T4"), submitted("c", gpus=4))
    driver.at(120, NodeRecovered("t4-0"))  # a and c follow it; b was there
    assert [driver.scheduler.ledger.job(slot).id for slot in driver.scheduler.pools["T4"].active] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({0: (8, FULL), 1: (1, FULL)}, "gave out 9 GPUs of 8"),
        ({0: (3, FULL)}, "3 GPUs, a count that is not in the cost tables"),
        ({0: (-1, FULL)}, "-1 GPUs, a count that is not in the cost tables"),
        ({0: (16, FULL)}, "16 GPUs, a count that is not in the cost tables"),
        ({0: (1, 2)}, "clock 2 of 2"),
        ({1: (4, FULL)}, r"on which it cannot run \(its limits are 1 to 2\)"),
        ({2: (8, FULL)}, "8 GPUs, on which it cannot run"),
    ],
)
def test_a_policy_that_breaks_a_rule_is_named(answer: dict[int, tuple[int, int]], words: str) -> None:
    driver = SchedulerDriver(Told(answer))
    one_node = CostLearned("one node", "A100", table([8.0, 4.0, 2.0, math.inf]))
    with pytest.raises(PolicyError, match=f"policy told: .*{words}"):
        driver.at(0, one_node, submitted("a"), submitted("b", gpus_max=2), submitted("c", cost_class="one node"))


def test_an_answer_that_is_no_whole_number_is_the_policys_fault() -> None:
    class Half(Told):
        def decide(self, view: View) -> Allocation:
            allocation = super().decide(view)
            allocation.gpus = allocation.gpus / 2  # type: ignore[assignment]
            return allocation

    with pytest.raises(PolicyError, match="policy told: answered with float64 GPUs and int64 clocks"):
        SchedulerDriver(Half({0: (1, FULL)})).at(0, submitted("a"))


def test_nodes_fall_asleep_when_empty_and_wake_for_a_job() -> None:
    # Awake and empty a node draws 300 + 4·50 = 500 W, asleep 100 W; waking takes 120 s. Idling has cost what waking
    # costs after 120·500/400 = 150 s.
    node = NodeGroup("A100", 2, 4, idle_w=300.0, can_sleep=True, sleep_w=100.0, wake_s=120.0)
    scheduler = Scheduler(
        build_cluster([node], source="test"), {"A100": axes()}, {"A100": IDLE_W}, Told({0: (8, FULL)})
    )
    first = scheduler.step(0.0, [CostLearned("linear", "A100", LINEAR)])
    assert (first.asleep, first.wake_s) == ([], 150.0)
    second = scheduler.step(150.0, [])
    assert sorted(second.asleep) == ["a100-0", "a100-1"]
    third = scheduler.step(1000.0, [submitted("a")])
    assert sorted(third.woken) == ["a100-0", "a100-1"]
    assert [(c.gpus, c.wake_s) for c in third.changes] == [(8, 120.0)]
    check(scheduler, third)


def test_what_a_controller_finds_running_stays_where_it_is() -> None:
    driver = SchedulerDriver(Told({0: (2, 0)}), "2x4:A100+1x4:T4")
    there = (NodeShare("t4-0", (1, 3)),)
    plan = driver.at(0, submitted("a"), Adopted("a", "T4", there, 700.0))
    assert list(plan.changes) == []
    occupancy = driver.scheduler.pools["T4"].occupancy
    assert occupancy.placement(driver.scheduler.slot("a")) == there
    assert plan.reasons()["a"].why == "kept"


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Adopted("b", "A100", (NodeShare("a100-0", (0,)),), 700.0), "not active"),
        (Adopted("a", "H100", (NodeShare("a100-0", (0,)),), 700.0), "this cluster has none"),
        (Adopted("a", "A100", (NodeShare("a100-0", (0, 1, 2)),), 700.0), "3 GPUs are no count"),
        (Adopted("a", "A100", (NodeShare("gone", (0,)),), 700.0), "there is no node gone"),
        (Adopted("a", "A100", (NodeShare("a100-0", (9,)),), 700.0), "cannot be placed"),
        (SizeLearned("b", 3.0), "not active"),
    ],
)
def test_what_cannot_be_adopted_waits(event: Adopted | SizeLearned, words: str) -> None:
    driver = SchedulerDriver(Told())
    plan = driver.at(0, submitted("a"), event)
    assert len(plan.ignored) == 1
    assert words in plan.ignored[0]
    assert driver.row("a")["gpus"] == 0


def test_a_size_that_becomes_known_is_believed() -> None:
    driver = SchedulerDriver("fifo")
    driver.at(0, submitted("a", 1000.0))
    driver.at(60, SizeLearned("a", 5000.0), driver.done(a=100.0))
    assert driver.scheduler.ledger.remaining(driver.scheduler.slot("a")) == 4900.0


def test_a_gpu_that_leaves_service_sends_its_job_back_and_is_given_to_nobody() -> None:
    driver = SchedulerDriver("fifo", "1x4:A100")
    driver.at(0, submitted("a", gpus=2), submitted("b", gpus=2))
    occupancy, a, b = driver.scheduler.pools["A100"].occupancy, driver.scheduler.slot("a"), driver.scheduler.slot("b")
    (lost,) = occupancy.placement(a)
    plan = driver.at(60, GpuFailed("a100-0", lost.gpus[0]))
    assert [(change.job_id, change.gpus) for change in plan.changes] == []  # three are left: b's two, and one
    assert (occupancy.gpus_of(a), occupancy.gpus_of(b), occupancy.up) == (0, 2, 3)
    plan = driver.at(120, submitted("c", gpus=1), GpuFailed("a100-0", lost.gpus[0]), GpuFailed("a100-0", 4))
    assert plan.ignored == ["there is no GPU 4 in a node a100-0"]
    plan = driver.at(180, GpuRecovered("a100-0", lost.gpus[0]), GpuFailed("nowhere", 0))
    assert plan.ignored == ["node nowhere is unknown"]
    assert occupancy.placement(a) == (lost,)


def test_a_job_is_not_adopted_on_a_gpu_that_is_out_of_service() -> None:
    driver = SchedulerDriver("fifo", "1x2:A100")
    found = Adopted("a", "A100", (NodeShare("a100-0", (0, 1)),), 1400.0)
    plan = driver.at(0, GpuFailed("a100-0", 1), submitted("a", gpus=2), found)
    assert "cannot be adopted" in plan.ignored[0]
