"""Which limit binds, what would change it, and when a job that waits is expected to start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.cluster.spec import parse_cluster
from powerflow.cost.catalogue import axes_for, family_model, gpu_type
from powerflow.cost.tabulate import tabulate
from powerflow.energy.terms import EnergyTerms
from powerflow.job import Job
from powerflow.policy.registry import load
from powerflow.scheduler.cap import PowerCap, parse_scope
from powerflow.scheduler.events import Cancelled, CostLearned, Event, ManagedProjects, PowerCapSet, Progress, Submitted
from powerflow.scheduler.rules.compose import with_rules
from powerflow.scheduler.scheduler import Scheduler
from powerflow.scheduler.what_if import LIMITS, Insight, what_if
from tests.slow import examples


class SchedulerDriver:
    """One node of four A100s; jobs of one class, an hour long on one GPU."""

    def __init__(self, interval_s: float = 0.0) -> None:
        cluster = parse_cluster("1x4:A100")
        axes = axes_for("A100", 4, [1, 2, 4])
        self.table = tabulate(family_model("imagenet", "A100"), axes, 256)
        self.cluster = cluster
        self.scheduler = Scheduler(
            cluster,
            {"A100": axes},
            {"A100": gpu_type("A100").idle_w},
            with_rules(load("prices"), interval_s=60.0),
            interval_s=interval_s,
        )
        self.hour = 3600.0 / float(self.table.step_time_s[0, -1])
        self.step(0.0, CostLearned("imagenet", "A100", self.table))

    def step(self, now_s: float, *events: Event) -> None:
        self.now_s = now_s
        self.scheduler.step(now_s, events)

    def submit(self, name: str, gpus: int = 1, least: int | None = None, hours: float = 1.0, **fields: Any) -> None:
        job = Job(
            name,
            self.now_s,
            "imagenet",
            hours * self.hour,
            gpus,
            gpus if least is None else least,
            gpus,
            **fields,
        )
        self.step(self.now_s, Submitted(job, job.iterations, 30.0))

    def look(self, name: str) -> Insight:
        return what_if(self.scheduler, name, self.now_s)


def test_nothing_binds_a_job_alone() -> None:
    driver = SchedulerDriver()
    driver.submit("a", 4)
    found = driver.look("a")
    assert found.binds == ""
    assert found.start_s is None


def test_gpus_bind_a_job_that_waits_and_it_starts_when_they_come_free() -> None:
    driver = SchedulerDriver()
    for name in "abcd":
        driver.submit(name)
    driver.step(600.0)
    driver.submit("e")
    found = driver.look("e")
    assert found.binds == "GPUs"
    assert [each.words for each in found.otherwise if each.limit == "GPUs"] == ["if 1 GPU more was free"]
    assert found.start_s == pytest.approx(600.0 + 3600.0, rel=0.01), "nobody has told of progress"
    slots = np.array([driver.scheduler.slot(name) for name in "abcd"])
    driver.step(1200.0, Progress(slots, np.full(4, 0.5 * driver.hour)))
    assert driver.look("e").start_s == pytest.approx(1200.0 + 1800.0, rel=0.01)


def test_the_budget_binds() -> None:
    driver = SchedulerDriver()
    driver.submit("a", 4)
    driver.step(100.0, EnergyTerms(0.0, limit_w={"": 0.0}))
    found = driver.look("a")
    assert found.binds == "budget"
    assert next(each for each in found.otherwise if each.limit == "budget").gpus == 4


def test_a_power_cap_binds() -> None:
    driver = SchedulerDriver()
    driver.submit("a", 4)
    scope = parse_scope("cluster", driver.cluster.nodes, "scope")
    driver.step(100.0, PowerCapSet(PowerCap(600.0, scope, 100.0)))
    driver.step(160.0)
    found = driver.look("a")
    assert (found.binds, found.start_s) == ("cap", None)
    assert [each.limit for each in found.otherwise] == ["cap"], "what the policy says of other worlds knows of no cap"
    driver.step(220.0, ManagedProjects(False))
    assert not [each for each in driver.look("a").otherwise if each.limit == "cap"], "a cap spares who is watched"


def test_protection_binds_who_has_to_make_room_for_it() -> None:
    driver = SchedulerDriver(interval_s=60.0)
    driver.submit("a", 4)
    driver.step(100.0)
    driver.submit("p", 1, protected=True, max_slowdown=0.0)
    assert driver.look("a").binds == "protection"


def test_minimum_run_time_and_rescale_cost_are_told_apart() -> None:
    driver = SchedulerDriver()
    driver.submit("a", 4, least=1)
    driver.submit("b", 4, least=1, hours=0.2)
    driver.step(10.0)
    limits = {each.limit for name in "ab" for each in driver.look(name).otherwise}
    assert limits & {"minimum run time", "rescale cost", "GPUs", "priority"}


def test_a_watched_job_is_told_how_many_gpus_it_lacks() -> None:
    driver = SchedulerDriver()
    driver.step(0.0, ManagedProjects(False))
    driver.submit("a", 2)
    driver.submit("b", 4)
    found = driver.look("b")
    assert (found.binds, found.otherwise[0].words, found.otherwise[0].gpus) == ("GPUs", "if 2 GPUs more were free", 4)
    assert found.start_s is not None


def test_looking_leaves_no_trace() -> None:
    plans = []
    for looks in (0, 3):
        driver = SchedulerDriver()
        for name in "abcdef":
            driver.submit(name, 2, least=1)
        for _ in range(looks):
            for name in "abcdef":
                driver.look(name)
        driver.step(500.0, EnergyTerms(0.01))
        rows = driver.scheduler.ledger.rows[:6]
        plans.append((rows["gpus"].tolist(), rows["clock"].tolist()))
    assert plans[0] == plans[1]


def test_nobody_knows_it() -> None:
    with pytest.raises(KeyError):
        SchedulerDriver().look("x")


@settings(deadline=None, max_examples=examples(60))
@given(
    jobs=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=5),
    price=st.sampled_from([0.0, 0.0005, 0.01]),
    limit_w=st.one_of(st.none(), st.floats(0.0, 1500.0)),
    cap_w=st.one_of(st.none(), st.floats(250.0, 1500.0)),
    decided=st.booleans(),
)
def test_what_is_said_never_contradicts_itself(
    jobs: list[tuple[int, int]], price: float, limit_w: float | None, cap_w: float | None, decided: bool
) -> None:
    driver = SchedulerDriver(interval_s=60.0)
    for i, (gpus, least) in enumerate(jobs):
        driver.submit(f"job-{i}", gpus, least=min(gpus, least))
    if cap_w is not None:
        driver.step(60.0, PowerCapSet(PowerCap(cap_w)))
    driver.step(61.0, EnergyTerms(price, limit_w={} if limit_w is None else {"": limit_w}))
    scheduler = driver.scheduler
    plan = scheduler.step(200.0, ())
    reasons = plan.reasons() if plan.decided else {}
    for i in range(len(jobs)):
        name = f"job-{i}"
        why = reasons[name].why if name in reasons else ""
        found = what_if(scheduler, name, 200.0 if decided else 230.0, why)
        slot = scheduler.slot(name)
        gpus, clock = int(scheduler.ledger.rows["gpus"][slot]), int(scheduler.ledger.rows["clock"][slot])
        has = (gpus, scheduler.pools["A100"].clocks_mhz[clock] if gpus else 0.0)
        others = [each for each in found.otherwise if each.limit != "topology"]
        following = next(((each.gpus, each.clock_mhz) for each in others if each.limit == "next decision"), has)
        known = {following} if following < has else {following, has}
        told = [(each.gpus, each.clock_mhz) for each in others if each.limit != "next decision"]
        assert not known.intersection(told), "it has that already, or will have it anyway"
        more = {each.limit for each in others if (each.gpus, each.clock_mhz) > min(has, following)}
        assert found.binds in more if more else found.binds in ("", "topology")
        if LIMITS.get(why) in more:
            assert found.binds == LIMITS[why]
        if "cap" in more:
            assert found.binds in ("cap", "next decision")
            assert not more - {"cap", "next decision"}, "answers of a policy that knows no caps"


def test_a_job_that_the_next_decision_starts_waits_for_it() -> None:
    driver = SchedulerDriver(interval_s=60.0)
    driver.submit("a", 4)
    driver.submit("b", 4)
    driver.step(10.0, Cancelled("a"))
    assert not driver.scheduler.ledger.rows["gpus"][driver.scheduler.slot("b")]
    found = driver.look("b")
    assert (found.binds, found.otherwise[0].words, found.otherwise[0].gpus) == (
        "next decision",
        "at the next decision",
        4,
    )


def test_as_many_gpus_are_lacking_as_the_reason_says() -> None:
    driver = SchedulerDriver(interval_s=60.0)
    for name in "abc":
        driver.submit(name)
    driver.submit("d", 4, least=3)
    plan = driver.scheduler.step(100.0, ())
    assert plan.reasons()["d"].sentence() == "waits for GPUs: 3 more would do", "it runs on 4"
    words = [each.words for each in driver.look("d").otherwise if each.limit == "GPUs"]
    assert words[0] == "if 3 GPUs more were free"
