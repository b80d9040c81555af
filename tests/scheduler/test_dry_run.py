"""What a change would do to running jobs is what it then does, and asking changes nothing."""

from __future__ import annotations

import pickle

from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.energy.terms import EnergyTerms
from powerflow.policy.registry import load
from powerflow.scheduler.cap import CLUSTER, PowerCap
from powerflow.scheduler.dry_run import dry_run
from powerflow.scheduler.events import Event, ManagedProjects, NodeDrained, PowerCapSet
from powerflow.scheduler.rules.compose import with_rules
from powerflow.scheduler.scheduler import Scheduler
from tests.scheduler.situations import IDLE_W, SchedulerDriver, Told, submitted
from tests.slow import examples

CHANGES = st.one_of(
    st.floats(300.0, 3000.0).map(lambda watts: PowerCapSet(PowerCap(watts))),
    st.floats(0.0, 2000.0).map(lambda watts: EnergyTerms(0.0, limit_w={"": watts})),
    st.sampled_from([NodeDrained("a100-0"), ManagedProjects(False)]),
)


def running(scheduler: Scheduler) -> dict[str, object]:
    """Which GPUs each running job has."""
    rows, ledger = scheduler.ledger.rows, scheduler.ledger
    return {
        ledger.job(slot).id: pool.occupancy.placement(slot)
        for pool in scheduler.pools.values()
        for slot in pool.active
        if rows["gpus"][slot]
    }


@settings(deadline=None, max_examples=examples(50))
@given(jobs=st.lists(st.integers(1, 4), min_size=1, max_size=6), change=CHANGES)
def test_what_is_said_is_what_happens(jobs: list[int], change: Event) -> None:
    driver = SchedulerDriver(with_rules(load("prices"), interval_s=60.0), interval_s=60.0)
    for i, gpus in enumerate(jobs):
        driver.at(float(i), submitted(f"job-{i}", 1e5, gpus=gpus, gpus_min=gpus, gpus_max=2 * gpus))
    driver.at(100.0)
    before, state = running(driver.scheduler), pickle.dumps(driver.scheduler)
    said = dry_run(driver.scheduler, (change,), 200.0)
    assert pickle.dumps(driver.scheduler) == state, "asking changes nothing"
    driver.at(200.0, change)
    after = running(driver.scheduler)
    assert sorted(said.paused) == sorted(before.keys() - after.keys())
    assert sorted(said.moved) == sorted(name for name in before if name in after and before[name] != after[name])


def test_what_happens_anyway_is_no_effect_of_the_change() -> None:
    driver = SchedulerDriver(Told({0: (4, 1), 1: (4, 1)}), interval_s=60.0)
    driver.at(0.0, submitted("a"), submitted("b"))
    driver.tell({0: (8, 1)})  # at the next decision b makes room for a
    driver.at(30.0, submitted("c"))
    said = dry_run(driver.scheduler, (), 30.0)
    assert (said.paused, said.moved) == ([], [])
    assert running(said.after).keys() == {"a"}


def test_a_cap_to_come_pauses_nobody_now() -> None:
    driver = SchedulerDriver(with_rules(load("prices"), interval_s=60.0), interval_s=60.0)
    driver.at(0.0, submitted("a", gpus=8, gpus_min=8))
    driver.at(10.0, PowerCapSet(PowerCap(8 * IDLE_W + 10.0, CLUSTER, 5000.0)))
    assert dry_run(driver.scheduler, (), 20.0).paused == []
    assert dry_run(driver.scheduler, (PowerCapSet(PowerCap(8 * IDLE_W + 10.0)),), 20.0).paused == ["a"]
    assert dry_run(driver.scheduler, (NodeDrained("a100-0"),), 20.0).paused == ["a"], "eight GPUs need both nodes"
