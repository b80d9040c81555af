"""Running jobs move to idle GPUs of another type where that is worth the pause, and only there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from powerflow.cost.table import CostTable
from powerflow.energy.terms import EnergyTerms
from powerflow.policy.prices import Prices
from powerflow.scheduler.cap import PowerCap
from powerflow.scheduler.events import Completed, CostLearned, Event, ManagedProjects, PowerCapSet
from powerflow.scheduler.plan import Plan, Why
from powerflow.scheduler.rules.compose import with_rules
from powerflow.scheduler.scheduler import Scheduler
from powerflow.simulate.run import Simulation
from powerflow.simulate.world import World
from powerflow.testing.invariants import check
from tests.scheduler.situations import SchedulerDriver, submitted, table
from tests.simulate.workloads import by_hand, from_trace
from tests.simulate.workloads import job as simulated_job

#: 1.8 times the seconds of class ``linear`` on an A100; a T4 draws as many watts here unless another table says less.
SLOW = table([14.4, 7.2, 3.6])


def beside_idle_a100s(*events: Event, t4: CostTable = SLOW, **b: Any) -> Plan:
    """What happens when job a ends on the four A100s, while job b has run for 490 s on the four T4s.

    Args:
        events: Come with the end of a.
        t4: Costs on T4s.
        b: What is special about job b, which has 1,000 iterations and a pause of 30 s.
    """
    return driver_beside_idle_a100s(*events, t4=t4, **b)[1]


def driver_beside_idle_a100s(*events: Event, t4: CostTable = SLOW, **b: Any) -> tuple[SchedulerDriver, Plan]:
    """The same with the scheduler, to go on from there."""
    driver = SchedulerDriver(with_rules(Prices()), "1x4:A100+1x4:T4")
    driver.at(-900.0, CostLearned("linear", "T4", t4))
    driver.at(0.0, submitted("a", gpus=4, gpus_min=4, gpus_max=4))
    driver.at(10.0, submitted("b", **{"gpus": 4, "gpus_min": 4, "gpus_max": 4, **b}))
    assert driver.scheduler.ledger.rows["gpus"][driver.scheduler.slot("b")] == 4
    return driver, driver.at(500.0, driver.done(a=200.0, b=130.0), Completed("a"), *events)


def test_jobs_to_come_are_expected_in_the_pool_that_a_job_is_sent_to_first() -> None:
    driver, _ = driver_beside_idle_a100s()  # a went to the A100s, b to the T4s, and later to the A100s
    driver.at(600.0, submitted("c", gpu_type="T4"))
    known = {name: len(pool.arrivals.latest().order_by) for name, pool in driver.scheduler.pools.items()}
    assert known == {"A100": 1, "T4": 2}


def test_a_job_moves_to_faster_gpus_that_are_idle() -> None:
    # 870 iterations left; 600 s at 3.6 s are 167, each of which saves 1.6 s: 267 s for a pause of 60 s
    plan = beside_idle_a100s()
    (change,) = plan.changes
    assert (change.job_id, change.pool, change.gpus, change.moved) == ("b", "A100", 4, True)
    assert change.reason.why is Why.MOVED_TYPE
    assert change.reason.sentence() == "moved to GPUs of another type: 4 GPUs at 1400 MHz"
    assert plan.reasons()["b"] == change.reason


def test_a_job_that_has_moved_stays() -> None:
    driver, plan = driver_beside_idle_a100s()
    for _ in range(20):
        plan = driver.at(plan.wake_s)
        assert not plan.changes


@pytest.mark.parametrize(
    "special",
    [
        {"iterations": 204.0},  # 74 iterations left save 118 s: less than twice the pause
        {"pause_s": 600.0},  # it would have to run for 1,200 s before
        {"protected": True, "gpus_min": 4, "max_slowdown": 0.1},
        {"keeps": True},
        {"gpu_type": "T4"},
    ],
)
def test_jobs_that_stay(special: dict[str, Any]) -> None:
    assert not beside_idle_a100s(**special).changes


def test_a_job_of_75_iterations_more_moves() -> None:
    assert beside_idle_a100s(iterations=206.0).changes  # 76 left save 122 s


def test_a_small_gain_is_not_worth_a_pause() -> None:
    assert not beside_idle_a100s(t4=table([9.6, 4.8, 2.4])).changes  # 600 s save 100 s of 120
    assert beside_idle_a100s(t4=table([10.4, 5.2, 2.6])).changes  # 600 s save 138 s


def test_jobs_of_unmanaged_projects_stay() -> None:
    plan = beside_idle_a100s(ManagedProjects(projects={"p": False}), project="p")
    assert not [change for change in plan.changes if change.moved]


def test_gpus_that_another_job_wants_are_not_idle() -> None:
    plan = beside_idle_a100s(submitted("c", gpus=4, gpus_min=4, gpus_max=4, gpu_type="A100"))
    assert [(change.job_id, change.pool) for change in plan.changes] == [("c", "A100")]


def test_a_job_moves_to_thriftier_gpus_if_energy_is_dear() -> None:
    thrifty_a100 = table([8.0, 4.0, 2.0], watts=(60.0, 90.0))
    same_speed = table([8.0, 4.0, 2.0], watts=(200.0, 400.0))
    for price, moves in ((0.0, False), (1e-2, True)):
        driver, plan = driver_beside_idle_a100s(
            CostLearned("linear", "A100", thrifty_a100), EnergyTerms(price), t4=same_speed
        )
        while plan.wake_s < 2000.0:
            plan = driver.at(plan.wake_s)
        assert (driver.scheduler.view(driver.scheduler.pools["A100"], 2000.0).jobs["gpus"].tolist() == [4]) is moves


def test_a_limit_of_slowdown_keeps_a_job_from_slower_gpus() -> None:
    slower = table([10.0, 5.0, 2.5], watts=(55.0, 60.0))
    hungry = table([8.0, 4.0, 2.0], watts=(300.0, 400.0))
    cases: tuple[tuple[dict[str, Any], bool], ...] = ({}, True), ({"max_slowdown": 0.1}, False)
    for limit, moves in cases:
        driver, plan = driver_beside_idle_a100s(
            CostLearned("linear", "A100", slower), EnergyTerms(1e-2), t4=hungry, **limit
        )
        while plan.wake_s < 2000.0:
            plan = driver.at(plan.wake_s)
        assert (driver.scheduler.view(driver.scheduler.pools["A100"], 2000.0).jobs["gpus"].tolist() == [4]) is moves


def test_a_power_cap_is_kept() -> None:
    # eight GPUs idle at 50 W; b draws 200 W above idle on each of four: 1,200 W. While it moves, both places count
    for watts, moves in ((1500.0, False), (3000.0, True)):
        plan = beside_idle_a100s(PowerCapSet(PowerCap(watts)))
        assert any(change.moved for change in plan.changes) is moves


def test_gpus_on_too_many_nodes_are_refused() -> None:
    driver = SchedulerDriver(with_rules(Prices()), "2x4:A100+1x4:T4")
    driver.at(-900.0, CostLearned("linear", "T4", table([10.4, 5.2, 2.6])))
    pinned = [submitted(f"c{k}", gpus=2, gpus_min=2, gpus_max=2, gpu_type="A100") for k in range(4)]
    driver.at(0.0, *pinned)
    driver.at(10.0, submitted("b", gpus=4, gpus_min=4, gpus_max=4, gpu_type=None))
    scheduler, ends = driver.scheduler, {}
    for k in range(4):  # one job on each node
        node = scheduler.pools["A100"].occupancy.placement(scheduler.slot(f"c{k}"))[0].node
        ends[node] = Completed(f"c{k}")
    plan = driver.at(500.0, *ends.values())
    assert scheduler.pools["A100"].occupancy.free == 4
    assert not [change for change in plan.changes if change.job_id == "b"]
    slot = scheduler.slot("b")
    assert slot in scheduler.pools["T4"].active
    assert scheduler.ledger.rows["since_s"][slot] == 10.0
    assert sum(len(share.gpus) for share in scheduler.pools["T4"].occupancy.placement(slot)) == 4


def test_simulated_moves_cost_a_pause_and_save_time() -> None:
    # a: 100 iterations of 2 s on four A100s; b on T4s at 3.6 s until the decision at 240 s, then, after a pause of
    # 30 s, on the A100s at 2 s
    jobs = [
        simulated_job("a", 100.0, gpus=4, gpus_min=4, gpus_max=4),
        simulated_job("b", 1000.0, 10.0, gpus=4, gpus_min=4, gpus_max=4),
    ]
    workload = by_hand(jobs, "1x4:A100+1x4:T4")
    truth = {key: _times(made, 1.8 if key[1] == "T4" else 1.0) for key, made in workload.truth.items()}
    workload = dataclasses.replace(workload, truth=truth)
    simulation = Simulation(workload, with_rules(Prices()), world=World(pause_s=30.0))
    assert simulation.run()
    jobs_end = simulation.result().jobs
    assert jobs_end.finish_s[0] == pytest.approx(200.0)
    done = 230.0 / 3.6
    assert jobs_end.finish_s[1] == pytest.approx(240.0 + 30.0 + (1000.0 - done) * 2.0, abs=1e-6)
    assert jobs_end.rescales.tolist() == [0, 1]


def test_plans_with_moves_hold_all_invariants(monkeypatch: pytest.MonkeyPatch) -> None:
    moves, step = 0, Scheduler.step

    def checked(self: Scheduler, now_s: float, events: Sequence[Event]) -> Plan:
        nonlocal moves
        plan = step(self, now_s, events)
        check(self, plan)
        moves += sum(change.reason.why is Why.MOVED_TYPE for change in plan.changes)
        return plan

    monkeypatch.setattr(Scheduler, "step", checked)
    for seed, price, caps in ((0, 0.0, []), (1, 1e-2, []), (2, 0.0, [(1000.0, PowerCap(2500.0))])):
        workload = from_trace(seed, jobs=14, cluster="2x4:A100+2x4:T4", longest_s=6000.0, span_s=6000.0)
        world = World(pause_s=30.0, node_mtbf_h=2.0)
        assert Simulation(workload, with_rules(Prices()), energy_price=price, world=world, seed=seed, caps=caps).run()
    assert moves > 0


def _times(made: CostTable, factor: float) -> CostTable:
    spread_s = made.spread_step_time_s * factor
    return dataclasses.replace(made, step_time_s=made.step_time_s * factor, spread_step_time_s=spread_s)
