"""Energy budgets on a live cluster: set by an operator, kept by price and limit, known again after a restart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from powerflow.api.governance import BudgetOrder
from powerflow.api.records import JobState, NotFound
from powerflow.device.emulated.gpu import own_identity
from powerflow.energy.response import Response
from powerflow.errors import InputError
from powerflow.live.governance.budgets import TICK_S
from powerflow.store.database import StoreError
from powerflow.store.models import Charge
from tests.live.controller_bench import ADA, ROOT, Bench
from tests.live.governance.test_caps import JOB, busy, drawn_w, go

KWH = 3.6e6


def day(bench: Bench, kwh: float, project: str = "") -> None:
    """A budget for each day."""
    bench.service.set_budget(BudgetOrder(kwh * KWH, "day", "UTC", project, sure=True), ROOT)


def replay(
    cluster: Any, axes: Any, costs: Any, days: Sequence[Any], prices: Sequence[float], projects: Sequence[str]
) -> list[Mapping[str, Response]]:
    """Each of the days costs 10 kWh above idle when joules are free, and half of that at the dearest price."""
    joules = tuple(10 * KWH * (1.0 - 0.5 * i / (len(prices) - 1)) for i in range(len(prices)))
    full_w = tuple(4000.0 for _ in prices)
    one = Response(tuple(prices), joules, full_w, tuple(0.0 for _ in prices))
    seen = {job.project for jobs in days for job in jobs}
    return [dict.fromkeys(["", *(seen & set(projects))], one) for _ in days]


def fails(*_: Any) -> list[Mapping[str, Response]]:
    raise InputError("the days are of another calendar")


def run_for(bench: Bench, seconds: float) -> None:
    """Turns for so long: long ones, where nothing is to happen for a minute."""
    until_s = bench.engine.now_s + seconds
    while bench.engine.now_s < until_s:
        go(bench, 1, turn_s=2.0 if seconds >= 60.0 else 0.5)


def past_job(bench: Bench, hours: float) -> None:
    """A job that was submitted so long ago, and has completed."""
    job_id = bench.submit(**JOB)
    with bench.store._database.write_claimed() as connection:
        from powerflow.store.schema import jobs

        since_s = bench.controller.clock() - 3600.0 * hours
        connection.execute(jobs.update().where(jobs.c.id == int(job_id)).values(submitted_s=since_s))


def with_days(directory: Path) -> Bench:
    """A cluster whose days can be replayed: one whole day with a job, and too little of another."""
    bench = Bench(directory)
    bench.respond = replay
    bench.restart()
    for hours in (24.5, 10.0):
        past_job(bench, hours)
    return bench


def test_a_budget_is_set_shown_dropped_and_audited(bench: Bench) -> None:
    assert bench.service.budgets() == []
    assert bench.service.top().budget == "none, only time counts"
    day(bench, 40.0, "vision")
    day(bench, 60.0)
    cluster, vision = bench.service.budgets()
    assert (cluster.project, cluster.amount_j, cluster.by, cluster.spent_j) == ("", 60 * KWH, "root", 0.0)
    assert (vision.project, vision.amount_j) == ("vision", 40 * KWH)
    assert vision.end_s - vision.start_s == 86_400.0
    assert "cluster 2001-09-09: 0% of 60 kWh used" in bench.service.top().budget
    bench.service.drop_budget("vision", ROOT)
    with pytest.raises(NotFound, match="project vision has no energy budget"):
        bench.service.drop_budget("vision", ROOT)
    actions = [(entry.action, entry.target) for entry in bench.service.audit().items if "budget" in entry.action]
    assert actions == [("budget set", "vision"), ("budget set", "cluster"), ("budget dropped", "vision")]


def test_what_is_no_budget_is_refused(bench: Bench) -> None:
    with pytest.raises(InputError, match="time zone"):
        bench.service.set_budget(BudgetOrder(KWH, "day", "Mars/Olympus"), ROOT)
    assert bench.service.budgets() == []


def test_what_was_used_before_it_was_set_counts(bench: Bench) -> None:
    now_s = bench.controller.clock()
    bench.store.charges.add([Charge(now_s - 900.0, now_s - 600.0, "", None, 2 * KWH, 0.0)])
    bench.store.charges.add([Charge(now_s - 90_000.0, now_s - 89_000.0, "", None, 5 * KWH, 0.0)])  # the day before
    bench.restart()
    day(bench, 10.0)
    assert bench.service.budgets()[0].spent_j == pytest.approx(2 * KWH, rel=1e-3)
    run_for(bench, TICK_S + 1)
    spent_j = bench.service.budgets()[0].spent_j
    assert spent_j > 2 * KWH
    bench.restart()
    run_for(bench, 2.0)
    assert bench.service.budgets()[0].spent_j == pytest.approx(spent_j, rel=0.01)


def test_the_limit_holds_when_there_is_little_left(tmp_path: Path) -> None:
    """The budget pays for what idles and a little more: joules get dearer; clocks are back once it is raised."""
    bench = Bench(tmp_path, explore_steps=0)  # steps of these ranks last as long at any clock: nobody is to find out
    before_w = busy(bench)
    idle_w = bench.controller.governance.budgets.idle_w
    left_h = 24.0 - (bench.controller.clock() % 86_400) / 3600.0
    kwh = idle_w * left_h / 1e3 + 2.0 * 0.35 * (before_w - idle_w) / 1e3  # 35 % of what jobs add, over the next 2 h
    day(bench, kwh)
    run_for(bench, 20.0)
    record = bench.service.budgets()[0]
    assert record.limited
    assert record.limit_w < before_w
    assert drawn_w(bench) < 0.8 * before_w
    day(bench, 1000.0)
    run_for(bench, 60.0)
    assert not bench.service.budgets()[0].limited
    running = [entry.clock_mhz for entry in bench.controller.jobs.values() if entry.placement]
    assert running == [1410.0] * 3
    assert drawn_w(bench) > 1.2 * record.limit_w
    bench.close()


def test_a_used_up_budget_stops_jobs_and_says_so(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    job_id = bench.submit(**JOB)
    run_for(bench, 30.0)
    day(bench, 0.5 * bench.controller.jobs[job_id].energy_j / KWH)
    run_for(bench, 30.0)
    assert not bench.controller.jobs[job_id].placement
    assert "budget" in bench.controller.jobs[job_id].reason
    said = [event.text for event in bench.store.events(limit=1000).items if event.kind == "budget"]
    assert len(said) == 3, said  # 85, 90 and 95 %
    assert said[0].startswith("budget of the cluster for 2001-09-09:")


def test_a_projects_budget_touches_its_jobs_alone(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    mine, theirs = bench.submit(**JOB, project="vision"), bench.submit(**JOB, project="speech")
    bench.until_trains(mine)
    bench.until_trains(theirs)
    day(bench, 0.0003, "vision")
    run_for(bench, TICK_S + 30.0)
    assert not bench.controller.jobs[mine].placement
    assert bench.controller.jobs[theirs].placement
    spent_j = bench.service.budgets()[0].spent_j
    assert spent_j > 0  # how much is the clock's to say: emulated GPUs count real seconds
    assert spent_j == pytest.approx(bench.controller.jobs[mine].energy_j, rel=0.05), "what its jobs were charged"


def test_joules_that_come_after_a_job_has_ended_are_in_its_projects_budget(bench: Bench) -> None:
    """Its machine was away."""
    bench.steps_total = 5
    day(bench, 1000.0, "vision")
    job_id = bench.submit(**JOB, project="vision")
    bench.until_state(job_id, JobState.COMPLETED)
    run_for(bench, 2.0)
    before = bench.store.job(job_id).energy_j
    late = 12_345.0
    bench.devices.began(f"{job_id}.77.0", [bench.gpus[0].uuid])
    pid, birth = own_identity()
    bench.gpus[0].draw(100.0, pid=pid, birth=birth, arrears_j=late)
    bench.devices.ended(f"{job_id}.77.0")
    bench.gpus[0].rest(pid=pid, birth=birth)
    run_for(bench, TICK_S + 5.0)
    charged_j = bench.store.job(job_id).energy_j
    assert charged_j >= before + late
    assert bench.service.budgets()[0].spent_j == pytest.approx(charged_j, rel=1e-6)


def test_days_are_replayed_learnt_and_known_after_a_restart(tmp_path: Path) -> None:
    bench = with_days(tmp_path)
    day(bench, 18.0)
    budgets = bench.controller.governance.budgets
    assert any("no day has been replayed yet" in notice for notice in bench.service.top().notices)
    run_for(bench, 2.0)
    assert budgets._replaying is not None
    wait_for_replay(bench)
    run_for(bench, 2.0)
    record = bench.service.budgets()[0]
    assert record.knows_days
    assert len(record.outlook) == 5
    assert record.outlook[0].expected_j > record.outlook[-1].expected_j
    price = record.price
    assert 0 < price < budgets.prices[-1], "18 kWh less idle draw is between what a day costs at most and at least"
    assert bench.controller.scheduler.energy_price == pytest.approx(price)
    assert bench.service.top().energy_price == pytest.approx(price)
    price = bench.service.budgets()[0].price
    bench.restart()
    assert bench.service.budgets()[0].price == price
    assert bench.service.budgets()[0].knows_days
    run_for(bench, 2.0)
    assert bench.controller.governance.budgets._replaying is None, "the next is due in a day"
    bench.close()


def test_a_replay_that_fails_is_said_and_tried_again_later(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.respond = fails
    bench.restart()
    past_job(bench, 30.0)
    day(bench, 20.0)
    run_for(bench, 2.0)
    wait_for_replay(bench)
    run_for(bench, 2.0)
    assert any("the days are of another calendar" in notice for notice in bench.service.top().notices)
    assert bench.controller.governance.budgets._replaying is None
    assert bench.service.budgets()[0].price == 0.0
    bench.close()


def test_the_simulator_replays_a_live_clusters_days(bench: Bench) -> None:
    from powerflow.live.governance.past_days import past_days
    from powerflow.simulate.day_replay import replay_days

    for hours in (1.0, 3.0, 30.0):
        past_job(bench, hours)
    cancelled = bench.submit(**JOB)
    bench.service.cancel(cancelled, ADA)
    controller = bench.controller
    axes = {name: pool.axes for name, pool in controller.scheduler.pools.items()}
    past = past_days(bench.store, controller.learning, axes, controller.clock(), 14)
    assert [len(jobs) for jobs in past.days] == [1, 2], "what never ran says nothing"
    assert past.shares == [pytest.approx(0.25, abs=0.01), 1.0]
    assert all(0 <= job.submit_s < 86_400.0 for jobs in past.days for job in jobs)
    found = replay_days(bench.spec, axes, past.costs, past.days, controller.governance.budgets.prices, ["vision"])
    assert all(set(each) == {""} for each in found)
    assert all(each[""].joules[0] >= each[""].joules[-1] > 0 for each in found)
    assert bench.store.job(cancelled).state is JobState.CANCELLED


def wait_for_replay(bench: Bench) -> None:
    """Until the replay's process has answered."""
    replaying = bench.controller.governance.budgets._replaying
    assert replaying is not None
    assert replaying._answer.poll(60.0)


def finish_replay(bench: Bench) -> None:
    wait_for_replay(bench)
    run_for(bench, 2.0)


def test_a_project_without_jobs_is_asked_once_and_others_learn_on(tmp_path: Path) -> None:
    bench = with_days(tmp_path)
    day(bench, 18.0)
    day(bench, 5.0, "ghost")
    run_for(bench, 2.0)
    finish_replay(bench)
    budgets = bench.controller.governance.budgets
    run_for(bench, 2 * TICK_S)
    assert not replays(bench)
    assert budgets._learnt_s is not None
    bench.engine.now_s += 86_400.0
    bench.controller._renewed_s = bench.controller.clock()
    past_job(bench, 1.0)
    bench.until(lambda: replays(bench))  # not later: on a busy machine it may have answered by then
    assert budgets._pupils == {"", "ghost"}, "the daily replay is for all"
    bench.close()


def replays(bench: Bench) -> bool:
    return bench.controller.governance.budgets._replaying is not None


def test_a_restart_without_what_keepers_knew_counts_no_joule_twice(bench: Bench) -> None:
    now_s = bench.controller.clock()
    bench.store.charges.add([Charge(now_s - 200_000.0, now_s - 190_000.0, "", None, 1000 * KWH, 0.0)])
    bench.restart()
    day(bench, 10.0)
    bench.store.put("budget keepers", {})
    bench.restart()
    run_for(bench, 2.0)
    assert bench.service.budgets()[0].spent_j < 0.01 * KWH
    assert not [event for event in bench.store.events(limit=1000).items if event.kind == "budget"]


def test_a_warning_that_cannot_be_stored_now_is_said_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.steps_total = 1_000_000
    job_id = bench.submit(**JOB)
    run_for(bench, 30.0)
    append = bench.store.append

    def fails(*_: Any, **__: Any) -> int:
        raise StoreError("locked", retry=True)

    monkeypatch.setattr(bench.store, "append", fails)
    day(bench, 0.5 * bench.controller.jobs[job_id].energy_j / KWH)
    run_for(bench, 5.0)
    monkeypatch.setattr(bench.store, "append", append)
    run_for(bench, 5.0)
    assert len([event for event in bench.store.events(limit=1000).items if event.kind == "budget"]) == 3


def test_what_keepers_of_other_gpus_knew_is_not_believed(bench: Bench) -> None:
    day(bench, 10.0)
    run_for(bench, 2.0)
    kept = bench.store.get("budget keepers")
    kept["states"][""]["prices"] = [0.0, 1.0, 2.0, 3.0, 4.0]
    kept["states"][""]["price"] = 3.0
    bench.store.put("budget keepers", kept)
    bench.restart()
    assert bench.service.budgets()[0].price == 0.0


def test_no_limit_binds_where_nobody_is_acted_on(bench: Bench) -> None:
    from powerflow.api.stages import Stage, StageOrder

    busy(bench)
    day(bench, 0.5)
    run_for(bench, 20.0)
    assert bench.service.budgets()[0].limited
    bench.service.set_stage(StageOrder(Stage.OBSERVE, sure=True), ROOT)
    run_for(bench, 5.0)
    assert not bench.service.budgets()[0].limited


def test_what_is_learnt_for_a_replay_reaches_the_scheduler_whatever_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError("no more processes")

    bench.respond = replay
    past_job(bench, 30.0)
    bench.turn(200)
    bench.restart()
    monkeypatch.setattr("powerflow.live.governance.budgets.ReplayProcess", fails)
    day(bench, 10.0)
    run_for(bench, 3.0)
    job = bench.submit(**JOB)
    bench.until_trains(job)


def test_a_day_without_jobs_is_learnt_too(tmp_path: Path) -> None:
    bench = with_days(tmp_path)
    day(bench, 18.0)
    run_for(bench, 2.0)
    finish_replay(bench)
    before_j = bench.controller.governance.budgets._governors[""].state()["curve"][0]
    bench.engine.now_s += 2 * 86_400.0
    bench.controller._renewed_s = bench.controller.clock()
    run_for(bench, TICK_S)
    assert not replays(bench), "there is nothing to replay"
    assert bench.controller.governance.budgets._governors[""].state()["curve"][0] == pytest.approx(0.85 * before_j)
    bench.close()
