"""Stretches, draws, and what is made of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from powerflow.errors import InputError
from powerflow.policy.fifo import Fifo
from powerflow.policy.prices import Prices
from powerflow.simulate.comparison import Estimate
from powerflow.simulate.experiment import Believed
from powerflow.simulate.replay.draws import DrawOutcome, idle_w, rigid, site
from powerflow.simulate.replay.log import log_of
from powerflow.simulate.replay.queue import start_times
from powerflow.simulate.replay.replay import Replay, replay
from powerflow.simulate.replay.savings import WAYS, Saving, ratio, recommended, savings
from powerflow.simulate.replay.windows import windows
from powerflow.simulate.run import simulate
from powerflow.simulate.workload.build import build_workload
from powerflow.simulate.world import World
from powerflow.trace.record import Trace, TraceJob
from tests.simulate.small import small_trace, small_workload
from tests.simulate.test_replay_log import logged


def test_a_stretch_begins_with_what_ran_and_waited() -> None:
    # on four GPUs, FIFO: a runs 0 to 100, b (all four) waits for it until 100, c comes at 50, d at 60
    jobs = [
        TraceJob("a", 0.0, 100.0, 2),
        TraceJob("b", 10.0, 30.0, 4, iterations=7.0),
        TraceJob("c", 50.0, 5.0, 1),
        TraceJob("d", 60.0, 6.0, 1),
    ]
    trace = Trace("by hand", "made in a test", jobs)
    log = log_of(trace, 4)
    start_s = start_times(log.submit_s, log.run_s, log.gpus, 4, "fifo")
    assert start_s.tolist() == [0, 100, 130, 130]
    found = windows(trace, log, start_s, draws=50, most_jobs=2, seed=3)
    last = found[-1]
    assert (last.carried, last.begin_s, last.end_s) == (1, 10.0, 50.0)
    assert [(job.id, job.submit_s, job.duration_s, job.iterations) for job in last.jobs.jobs] == [
        ("a", 10.0, 90.0, None),
        ("b", 10.0, 30.0, None),
        ("c", 50.0, 5.0, None),
    ]
    assert found[0].carried == 0
    assert windows(trace, log, start_s, draws=2, most_jobs=4, seed=3)[1].jobs.jobs[3].id == "d"


def test_each_stretch_lies_in_its_own_part_of_the_log() -> None:
    trace = small_trace(1000)
    log = log_of(trace, 16)
    start_s = start_times(log.submit_s, log.run_s, log.gpus, 16, "easy")
    firsts = [
        int(np.searchsorted(log.submit_s, one.begin_s))
        for one in windows(trace, log, start_s, draws=4, most_jobs=200, seed=1)
    ]
    assert [first // 200 for first in firsts] == [0, 1, 2, 3]
    again = windows(trace, log, start_s, draws=4, most_jobs=200, seed=2)
    assert [int(np.searchsorted(log.submit_s, one.begin_s)) for one in again] != firsts


def test_the_site_is_what_the_simulator_makes_of_its_policy() -> None:
    """Two ways to the same numbers: the replayed queue, and FIFO in the simulator, on one node without delays."""
    trace = small_trace()
    workload = build_workload(trace, "1x16:A100", seed=4)
    simulated = simulate(workload, Fifo(), world=World(pause_s=0.0, interval_s=0.0))
    until_s = workload.jobs[-1].submit_s
    replayed = site(workload, "fifo")
    assert replayed.completion_s == pytest.approx(float(simulated.jobs.jct_s.sum()))
    assert replayed.energy_j == pytest.approx(simulated.energy_over(until_s))
    assert replayed.added_j == pytest.approx(replayed.energy_j - idle_w(workload.cluster) * until_s)
    assert replayed.gpu_s == pytest.approx(sum(job.gpus * job.duration_s for job in trace.jobs))


def test_rigid_jobs_run_on_what_they_asked_for_only() -> None:
    workload = small_workload(0)
    fixed = rigid(workload)
    assert all(job.gpus_min == job.gpus_max <= job.gpus for job in fixed.jobs)
    assert any(job.gpus_max > job.gpus for job in workload.jobs)
    simulate(fixed, Fifo())  # each can still run


def test_rigid_jobs_of_odd_sizes_are_run_too() -> None:
    trace = small_trace()
    jobs = tuple(replace(job, gpus=gpus) for job, gpus in zip(trace.jobs, [3, 6, 12, 1] * 10, strict=True))
    fixed = rigid(build_workload(replace(trace, jobs=jobs), "2x8:A100", seed=0))
    assert {(job.gpus, job.gpus_max) for job in fixed.jobs} == {(3, 2), (6, 4), (12, 8), (1, 1)}
    assert np.isfinite(simulate(fixed, Prices()).jobs.finish_s).all()


def test_a_ratio_worked_by_hand() -> None:
    # without the first 3/2, without the second 1/2: pseudo-values 1/2 and 3/2, standard error 1/2, t(1) = 12.706
    found = ratio(np.array([1.0, 3.0]), np.array([2.0, 2.0]))
    assert found.mean == 1.0
    assert found.high - 1.0 == pytest.approx(12.706 * 0.5, rel=1e-4)
    assert found.low - 1.0 == pytest.approx(-12.706 * 0.5, rel=1e-4)
    assert math.isnan(ratio(np.array([1.0]), np.array([2.0])).low)


def test_its_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    wholes = rng.uniform(1, 2, (2000, 8))
    parts = wholes * 0.3 + 0.1 * rng.standard_normal((2000, 8))
    found = [ratio(part, whole) for part, whole in zip(parts, wholes, strict=True)]
    assert 0.93 < np.mean([one.low <= 0.3 <= one.high for one in found]) < 0.97


def way(name: str, energy: float, completion_low: float, rigid: bool = False) -> Saving:
    sure = Estimate(energy, energy / 2, energy * 2)
    time = Estimate(0.3, completion_low, 0.5)
    return Saving(name, rigid, 0.0, sure, sure, time, time)


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ([way("a", 0.1, 0.1), way("b", 0.2, 0.1)], "b"),
        ([way("a", 0.19, 0.1), way("b", 0.2, 0.1)], "a"),  # nearly as much at a lower price
        ([way("a", 0.1, 0.1), way("b", 0.2, -0.1)], "a"),  # the second may make jobs slower
        ([way("a", -0.1, 0.1), way("b", 0.2, -0.1)], None),
        ([way("a", 0.2, 0.1, rigid=True)], None),
    ],
)
def test_what_is_recommended(found: list[Saving], name: str | None) -> None:
    assert recommended(found) == name


def run(trace: Trace, cluster: str = "2x8:A100", **options: Any) -> Replay:
    settings: dict[str, Any] = {"believed": Believed(), "draws": 3, "processes": 1} | options
    return replay(trace, cluster, **settings)


def test_a_log_from_end_to_end() -> None:
    trace = logged("easy", jobs=120)
    told: list[float] = []
    found = run(trace, jobs_per_draw=40, progress=lambda share, note: told.append(share))
    assert (found.discipline, found.refusal) == ("easy", None)
    assert told == sorted(told)
    assert told[-1] == 1.0
    saved = found.savings
    assert saved is not None
    assert len(saved.ways) == len(WAYS)
    fast, balanced, sparing, _ = saved.ways
    assert fast.energy_price == 0 < balanced.energy_price < sparing.energy_price
    assert fast.energy_share.mean < balanced.energy_share.mean < sparing.energy_share.mean
    assert fast.completion_share.mean >= sparing.completion_share.mean
    for one in saved.ways:
        assert one.energy_j.mean == pytest.approx(one.energy_share.mean * saved.site_j)
        assert one.energy_share.low < one.energy_share.mean < one.energy_share.high
    log = log_of(trace, 16)
    waits = np.array([job.wait_s for job in trace.jobs])
    assert saved.site_completion_s == pytest.approx(float((waits + log.run_s).mean()))
    assert "40 consecutive jobs" in found.facts["Draws"]


def test_same_seed_same_numbers_in_however_many_processes() -> None:
    trace = logged("fifo", jobs=60)
    options: dict[str, Any] = {"jobs_per_draw": 30, "draws": 2, "believed": Believed("oracle", "mispredicted:0.5")}
    alone, together = run(trace, **options), run(trace, **options, processes=2)
    assert alone.savings == together.savings
    assert run(trace, **options, seed=1).savings != alone.savings


def test_what_learns_is_made_anew_for_every_way() -> None:
    trace = logged("fifo", jobs=6)
    learning = run(trace, draws=2, believed=Believed("online", "unknown"))
    assert learning.savings is not None
    assert learning.savings == run(trace, draws=2, believed=Believed("online", "unknown")).savings
    assert learning.savings.ways[1].energy_price == learning.savings.ways[3].energy_price


def test_the_whole_log_where_it_is_short() -> None:
    found = run(logged("fifo", jobs=30))
    assert found.savings is not None
    assert "the whole log in each" in found.facts["Draws"]


def test_claims_nothing_without_a_reproduction() -> None:
    unknown = run(small_trace())
    assert unknown.savings is None
    assert unknown.refusal is not None
    assert "does not say when jobs started" in unknown.refusal
    trace = logged("fifo")
    late = replace(trace, jobs=tuple(replace(job, wait_s=(job.wait_s or 0.0) * 2 + 600) for job in trace.jobs))
    wrong = run(late)
    assert wrong.savings is None
    assert wrong.refusal is not None
    assert "no policy reproduces the log within 10%" in wrong.refusal
    asked = run(late, unvalidated=True, jobs_per_draw=30, draws=2)
    assert asked.savings is not None
    assert asked.refusal == wrong.refusal


def test_one_type_of_gpu_at_a_time() -> None:
    with pytest.raises(InputError, match="replay one partition at a time"):
        run(small_trace(), "1x8:A100+1x8:V100")


def test_what_is_saved_is_scaled_to_the_whole_log() -> None:
    """Idle draw is exact, what jobs add goes by GPU-seconds."""
    workload = small_workload(0)
    was = site(workload, "fifo")
    now = replace(was, energy_j=was.energy_j - 0.25 * was.added_j, jct_s=was.jct_s * 0.8)
    found = savings(
        [DrawOutcome(was, [now] * len(WAYS), np.zeros(len(was.jct_s)))] * 2,
        log_gpu_s=10 * was.gpu_s,
        idle_j=3 * was.added_j,
        site_completion_s=1000.0,
    )
    assert found.site_j == pytest.approx(13 * was.added_j)
    assert found.ways[0].energy_j.mean == pytest.approx(2.5 * was.added_j)
    assert found.ways[0].completion_s.mean == pytest.approx(200.0)
