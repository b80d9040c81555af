"""Budgets in the loop: a month of random days, small enough for a test, and the parts by hand."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
from benchmarks.governed.long_run import Biased, Constant, LongRun
from benchmarks.governed.simulation import GovernedSimulation, Tick
from benchmarks.governed.verdict import BudgetVerdict, kept, verdict
from benchmarks.governed.year import LEVEL_DAYS, LONGEST_S, resample

from powerflow.energy.budget import Budget, window_at
from powerflow.energy.budgets import Budgets
from powerflow.energy.governor import Governor
from powerflow.energy.terms import EnergyTerms
from powerflow.errors import InputError
from powerflow.policy.registry import load
from powerflow.scheduler.rules.power_limit import PowerLimit, added_w
from powerflow.simulate.day_replay import replay_day
from powerflow.simulate.workload.build import build_workload
from powerflow.trace.record import Trace, TraceJob
from powerflow.units import DAY_S
from tests.policy.views import assert_valid
from tests.simulate.workloads import from_trace

DAYS = 16
ZONE = "Europe/Berlin"
#: 20 March 2026, midnight in Berlin: the 29th has 23 hours.
EPOCH_S = 1773961200.0


def days_at_random(days: int = 12) -> Trace:
    """A log with more jobs by day than by night, and some days with few."""
    rng = np.random.default_rng(5)
    jobs = []
    for day in range(days):
        for _ in range(int(rng.integers(10, 50))):
            submit_s = (day + rng.beta(3, 2)) * DAY_S
            jobs.append((float(submit_s), float(rng.lognormal(8.6, 1.0)), int(2 ** rng.integers(0, 4))))
    return Trace("random days", "made in a test", [TraceJob(f"j{i}", *job) for i, job in enumerate(sorted(jobs))])


@cache
def long_run() -> LongRun:
    year = resample(days_at_random(), DAYS, gpus=8, load=0.8, seed=3)
    workload = build_workload(year.trace, "1x8:A100", seed=3)
    run = LongRun(workload, DAYS, EPOCH_S, 0.1, seed=3)
    return dataclasses.replace(run, responses=run.replay(range(DAYS)))


def budget(share: float, period: str = "day") -> Budget:
    """A share of full draw: eight A100s at 400 W."""
    days = 1 if period == "day" else 31
    return Budget(share * 8 * 400.0 * DAY_S * days, period, ZONE)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_a_budget_is_kept_and_not_wasted(share: float) -> None:
    run = long_run()
    simulation = run.simulation(run.governor(budget(share)))
    simulation.run()
    came = verdict(kept(simulation.ticks, budget(share), EPOCH_S, DAYS * DAY_S), simulation.ticks)
    assert came.windows == DAYS  # one of 23 hours
    assert came.worst_over <= 0.01
    assert came.running == 0
    assert came.unspent_waiting <= 0.03
    assert not np.isnan(simulation.finish_s).any()
    # what it says of itself is what the meter says
    result = simulation.result()
    assert result.metered_j == pytest.approx(result.jobs.energy_j.sum() + result.idle_j, rel=1e-9)
    for warned in simulation.warned:
        assert warned.standing.share == pytest.approx(warned.at, abs=0.1)
    names = [(warned.standing.window.name, warned.at) for warned in simulation.warned]
    assert len(names) == len(set(names)) > DAYS


def test_a_governor_does_better_than_the_best_constant_under_the_same_budget() -> None:
    run, limit = long_run(), budget(0.45)

    def mean_jct_s(keeper: Governor) -> float:
        simulation = run.simulation(keeper)
        simulation.run()
        return float(simulation.result().jobs.jct_s.mean())

    constants = [mean_jct_s(Constant(run, limit, price)) for price in (run.prices[1], run.prices[2], run.prices[3])]
    assert mean_jct_s(run.governor(limit)) <= 1.05 * min(constants)


class Metered(GovernedSimulation):
    """Notes what each project's meter said, and the terms, at every reading."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.meters: list[tuple[float, dict[str, float]]] = []
        self.dearest = 0.0

    def _tick(self) -> None:
        super()._tick()
        self.meters.append((self.now_s, self._meters()))
        self.dearest = max(self.dearest, self.scheduler.energy.by_project.get("a", 0.0))


def test_a_projects_budget_is_kept_and_others_pay_less_for_it_than_it_does() -> None:
    """Its jobs run slower, so they hold their GPUs longer: on a cluster this full others feel that, too."""
    run = long_run()
    jobs = [dataclasses.replace(job, project="ab"[i % 2]) for i, job in enumerate(run.workload.jobs)]
    workload = dataclasses.replace(run.workload, jobs=jobs)
    days = [replay_day(workload, number, run.prices, projects=["a"]) for number in range(DAYS)]

    def came(budgets: Budgets) -> Metered:
        simulation = Metered(
            workload,
            load("prices"),
            budgets,
            prices=run.prices,
            epoch_s=EPOCH_S,
            day=lambda number: days[number] if number < DAYS else {},
            belief=run.belief(),
        )
        simulation.run()
        return simulation

    def by_day(simulation: Metered, project: str) -> np.ndarray:
        """Joules of each whole day; days begin at local midnight, and one has 23 hours."""
        time_s = [now_s for now_s, _ in simulation.meters]
        joules = [meters.get(project, 0.0) for _, meters in simulation.meters]
        edges = [window_at(budget(1.0), EPOCH_S + (day + 0.5) * DAY_S).start_s - EPOCH_S for day in range(DAYS + 1)]
        return np.diff(np.interp(edges, time_s, joules))

    free = came(Budgets({"a": Governor(Budget(1e15, "day", ZONE, "a"), run.prices)}))
    amount_j = 0.7 * float(np.mean(by_day(free, "a")[2:]))
    governor = Governor(Budget(amount_j, "day", ZONE, "a"), run.prices)
    governor.learn(days[0]["a"])
    kept_to = came(Budgets({"a": governor}))
    assert by_day(free, "a").max() > 1.3 * amount_j
    assert by_day(kept_to, "a").max() <= 1.01 * amount_j
    assert kept_to.dearest > 0
    jct_s = {name: [s.result().jobs.jct_s[i % 2 :: 2].mean() for s in (free, kept_to)] for i, name in enumerate("ab")}
    slower = {name: after / before for name, (before, after) in jct_s.items()}
    assert slower["a"] > 1.2 * slower["b"] > 1.0


def test_a_free_constant_is_a_plain_simulation_at_that_price() -> None:
    from powerflow.simulate.run import simulate

    run = long_run()
    price = run.prices[2]
    governed = run.simulation(Constant(run, budget(0.1), price, free=True))
    governed.scheduler.energy = EnergyTerms(price)  # the first reading comes at 0 s, with the first job
    governed.run()
    plain = simulate(run.workload, load("prices"), energy_price=price, belief=run.belief())
    assert governed.result().jobs.jct_s.mean() == pytest.approx(plain.jobs.jct_s.mean(), rel=0.01)


def test_a_replay_tells_whose_energy_it_was() -> None:
    run = long_run()
    jobs = [dataclasses.replace(job, project="ab"[i % 2]) for i, job in enumerate(run.workload.jobs)]
    workload = dataclasses.replace(run.workload, jobs=jobs)
    found = replay_day(workload, 2, run.prices, projects=["a", "b", "c"])
    assert set(found) == {"", "a", "b"}
    plain = replay_day(run.workload, 2, run.prices)[""]
    assert found[""] == plain
    for i in range(len(run.prices)):
        both = found["a"].joules[i] + found["b"].joules[i]
        assert both > plain.joules[i] > 0.5 * both  # the jobs' accounts also have the idle draw of their GPUs
    assert plain.joules[0] > 1.3 * plain.joules[-1]
    assert replay_day(workload, DAYS + 5, run.prices) == {}


def test_the_same_seed_gives_the_same_year() -> None:
    one, two = (resample(days_at_random(), 40, gpus=8, load=0.7, seed=9) for _ in range(2))
    assert one.trace.jobs == two.trace.jobs
    assert one.trace.jobs != resample(days_at_random(), 40, gpus=8, load=0.7, seed=8).trace.jobs


def test_resampled_days_are_days_of_the_log() -> None:
    log = days_at_random()
    year = resample(log, 60, gpus=8, load=0.7, swing=0.5, seed=1)
    times = {round(job.submit_s % DAY_S, 6) for job in log.jobs}
    assert {round(job.submit_s % DAY_S, 6) for job in year.trace.jobs} <= times
    assert max(job.duration_s for job in year.trace.jobs) <= LONGEST_S
    submit_s = [job.submit_s for job in year.trace.jobs]
    assert submit_s == sorted(submit_s)
    assert 0.5 <= min(year.levels) < max(year.levels) <= 1.5
    assert len(set(year.levels)) == -(-60 // LEVEL_DAYS)
    assert len({job.id for job in year.trace.jobs}) == len(year.trace.jobs)
    even = resample(log, 400, gpus=8, load=0.7, swing=0.0, seed=1).trace.jobs
    asked = sum(job.gpus * job.duration_s for job in even) / (8 * 400 * DAY_S)
    assert asked == pytest.approx(0.7, rel=0.1)


def test_a_log_of_few_days_is_refused() -> None:
    with pytest.raises(InputError, match="spans 4 whole days"):
        resample(days_at_random(5), 10, gpus=8, load=0.7)


def test_a_biased_belief_is_wrong_by_no_more_than_it_says() -> None:
    workload = from_trace(4, jobs=30)
    ratios = []
    for learned in Biased(workload, 0.1, seed=2).start():
        truth = workload.truth[learned.cost_class, learned.gpu_type]
        runs = np.isfinite(truth.step_time_s)
        ratios.append((learned.table.step_time_s[runs] / truth.step_time_s[runs]).mean())
        ratios.append((learned.table.power_w / truth.power_w).mean())
    assert all(0.9 <= ratio <= 1.1 for ratio in ratios)
    assert np.std(ratios) > 0.01


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_a_ration_holds_and_hardly_more_is_held_back_than_must_be(share: float) -> None:
    workload = from_trace(7, jobs=20, cluster="1x8:A100", span_s=0.0)
    seen = []

    class Look:
        name = "look"
        needs_sizes = True
        period_s: float | None = None

        def decide(self, view):  # type: ignore[no-untyped-def]
            inner = load("prices")
            free = inner.decide(view)
            limit_w = share * added_w(view, free)
            limit = PowerLimit(inner)
            answer = limit.decide(dataclasses.replace(view, limit_w={"": limit_w}))
            assert_valid(view, answer)
            assert added_w(view, answer) <= limit_w
            assert limit.binding == {""}
            seen.append(added_w(view, answer) / limit_w)
            assert PowerLimit(inner).decide(view).gpus.tolist() == free.gpus.tolist()
            return free

    from powerflow.simulate.run import Simulation

    Simulation(workload, Look()).run(events=6)
    assert seen
    if share >= 0.5:
        assert np.mean(seen) > 0.6


def test_windows_and_verdict_by_hand() -> None:
    day = Budget(100.0, "day", ZONE)
    start_s = window_at(day, EPOCH_S).start_s
    assert start_s == EPOCH_S
    # 90 on the first day, 110 on the second, 101 on the third, 40 on the fourth; read every 12 h
    joules = [0, 45, 90, 145, 200, 250, 301, 321, 341]
    ticks = [
        Tick(i * DAY_S / 2, float(j), 0.1 if i < 6 else 0.0, limited=i == 3, cut=False, waiting=i % 2)
        for i, j in enumerate(joules)
    ]
    found = kept(ticks, day, EPOCH_S, 4 * DAY_S)
    assert [window.name for window in found] == ["2026-03-20", "2026-03-21", "2026-03-22", "2026-03-23"]
    assert [window.spent for window in found] == pytest.approx([0.9, 1.1, 1.01, 0.4])
    assert [window.withheld for window in found] == [True, True, True, False]
    came = verdict(found, ticks)
    assert (came.over, came.running, came.waiting) == (2, 1, 3)
    assert came.worst_over == pytest.approx(0.1)
    assert came.unspent_waiting == pytest.approx(0.1 / 3)
    assert came.limited == pytest.approx(1 / 9)
    assert verdict([BudgetVerdict("x", 0.5, withheld=False)], ticks).unspent_waiting == 0.0
