"""Nodes that sleep: when, how long they are expected to, and what happens to them meanwhile."""

from __future__ import annotations

import math

import pytest

from powerflow.cluster.occupancy import Occupancy
from powerflow.cluster.spec import Node, NodeGroup, build_cluster
from powerflow.policy.protocol import Policy
from powerflow.scheduler.events import Completed, CostLearned, Event, NodeDrained, NodeFailed, NodeRecovered
from powerflow.scheduler.plan import Plan, Why
from powerflow.scheduler.scheduler import Scheduler
from powerflow.scheduler.sleep import Sleepers, baseline_watts, patience_s
from powerflow.testing.invariants import check
from tests.scheduler.situations import IDLE_W, LINEAR, Told, axes, first_counts, submitted

FULL = 1
#: Awake and empty a node of four draws 300 + 4·50 = 500 W, asleep 100 W; waking takes 120 s. Idling has cost what
#: waking costs after 120·500/400 = 150 s.
GROUP = NodeGroup("A100", 2, 4, idle_w=300.0, can_sleep=True, sleep_w=100.0, wake_s=120.0)


def nodes(count: int = 2, *, can_sleep: bool = True) -> tuple[Node, ...]:
    return tuple(Node(i, f"n{i}", "A100", 4, "r", 300.0, can_sleep, 100.0, 120.0) for i in range(count))


class Sleepy:
    """A scheduler on sleeping nodes, checked after every step."""

    def __init__(self, policy: Policy, energy_price: float = 0.0, group: NodeGroup = GROUP) -> None:
        spec = build_cluster([group], source="test")
        counts = [n for n in (1, 2, 4, 8) if n <= 4 * group.count]
        self.scheduler = Scheduler(
            spec, {"A100": axes(counts=counts)}, {"A100": IDLE_W}, policy, energy_price=energy_price
        )
        self.occupancy = self.scheduler.pools["A100"].occupancy
        self.at(0.0, CostLearned("linear", "A100", first_counts(LINEAR, len(counts))))

    def at(self, now_s: float, *events: Event) -> Plan:
        plan = self.scheduler.step(now_s, events)
        check(self.scheduler, plan)
        return plan

    def row_gpus(self, job: str) -> int:
        return int(self.scheduler.ledger.rows["gpus"][self.scheduler.slot(job)])

    def node_of(self, job: str) -> str:
        (share,) = self.occupancy.placement(self.scheduler.slot(job))
        return share.node


def test_patience_is_what_waking_costs() -> None:
    (node,) = nodes(1)
    assert patience_s(node, 50.0) == 150.0
    assert patience_s(Node(0, "n", "A100", 4, "r", 0.0, True, 300.0, 120.0), 50.0) == math.inf  # it saves nothing


def test_a_gpu_in_use_adds_its_host_only_where_every_host_sleeps() -> None:
    assert baseline_watts(nodes(), 50.0) == (100.0 - 300.0) / 4
    assert baseline_watts((*nodes(1), *nodes(1, can_sleep=False)), 50.0) == 50.0


def test_pools_without_such_nodes_have_no_sleepers() -> None:
    assert not Sleepers(nodes(can_sleep=False), 50.0)
    assert Sleepers((*nodes(1), *nodes(1, can_sleep=False)), 50.0)


def test_as_many_nodes_wake_as_are_short() -> None:
    pool, sleepers = Occupancy(nodes(3)), Sleepers(nodes(3), 50.0)
    assert sleepers.sleep(pool, 0.0) == []
    assert sleepers.due_s() == 150.0
    assert sleepers.sleep(pool, 150.0) == ["n0", "n1", "n2"]
    assert sleepers.due_s() == math.inf
    assert sleepers.wake(pool, 5, 1000.0) == ["n0", "n1"]
    assert sleepers.wake(pool, 5, 1000.0) == []
    pool.allocate(0, 8)
    assert (sleepers.wait_s(pool, 0, 1000.0), sleepers.wait_s(pool, 0, 1100.0), sleepers.wait_s(pool, 0, 2000.0)) == (
        120.0,
        20.0,
        0.0,
    )


def test_expected_sleep_is_the_mean_of_what_was() -> None:
    pool, sleepers = Occupancy(nodes()), Sleepers(nodes(), 50.0)
    assert sleepers.expected_sleep_s(0.0) == 150.0  # nothing known but the patience
    pool.allocate(0, 4)
    sleepers.sleep(pool, 0.0)
    assert sleepers.sleep(pool, 150.0) == ["n1"]
    assert sleepers.expected_sleep_s(1150.0) == (150.0 + 1000.0) / 2  # n1 still sleeps
    sleepers.wake(pool, 4, 2150.0)
    pool.allocate(1, 4)
    sleepers.sleep(pool, 2150.0)
    assert sleepers.expected_sleep_s(9000.0) == (150.0 + 2000.0) / 2
    pool.release(0)
    sleepers.sleep(pool, 3000.0)
    assert sleepers.expected_sleep_s(3100.0) == (150.0 + 2000.0) / 2  # n0 is empty; whether it will sleep is open
    pool.allocate(0, 4)
    sleepers.sleep(pool, 3100.0)
    assert sleepers.expected_sleep_s(3100.0) == (150.0 + 2000.0 + 0.0) / 3  # used again before it slept
    # asleep 400 W less than awake; waking takes 120 s at 500 W, and somebody waits for it
    mean_s = 2150.0 / 3
    assert sleepers.gains(0.01, 3100.0) == pytest.approx([0.01 * (400 * mean_s - 60_000) - 120] * 2)


def test_only_recent_stretches_count() -> None:
    pool, sleepers = Occupancy(nodes()), Sleepers(nodes(), 50.0)
    now_s = 0.0
    pool.allocate(0, 4)
    for length_s in [50_000.0, *[1150.0] * 32]:  # each sleeps 1000 s of its last 1150 s
        sleepers.sleep(pool, now_s)
        sleepers.sleep(pool, now_s + 150.0)
        now_s += length_s
        sleepers.wake(pool, 4, now_s)
        pool.allocate(1, 4)
        sleepers.sleep(pool, now_s)
        pool.release(1)
        now_s += 10.0
    assert sleepers.expected_sleep_s(now_s) == (150.0 + 32 * 1000.0) / 33


def test_nodes_that_cannot_sleep_gain_nothing() -> None:
    mixed = (*nodes(1), Node(1, "other", "A100", 4, "r", 300.0))
    sleepers = Sleepers(mixed, 50.0)
    assert sleepers.gains(10.0, 0.0).tolist() == [10.0 * (400.0 * 150.0 - 60_000.0) - 120.0, 0.0]


def before_emptying(energy_price: float) -> Sleepy:
    """Jobs a and b hold two GPUs each of one node, c holds one of the other, which was woken after 9000 s of sleep."""
    driver = Sleepy(Told({0: (2, FULL), 1: (2, FULL), 2: (1, FULL)}), energy_price)
    driver.at(60.0, submitted("a"), submitted("b"))
    assert driver.at(150.0).asleep == ["a100-1"]
    assert driver.at(9150.0, submitted("c")).woken == ["a100-1"]
    return driver


# The first node was used before it slept, the other slept 9000 s: the next is expected to take (150 + 0 + 9000)/3 s. It
# saves 400·3050 − 60,000 J = 1.16 MJ and costs a wait of 120 s. To move c costs its pause of 30 s and 1500 J: it pays
# from λ_E = 150/1,158,500 = 1.295e-4 seconds per joule on.
@pytest.mark.parametrize(("energy_price", "moved"), [(0.0, []), (1.29e-4, []), (1.3e-4, ["c"]), (1.0, ["c"])])
def test_a_node_is_emptied_where_its_sleep_is_worth_the_pauses(energy_price: float, moved: list[str]) -> None:
    driver = before_emptying(energy_price)
    plan = driver.at(10_000.0, Completed("b"))
    assert [change.job_id for change in plan.changes] == moved
    assert all(change.moved and change.packed and change.wake_s == 0 for change in plan.changes)
    assert {plan.reasons()[job].why for job in moved} <= {Why.MOVED}
    assert (driver.node_of("a") == driver.node_of("c")) == bool(moved)
    assert list(driver.at(10_150.0).asleep) == (["a100-1"] if moved else [])


def test_a_job_that_moves_anyway_does_not_pay_again() -> None:
    driver = before_emptying(1.29e-4)
    told = driver.scheduler.policies["A100"]
    assert isinstance(told, Told)
    told.answer = {0: (2, FULL), 2: (2, FULL)}  # c grows, and is placed with a
    plan = driver.at(10_000.0, Completed("b"))
    assert [(change.job_id, change.reason.why) for change in plan.changes] == [("c", Why.GROWN)]
    assert driver.node_of("a") == driver.node_of("c")


# -- what happens to nodes meanwhile ----------------------------------------------------------------------------------


def asleep() -> Sleepy:
    """Job a fills one node, the other sleeps since 150 s."""
    driver = Sleepy(Told({0: (4, FULL), 1: (2, FULL)}))
    driver.at(60.0, submitted("a"))
    assert driver.at(150.0).asleep == ["a100-1"]
    return driver


def test_a_free_gpu_that_is_awake_is_taken_before_a_node_is_woken() -> None:
    driver = Sleepy(Told({0: (2, FULL), 1: (2, FULL), 2: (1, FULL)}))
    driver.at(60.0, submitted("a"))
    assert driver.at(150.0).asleep == ["a100-1"]
    second = driver.at(1000.0, submitted("b"))
    assert (second.woken, [change.wake_s for change in second.changes]) == ([], [0.0])
    third = driver.at(2000.0, submitted("c"))
    assert (third.woken, [change.wake_s for change in third.changes]) == (["a100-1"], [120.0])


def test_a_node_that_fails_asleep_is_not_woken_and_comes_back_awake() -> None:
    driver = asleep()
    driver.at(1000.0, NodeFailed("a100-1"))
    assert driver.occupancy.up == 4
    plan = driver.at(2000.0, NodeRecovered("a100-1"))
    assert (plan.asleep, plan.wake_s) == ([], 2150.0)  # it waits as any empty node does
    used = driver.at(2100.0, submitted("b"))
    assert (used.woken, [change.wake_s for change in used.changes]) == ([], [0.0])


def test_a_node_that_fails_asleep_and_is_back_at_once_is_awake() -> None:
    driver = asleep()
    plan = driver.at(1000.0, NodeFailed("a100-1"), NodeRecovered("a100-1"))
    assert (plan.asleep, plan.wake_s) == ([], 1150.0)
    assert driver.at(1150.0).asleep == ["a100-1"]


def test_a_node_that_fails_while_it_wakes_takes_its_job_along() -> None:
    driver = asleep()
    assert [change.wake_s for change in driver.at(1000.0, submitted("b")).changes] == [120.0]
    told = driver.scheduler.policies["A100"]
    assert isinstance(told, Told)
    told.answer = {0: (4, FULL)}
    driver.at(1060.0, NodeFailed("a100-1"))
    assert driver.row_gpus("b") == 0
    told.answer = {0: (4, FULL), 1: (2, FULL)}
    (change,) = driver.at(5000.0, NodeRecovered("a100-1")).changes
    assert (change.job_id, change.reason.why, change.wake_s) == ("b", Why.RESUMED, 0.0)


def test_a_node_that_drains_while_it_wakes_is_left() -> None:
    driver = asleep()
    driver.at(1000.0, submitted("b"))
    told = driver.scheduler.policies["A100"]
    assert isinstance(told, Told)
    told.answer = {0: (2, FULL), 1: (2, FULL)}
    plan = driver.at(1060.0, NodeDrained("a100-1"))
    assert {change.job_id: (change.gpus, change.moved, change.wake_s) for change in plan.changes} == {
        "a": (2, True, 0.0),
        "b": (2, True, 0.0),
    }
    assert driver.node_of("b") == "a100-0"


def test_a_node_that_is_drained_asleep_stays_off_until_it_is_woken() -> None:
    driver = asleep()
    driver.at(1000.0, NodeDrained("a100-1"))
    assert driver.occupancy.up == 4
    plan = driver.at(2000.0, NodeRecovered("a100-1"))
    assert (plan.asleep, plan.woken, driver.occupancy.up, driver.occupancy.free) == ([], [], 8, 0)
    used = driver.at(3000.0, submitted("b"))
    assert (used.woken, [change.wake_s for change in used.changes]) == (["a100-1"], [120.0])


def test_a_node_that_is_drained_asleep_and_then_fails_comes_back_awake() -> None:
    driver = asleep()
    driver.at(1000.0, NodeDrained("a100-1"))
    driver.at(2000.0, NodeFailed("a100-1"))
    assert driver.at(3000.0, NodeRecovered("a100-1")).wake_s == 3150.0
    assert driver.at(3150.0).asleep == ["a100-1"]
