"""Every kind of reason, produced in a situation small enough to foresee, and how it reads."""

from __future__ import annotations

import pytest

from powerflow.policy.registry import load
from powerflow.scheduler.events import Cancelled, CostLearned, Failed, ManagedProjects, NodeDrained, NodeFailed
from powerflow.scheduler.plan import Reason, Why, nodes_said
from powerflow.scheduler.reasons import beneficiaries
from powerflow.scheduler.rules.rollout import Rollout
from tests.scheduler.situations import SchedulerDriver, Told, submitted, table

FULL, HALF = 1, 0  # clocks


def told() -> SchedulerDriver:
    """A cluster of 2 × 4 GPUs that does as it is told; jobs are numbered by submission."""
    return SchedulerDriver(Told())


def test_started_then_resumed() -> None:
    driver = told()
    driver.tell({0: (2, FULL)})
    reason = driver.at(0, submitted("a")).reasons()["a"]
    assert (reason.why, reason.gpus_before, reason.gpus) == (Why.STARTED, 0, 2)
    assert (reason.clock_before_mhz, reason.clock_mhz) == (0.0, 1400.0)
    assert reason.sentence() == "started on 2 GPUs at 1400 MHz"
    driver.tell({0: (1, HALF)})
    plan = driver.at(60, Failed("a", retry=True))  # its run broke off: it starts a second time
    assert plan.reasons()["a"].why is Why.RESUMED
    assert plan.reasons()["a"].sentence() == "resumed on 1 GPU at 700 MHz"


def test_grown() -> None:
    driver = told()
    driver.tell({0: (2, FULL)})
    driver.at(0, submitted("a"))
    driver.tell({0: (8, FULL)})
    plan = driver.at(60, submitted("b"))
    assert plan.reasons()["a"].why is Why.GROWN
    assert plan.reasons()["a"].sentence() == "grown from 2 to 8 GPUs"


def test_shrunk_for_the_job_that_got_the_gpus() -> None:
    driver = told()
    driver.tell({0: (8, FULL)})
    driver.at(0, submitted("a"))
    driver.tell({0: (4, FULL), 1: (4, FULL)})
    plan = driver.at(60, submitted("b"))
    assert plan.reasons()["a"].why is Why.SHRUNK
    assert plan.reasons()["a"].beneficiary == "b"
    assert plan.reasons()["a"].sentence() == "shrunk from 8 to 4 GPUs for b"
    assert plan.reasons()["b"].why is Why.STARTED


def test_shrunk_for_nobody() -> None:
    driver = told()
    driver.tell({0: (8, FULL)})
    driver.at(0, submitted("a"))
    driver.tell({0: (1, FULL)})
    assert driver.at(60, submitted("b")).reasons()["a"].sentence() == "shrunk from 8 to 1 GPU"


def test_preempted_for_the_job_that_got_the_gpus() -> None:
    driver = told()
    driver.tell({0: (8, FULL)})
    driver.at(0, submitted("a"))
    driver.tell({1: (8, FULL)})
    plan = driver.at(60, submitted("b"))
    assert [(c.job_id, c.gpus, c.clock_mhz) for c in plan.changes] == [("a", 0, 0.0), ("b", 8, 1400.0)]
    assert plan.reasons()["a"].why is Why.PREEMPTED
    assert plan.reasons()["a"].sentence() == "preempted for b"
    driver.tell({})
    plan = driver.at(120, Cancelled("b"), submitted("c"))
    assert plan.reasons()["a"].sentence() == "waits for GPUs"  # eight are free: it waits because it is told to


def test_gpus_go_to_takers_largest_first() -> None:
    # Jobs 0 and 1 give 4 and 2, jobs 2 and 3 take 2 and 4. The 4 of job 0 all go to job 3, the 2 of job 1 to job 2.
    assert beneficiaries([4, 2, -2, -4]) == [3, 2, -1, -1]
    # Job 0 gives 8: six of them to job 1 and then job 2; job 1 is named. Job 3 gives to nobody.
    assert beneficiaries([8, -4, -2, 1]) == [1, -1, -1, -1]
    assert beneficiaries([]) == []


def test_reclocked_when_a_queue_forms_and_when_it_clears() -> None:
    # One GPU. Alone, job a costs per iteration, at λ_E = 0.1 s/J, above 50 W idle:
    #   full clock 8 s·(1 + 0.1·200 + 1/1) = 176;  half clock 10 s·(1 + 0.1·50 + 1) = 70: half is cheaper,
    # and V(f) = v/T − λ·D = 70/8 − 20 < 0 at full, 70/10 − 5 = 2 at half.
    # 60 longer jobs come within a minute, and wait for it. Three times as many will come, and three times as many have
    # come when it ends (`busy_period`). But time is only 1/21 of the cost, and a minute says little about the 13
    # minutes until it ends: i = 61 + 6·61/21·120/(120 + 794) = 63.3. So v = min(8·(21 + 63.3),
    # 10·(6 + 63.3)) = 674 at full.
    # When they are cancelled a day later, hardly any job is expected.
    driver = SchedulerDriver("prices", "1x1:A100", energy_price=0.1)
    start = driver.at(0, submitted("a", 100.0))
    assert [(c.gpus, c.clock_mhz) for c in start.changes] == [(1, 700.0)]
    queue = [submitted(f"queue-{i}", 1e6) for i in range(60)]
    plan = driver.at(60, *queue)
    assert plan.reasons()["a"].why is Why.RECLOCKED
    assert plan.reasons()["a"].sentence() == "reclocked from 700 to 1400 MHz"
    assert not plan.changes[0].moved
    plan = driver.at(86_400, *(Cancelled(f"queue-{i}") for i in range(60)))
    assert plan.reasons()["a"].sentence() == "reclocked from 1400 to 700 MHz"


def test_a_clock_is_given_back_when_nobody_acts_on_the_job_any_more() -> None:
    driver = SchedulerDriver(Rollout(load("prices")), "1x1:A100", energy_price=0.1)
    driver.at(0, submitted("a", 100.0))
    plan = driver.at(60, ManagedProjects(False))
    assert [(c.gpus, c.clock_mhz, c.moved) for c in plan.changes] == [(1, 1400.0, False)]
    assert plan.reasons()["a"].why is Why.GIVEN_BACK
    assert driver.at(120, submitted("b")).reasons()["a"].why is Why.AS_ASKED


def test_moved_off_a_drained_node_at_the_next_decision() -> None:
    driver = told()
    driver.tell({0: (4, FULL)})
    driver.at(0, submitted("a"))
    occupancy = driver.scheduler.pools["A100"].occupancy
    home = occupancy.placement(0)[0].node
    other = next(node.name for node in occupancy.nodes if node.name != home)
    plan = driver.at(30, NodeDrained(home))  # too early for a decision
    assert (plan.decided, plan.wake_s) == (False, 60.0)
    assert occupancy.placement(0)[0].node == home
    plan = driver.at(60)
    assert [(c.job_id, c.gpus, c.moved) for c in plan.changes] == [("a", 4, True)]
    assert plan.reasons()["a"].why is Why.DRAINED
    assert plan.reasons()["a"].sentence() == f"moved to node {other}: node {home} is drained"
    assert [share.node for share in occupancy.placement(0)] == [other]


@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        (0, "stopped: node {home} is drained"),
        (2, "moved to node {other}, from 4 to 2 GPUs: node {home} is drained"),
    ],
)
def test_a_job_that_leaves_a_drained_node_is_not_preempted(gpus: int, said: str) -> None:
    driver = told()
    driver.tell({0: (4, FULL)})
    driver.at(0, submitted("a"))
    nodes = driver.scheduler.pools["A100"].occupancy.nodes
    home = driver.scheduler.pools["A100"].occupancy.placement(0)[0].node
    other = next(node.name for node in nodes if node.name != home)
    driver.tell({0: (gpus, FULL), 1: (2, FULL)})
    plan = driver.at(60, NodeDrained(home), submitted("b"))
    assert plan.reasons()["a"].why is Why.DRAINED
    assert plan.reasons()["a"].sentence() == said.format(home=home, other=other)
    assert not plan.reasons()["a"].beneficiary


def test_the_reason_is_the_drained_node_also_where_the_clock_changes_with_it() -> None:
    driver = told()
    driver.tell({0: (4, FULL)})
    driver.at(0, submitted("a"))
    home = driver.scheduler.pools["A100"].occupancy.placement(0)[0].node
    driver.tell({0: (4, HALF)})
    plan = driver.at(60, NodeDrained(home))
    assert plan.changes[0].moved
    assert plan.reasons()["a"].why is Why.DRAINED


def test_nodes_in_words() -> None:
    assert nodes_said(["a"]) == "node a"
    assert nodes_said(["a", "b"]) == "nodes a and b"
    assert nodes_said(["a", "b", "c"]) == "nodes a, b and c"
    assert nodes_said(["a", "b", "c", "d", "e"]) == "nodes a, b and 3 others"


def test_kept() -> None:
    driver = told()
    driver.tell({0: (4, FULL)})
    driver.at(0, submitted("a"))
    plan = driver.at(60, submitted("b"))
    assert plan.changes == []
    assert plan.reasons()["a"] == Reason(Why.KEPT, 4, 4, 1400.0, 1400.0)
    assert plan.reasons()["a"].sentence() == "kept"


@pytest.mark.parametrize(("pause_s", "why"), [(0.0, Why.GROWN), (600.0, Why.KEPT_COST)])
def test_kept_because_rescaling_costs_more_than_it_gains(pause_s: float, why: Why) -> None:
    # Two GPUs; b runs on one, a on the other. When b ends, a could take both: step 1.0 s → 0.9 s, 10 iterations left.
    # v = min over n of T·(1 + 2·1/2·n) = min(2.0, 2.7) = 2: V(1) = 2/1 = 2, V(2) = 2/0.9 = 2.22 if rescaling is free.
    # With a pause of 600 s: pen = 1/(1 + 600·max(1/6000, (1/0.9)/10)) = 0.0148, V(2) = 0.03: it stays.
    driver = SchedulerDriver("prices", "1x2:A100")
    jobs = [submitted(name, 20.0, pause_s, cost_class="flat") for name in ("a", "b")]
    assert [c.gpus for c in driver.at(0, *jobs).changes] == [1, 1]
    plan = driver.at(60, driver.done(a=10.0), Cancelled("b"))
    assert plan.reasons()["a"].why is why
    if why is Why.KEPT_COST:
        assert plan.reasons()["a"].sentence() == "unchanged because rescaling costs more than it gains"


def test_waits_for_gpus_and_says_how_many_more() -> None:
    driver = SchedulerDriver("fifo")
    plan = driver.at(0, submitted("a", gpus=4), submitted("b", gpus=4, gpus_min=2), submitted("c", gpus=4, gpus_min=4))
    assert plan.reasons()["c"].why is Why.WAITS_GPUS
    assert plan.reasons()["c"].short_of == 4
    assert plan.reasons()["c"].sentence() == "waits for GPUs: 4 more would do"
    plan = driver.at(60, Cancelled("b"), submitted("d", gpus=8, gpus_min=8), submitted("e", gpus=1))
    assert plan.reasons()["c"].why is Why.STARTED
    assert plan.reasons()["d"].sentence() == "waits for GPUs: 8 more would do"
    assert plan.reasons()["e"].sentence() == "waits for GPUs: 1 more would do"


def test_waits_for_budget() -> None:
    # A greedy one that starts nobody while energy costs anything.
    class Thrifty(Told):
        def decide(self, view):  # type: ignore[no-untyped-def]
            self.answer = {} if view.energy_price > 0 else {0: (1, FULL)}
            return super().decide(view)

    driver = SchedulerDriver(Thrifty(), energy_price=0.5)
    plan = driver.at(0, submitted("a"))
    assert plan.reasons()["a"].why is Why.WAITS_BUDGET
    assert plan.reasons()["a"].sentence() == "waits for budget"


def test_can_never_run() -> None:
    driver = SchedulerDriver("prices")
    never = float("inf")
    plan = driver.at(
        0, CostLearned("huge", "A100", table([never, never, never, never])), submitted("a", cost_class="huge")
    )
    assert plan.reasons()["a"].why is Why.NEVER_FITS
    assert plan.reasons()["a"].sentence() == "cannot run here on any known GPU count"


def test_gangs_are_whole_or_hold_nothing_when_a_node_fails() -> None:
    driver = told()
    driver.tell({0: (8, FULL)})
    driver.at(0, submitted("a"))
    driver.tell({})
    plan = driver.at(10, NodeFailed("a100-1"))
    assert not plan.decided
    assert driver.row("a")["gpus"] == 0  # at once, even though no decision is due: half a gang is none
    driver.tell({0: (4, FULL)})
    plan = driver.at(60)
    assert plan.reasons()["a"].sentence() == "resumed on 4 GPUs at 1400 MHz"


def test_the_price_of_a_gpu_stands_in_the_reason() -> None:
    # One GPU, two equal jobs: i = 2 for both, a GPU costs 2/1 = 2/s, v = 8·(1 + 2) = 24, V(1) = 24/8 = 3, times
    # pen = 1/(1 + 30/600) = 0.952.
    driver = SchedulerDriver("prices", "1x1:A100")
    plan = driver.at(0, submitted("a"), submitted("b"))
    assert plan.gpu_price["A100"] == pytest.approx(3 / 1.05)
    assert plan.reasons()["a"].gpu_price == plan.gpu_price["A100"]
    assert plan.reasons()["b"].gpu_price == plan.gpu_price["A100"]
