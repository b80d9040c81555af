"""Jobs that would have to begin anew keep their GPUs, whatever else is decided."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.job import Job
from powerflow.policy.protocol import View
from powerflow.policy.registry import load
from powerflow.scheduler.check import check_answer
from powerflow.scheduler.events import Cancelled, Leaving, Submitted
from powerflow.scheduler.plan import Why
from powerflow.scheduler.rules.compose import with_rules
from tests.policy.views import make_view, views
from tests.scheduler.situations import SchedulerDriver, submitted
from tests.slow import examples


def rigid(name: str, gpus: int) -> Submitted:
    return Submitted(Job(name, 0.0, "linear", 1e4, gpus, gpus, gpus, keeps=True), 1e4, 60.0)


@settings(max_examples=examples(100), deadline=None)
@given(view=views(), data=st.data())
def test_who_runs_and_keeps_is_never_stopped_or_rescaled(view: View, data: st.DataObject) -> None:
    rows = view.jobs.copy()
    rows["keeps"] = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    rows.flags.writeable = False
    seen = replace(view, jobs=rows)
    for spec in ("prices", "fifo", "greedy:1"):
        answer = with_rules(load(spec)).decide(seen)
        check_answer(spec, seen, answer)
        held = rows["keeps"] & (rows["gpus"] > 0)
        if rows["gpus"][held].sum() <= seen.capacity:
            assert (answer.gpus[held] == rows["gpus"][held]).all()


def test_a_budget_that_leaves_it_nothing_slows_it() -> None:
    job = {"requested": 2, "gpus_min": 2, "gpus_max": 2, "gpus": 2, "keeps": True, "clock": 1}
    view = make_view(
        [job],
        step_time_s=[[[4.0, 2.0], [2.0, 1.0]]],
        power_w=[[[100.0, 200.0], [200.0, 400.0]]],
        gpu_counts=(1, 2),
        clocks_mhz=(700.0, 1400.0),
        capacity=2,
    )
    assert with_rules(load("prices")).decide(view).clock.tolist() == [1]
    view.limit_w = {"": 1.0}
    answer = with_rules(load("prices")).decide(view)
    assert (answer.gpus.tolist(), answer.clock.tolist()) == ([2], [0])


def test_nobody_gets_the_gpus_of_who_still_leaves() -> None:
    driver = SchedulerDriver(with_rules(load("prices")), "1x4:A100")
    driver.at(0, rigid("a", 2))
    plan = driver.at(60, Leaving("a"), rigid("b", 2), rigid("c", 2))
    assert {change.job_id for change in plan.changes} == {"b"}
    assert plan.reasons()["c"].why is Why.WAITS_GPUS
    occupancy, slot = driver.scheduler.pools["A100"].occupancy, driver.scheduler.slot
    a, b = ({gpu for share in occupancy.placement(slot(name)) for gpu in share.gpus} for name in "ab")
    assert a.isdisjoint(b)
    plan = driver.at(120, Cancelled("a"))
    assert {change.job_id for change in plan.changes} == {"c"}


def test_a_first_job_need_not_wait_for_the_interval() -> None:
    driver = SchedulerDriver(with_rules(load("prices")), "1x4:A100")
    driver.at(0, submitted("a"))
    driver.at(1, Cancelled("a"))
    driver.at(60.0)
    assert driver.at(61.0, submitted("b")).decided
    assert not driver.at(62.0, submitted("c")).decided, "now there is somebody whom it could upset"
