"""The bound of whole workloads, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from powerflow.cluster.spec import parse_cluster
from powerflow.cost.catalogue import gpu_type
from powerflow.cost.table import Axes, CostTable
from powerflow.errors import InputError
from powerflow.job import Job
from powerflow.policy.prices import Prices
from powerflow.simulate.bound.bound import bound, bound_for, joined
from powerflow.simulate.bound.dual import PoolCost
from powerflow.simulate.run import simulate
from powerflow.simulate.workload.workload import Workload
from powerflow.simulate.world import World
from tests.simulate.bound_instances import crowd, jobs_of, one_gpu


def small_workload(*, gpu_kind: str | None = None) -> Workload:
    counts, clocks = np.array([1, 2]), np.array([900.0, 1410.0])
    step_s = np.array([[1.5, 1.0], [0.9, 0.6]])
    power_w = np.array([[150.0, 300.0], [280.0, 580.0]])
    table = CostTable(step_s, step_s * 1.2, power_w, np.array([64, 32]), np.array([1, 1]))
    axes = {"A100": Axes("A100", 2, counts, clocks), "V100": Axes("V100", 2, counts, clocks)}
    slower = CostTable(step_s * 2, step_s * 2.2, power_w, np.array([64, 32]), np.array([1, 1]))
    jobs = tuple(
        Job(f"j{i}", 10.0 * i, "net/64", 50.0 + 10 * i, 1, gpus_max=2, weight=1.0 + i, gpu_type=gpu_kind)
        for i in range(4)
    )
    truth = {("net/64", "A100"): table, ("net/64", "V100"): slower}
    return Workload("four jobs", jobs, parse_cluster("1x2:A100+1x2:V100"), axes, truth, {})


def test_a_workload_is_bounded_as_its_arrays_are() -> None:
    workload = small_workload()
    truth = workload.truth
    pools = [
        PoolCost(
            workload.axes[name].gpu_counts,
            truth["net/64", name].step_time_s[None],
            truth["net/64", name].power_w[None],
            gpu_type(name).idle_w,
            2,
        )
        for name in ("A100", "V100")
    ]
    jobs = jobs_of([0.0, 10.0, 20.0, 30.0], [50.0, 60.0, 70.0, 80.0], gpus_max=2)
    mine, same = bound(jobs, pools, [0.001]), bound_for(workload, [0.001])
    assert same.points[0].cost_s == mine.points[0].cost_s
    assert same.weight == 4.0
    # all four on the slower type must cost more
    assert bound_for(small_workload(gpu_kind="V100"), [0.001]).points[0].cost_s > 1.2 * mine.points[0].cost_s


@pytest.mark.parametrize("pause_s", [0.0, 30.0])
def test_the_simulator_never_beats_it(pause_s: float) -> None:
    workload = small_workload(gpu_kind="A100")
    least = bound_for(workload, [0.0, 0.001, 0.004])
    idle_w = gpu_type("A100").idle_w
    for energy_price in (0.0, 0.001, 0.004):
        result = simulate(workload, Prices(), energy_price=energy_price, world=World(pause_s=pause_s, interval_s=0.0))
        above_idle_j = float((result.jobs.energy_j - idle_w * result.jobs.gpu_s).sum())
        assert least.mean_jct_at(above_idle_j) <= result.jobs.jct_s.mean() * (1 + 1e-9)


def test_parts_join_to_the_whole() -> None:
    workload = small_workload()
    prices = [0.0, 0.001, 0.002]
    whole = bound_for(workload, prices)
    apart = joined(workload, [bound_for(workload, [price]) for price in reversed(prices)])
    assert [p.energy_price for p in apart.points] == [p.energy_price for p in whole.points]
    assert [p.cost_s for p in apart.points] == [p.cost_s for p in whole.points]


def test_the_same_input_gives_the_same_bytes() -> None:
    jobs, pool = crowd(4, count=40)
    a, b = (bound(jobs, [pool], [0.001]).points[0] for _ in range(2))
    assert a.cost_s == b.cost_s
    assert a.gpu_price.tobytes() == b.gpu_price.tobytes()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"work": [0.0, 1.0]}, "work of job 0"),
        ({"weight": [1.0, -1.0]}, "weight of job 1"),
        ({"release_s": [0.0, np.nan]}, "release_s of job 1"),
        ({"gpus_min": [1, 2]}, "cannot run on 2 to 64"),
        ({"pool": [0, 3]}, "cannot run on"),
    ],
)
def test_impossible_jobs_are_refused(change: dict[str, Any], word: str) -> None:
    jobs = jobs_of(**{"release_s": [0.0, 1.0], "work": [1.0, 1.0], **change})
    with pytest.raises(InputError, match=word):
        bound(jobs, [one_gpu()], [0.0])


def test_other_nonsense_is_refused() -> None:
    jobs = jobs_of([0.0], [1.0])
    for prices in ([], [-1.0], [np.inf]):
        with pytest.raises(InputError, match="energy prices"):
            bound(jobs, [one_gpu()], prices)
    with pytest.raises(InputError, match="no jobs"):
        bound(jobs_of([], []), [one_gpu()], [0.0])
    with pytest.raises(InputError, match="less than idle"):
        bound(jobs, [one_gpu(watts=20.0)], [0.0])
    with pytest.raises(InputError, match="step time ≤ 0"):
        bound(jobs, [one_gpu(step_time_s=0.0)], [0.0])
