"""What holds of every simulation: whose joule it was, what adds up, and that a run can be repeated and resumed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.policy.registry import BUILT_IN, load
from powerflow.simulate.belief import belief_named
from powerflow.simulate.result import SimulationResult
from powerflow.simulate.run import Simulation, simulate
from powerflow.simulate.workload.workload import Workload
from powerflow.simulate.world import World
from tests.simulate.workloads import Script, by_hand, bytes_of, from_trace, job, workloads
from tests.slow import examples

WORLDS = st.builds(
    World,
    pause_s=st.sampled_from([0.0, 30.0, 700.0]),
    checkpoint_s=st.sampled_from([1.0, 600.0, 1800.0]),
    node_mtbf_h=st.sampled_from([np.inf, 5.0, 1.0]),
    node_repair_h=st.sampled_from([0.0, 0.3, 2.0]),
    interval_s=st.sampled_from([0.0, 60.0, 300.0]),
)


def _over_time(result: SimulationResult, column: str) -> float:
    """The integral of a column of the timeline from its first row to the end."""
    timeline = result.timeline
    until = np.append(timeline.time_s[1:], result.end_s)
    return float((getattr(timeline, column) * (until - timeline.time_s)).sum())


@settings(max_examples=examples(100), deadline=None)
@given(
    workload=workloads(),
    policy=st.sampled_from(sorted(BUILT_IN)),
    overlay=st.sampled_from(["", "", "+clock:0.7", "+zeus:0.5"]),
    world=WORLDS,
    price=st.sampled_from([0.0, 1e-4, 1e-2]),
    seed=st.integers(0, 1000),
)
def test_everything_adds_up(
    workload: Workload, policy: str, overlay: str, world: World, price: float, seed: int
) -> None:
    result = simulate(workload, load(policy + overlay), world=world, energy_price=price, seed=seed)
    jobs, segments, timeline = result.jobs, result.segments, result.timeline

    # every joule belongs to one job or to idle (design §12.3)
    assert result.metered_j == pytest.approx(jobs.energy_j.sum() + result.idle_j, rel=1e-6)
    assert (jobs.energy_j >= 0).all()
    assert result.idle_j >= -1e-6 * result.metered_j

    # the timeline tells the same; its first row is the first submission, at 0 s
    assert timeline.time_s[0] == 0.0
    assert (np.diff(timeline.time_s) > 0).all()
    assert timeline.time_s[-1] == result.end_s == jobs.finish_s.max()
    assert _over_time(result, "power_w") == pytest.approx(result.metered_j, rel=1e-6)
    assert _over_time(result, "busy_gpus") == pytest.approx(jobs.gpu_s.sum(), rel=1e-9, abs=1e-6)
    assert timeline.busy_gpus.max() <= workload.cluster.gpus
    assert (timeline.running[-1], timeline.waiting[-1], timeline.busy_gpus[-1]) == (0, 0, 0)
    assert (timeline.running >= 0).all()
    assert (timeline.waiting >= 0).all()

    # and so do the segments, job by job
    length_s = segments.end_s - segments.start_s
    assert (length_s > 0).all()
    count = len(jobs.ids)
    held = np.bincount(segments.job, segments.gpus * length_s, count)
    drawn = np.bincount(segments.job, segments.power_w * length_s, count)
    assert held == pytest.approx(jobs.gpu_s, rel=1e-9, abs=1e-6)
    assert drawn == pytest.approx(jobs.energy_j, rel=1e-9, abs=1e-3)
    for j in range(count):
        own = segments.job == j
        assert (segments.start_s[own][1:] >= segments.end_s[own][:-1]).all(), "a job in two places"
        if own.any():
            assert segments.start_s[own][0] == jobs.start_s[j]
            assert segments.end_s[own][-1] == jobs.finish_s[j]

    # nobody starts before he comes, or is faster than the hardware
    assert (jobs.start_s >= jobs.submit_s).all()
    assert (jobs.finish_s >= jobs.start_s).all()
    for j, each in enumerate(workload.jobs):
        fastest = min(table.step_time_s.min() for key, table in workload.truth.items() if key[0] == each.cost_class)
        assert jobs.finish_s[j] - jobs.start_s[j] >= each.iterations * fastest * (1 - 1e-9)


@settings(max_examples=examples(25), deadline=None)
@given(workload=workloads(), policy=st.sampled_from(["prices", "srtf", "optimus"]), seed=st.integers(0, 99))
def test_without_pauses_and_failures_work_is_conserved(workload: Workload, policy: str, seed: int) -> None:
    """Σ over a job's segments of length ÷ step time is its iterations, where every count fits one node."""
    world = World(pause_s=0.0)
    result = simulate(workload, load(policy), world=world, seed=seed)
    segments = result.segments
    if len(workload.axes) > 1 or workload.axes["A100"].gpus_per_node < workload.cluster.gpus:
        return  # segments do not tell the pool, nor whether a job was spread
    axes = workload.axes["A100"]
    for j, each in enumerate(workload.jobs):
        own = segments.job == j
        row = np.searchsorted(axes.gpu_counts, segments.gpus[own])
        clock = np.searchsorted(axes.clocks_mhz, segments.clock_mhz[own])
        step_s = workload.truth[each.cost_class, "A100"].step_time_s[row, clock]
        done = ((segments.end_s[own] - segments.start_s[own]) / step_s).sum()
        assert done == pytest.approx(each.iterations, rel=1e-9)


def test_a_pause_longer_than_the_interval_does_not_keep_any_policy_from_ending() -> None:
    workload = from_trace(5, 10, "1x4:A100", span_s=1000.0)
    for name in sorted(BUILT_IN):
        simulation = Simulation(workload, load(name), world=World(pause_s=900.0))
        assert simulation.run(20_000), name


# -- again, and from the middle ---------------------------------------------------------------------------------------

HARD = World(pause_s=45.0, checkpoint_s=600.0, node_mtbf_h=2.0, node_repair_h=0.4)


def _hard(name: str, belief: str) -> Simulation:
    """Two pools, failures, pauses, mispredicted sizes: all that is drawn or remembered."""
    jobs = 4 if belief == "fitted" else 10  # a fit to the points of one class takes a fifth of a second
    workload = from_trace(11, jobs, "2x4:A100+2x2:T4")
    told = belief_named(belief, workload, sizes="mispredicted:0.5", seed=4)
    return Simulation(workload, load(name), energy_price=1e-4, belief=told, world=HARD, seed=6)


def _finished(simulation: Simulation) -> bytes:
    assert simulation.run()
    return bytes_of(simulation.result())


@pytest.mark.parametrize("belief", ["oracle", "fitted", "online"])
def test_same_seed_same_bytes(belief: str) -> None:
    assert _finished(_hard("prices", belief)) == _finished(_hard("prices", belief))


def test_another_seed_other_failures() -> None:
    workload = from_trace(11, 10)
    ends = {simulate(workload, load("prices"), world=HARD, seed=seed).end_s for seed in range(4)}
    assert len(ends) == 4


_SCRIPT = """
import hashlib, sys
from tests.simulate.test_run_properties import _finished, _hard
print(hashlib.sha256(_finished(_hard("prices", "online"))).hexdigest())
"""


def test_same_bytes_in_another_process_whatever_the_hash_seed() -> None:
    root = Path(__file__).parents[2]
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    other = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        cwd=root,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == hashlib.sha256(_finished(_hard("prices", "online"))).hexdigest()


@pytest.mark.parametrize(("name", "belief"), [("prices", "online"), ("gandiva", "oracle"), ("pollux", "fitted")])
def test_resumed_at_every_event_it_ends_the_same(name: str, belief: str) -> None:
    straight = _finished(_hard(name, belief))
    simulation = _hard(name, belief)
    ended = False
    while not ended:
        simulation = Simulation.resume(simulation.state())
        ended = simulation.run(1)
    assert bytes_of(simulation.result()) == straight


@settings(max_examples=10, deadline=None)
@given(workload=workloads(), policy=st.sampled_from(sorted(BUILT_IN)), world=WORLDS, stop=st.integers(1, 60))
def test_resumed_at_any_event_it_ends_the_same(workload: Workload, policy: str, world: World, stop: int) -> None:
    straight = _finished(Simulation(workload, load(policy), world=world))
    simulation = Simulation(workload, load(policy), world=world)
    simulation.run(stop)
    assert _finished(Simulation.resume(simulation.state())) == straight


def test_the_original_goes_on_as_if_nobody_had_looked() -> None:
    watched, other = _hard("prices", "online"), _hard("prices", "online")
    watched.run(7)
    watched.state()
    assert _finished(watched) == _finished(other)


def test_a_state_taken_before_the_start_and_after_the_end() -> None:
    simulation = Simulation(by_hand([job("a", 10.0)]), Script(_one_gpu))
    before = simulation.state()
    straight = _finished(simulation)
    assert _finished(Simulation.resume(before)) == straight
    assert _finished(Simulation.resume(simulation.state())) == straight


def _one_gpu(now_s: float) -> dict[int, tuple[int, int]]:
    return {0: (1, 1)}
