"""The lower bound against exhaustive search on tiny instances, and against cases worked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from powerflow.simulate.bound.bound import Bound, bound
from powerflow.simulate.bound.dual import ANY_POOL, DualValue, JobArrays, PoolCost, dual, group_jobs
from tests.simulate.bound_instances import IDLE_W, crowd, jobs_of, one_gpu
from tests.slow import examples


def value_at(
    jobs: JobArrays,
    pools: Sequence[PoolCost],
    grid_s: ArrayLike,
    gpu_price: ArrayLike,
    energy_price: float = 0.0,
    nodes: int = 64,
) -> DualValue:
    grid = np.array(grid_s, dtype=float)
    supply = np.stack([pool.supply_gpu_s(grid) for pool in pools])
    return dual(group_jobs(jobs, pools), supply, grid, np.array(gpu_price, dtype=float), energy_price, nodes)


# --- exhaustive search -----------------------------------------------------------------------------------------------


def exhaustive(jobs: JobArrays, pools: list[PoolCost], energy_price: float, slots: int) -> tuple[float, float, float]:
    """The best schedule that changes allocations only at whole seconds: (cost, Σ weight·flow, joules above idle).

    Every job may change its pool, GPUs and clock, or be stopped, at every second. It leaves the moment it is done.
    """
    count = len(jobs.work)

    def choices(j: int) -> list[tuple[int, int, float, float]]:
        found = [(0, 0, 0.0, 0.0)]
        for p, pool in enumerate(pools):
            if jobs.pool[j] not in (ANY_POOL, p):
                continue
            for i, n in enumerate(pool.gpu_counts):
                for f in range(pool.step_time_s.shape[2]):
                    step_s = pool.step_time_s[jobs.cost_class[j], i, f]
                    if jobs.gpus_min[j] <= n <= jobs.gpus_max[j] and np.isfinite(step_s):
                        added_w = pool.power_w[jobs.cost_class[j], i, f] - n * pool.idle_w
                        found.append((p, int(n), 1.0 / step_s, added_w))
        return found

    options = [choices(j) for j in range(count)]

    def up(p: int, slot: int) -> int:
        gpus = pools[p].gpus
        for moment, then in pools[p].changes:
            if moment <= slot:
                gpus = then
        return gpus

    @cache
    def best(slot: int, left: tuple[float, ...]) -> tuple[float, float, float]:
        if not any(left):
            return 0.0, 0.0, 0.0
        if slot == slots:
            return np.inf, np.inf, np.inf
        present = [options[j] if left[j] > 0 and jobs.release_s[j] <= slot else options[j][:1] for j in range(count)]
        least = (np.inf, np.inf, np.inf)
        for plan in product(*present):
            if any(sum(n for q, n, _, _ in plan if q == p) > up(p, slot) for p in range(len(pools))):
                continue
            flow, joules, after = 0.0, 0.0, []
            for j, (_, _, speed, added_w) in enumerate(plan):
                ran_s = min(1.0, left[j] / speed) if speed > 0 else 0.0
                rest = left[j] - speed * ran_s
                rest = 0.0 if rest < 1e-9 else rest
                joules += added_w * ran_s
                if left[j] > 0 and jobs.release_s[j] <= slot:
                    flow += jobs.weight[j] * (ran_s if rest == 0.0 else 1.0)
                after.append(round(rest, 9))
            cost, more_flow, more_joules = best(slot + 1, tuple(after))
            if flow + energy_price * joules + cost < least[0]:
                least = (flow + energy_price * joules + cost, flow + more_flow, joules + more_joules)
        return least

    return best(0, tuple(float(w) for w in jobs.work))


@st.composite
def tiny(draw: st.DrawFn) -> tuple[JobArrays, list[PoolCost]]:
    """Two or three jobs on one to three GPUs (perhaps in two pools), two clocks, any number of GPUs each."""
    pools = []
    for gpus in draw(st.sampled_from([(1,), (2,), (3,), (1, 1), (2, 1)])):
        counts = np.arange(1, gpus + 1)
        # units of work per second, from a few values so that the search meets the same states again
        fast = np.array([[draw(st.sampled_from([1.0, 1.5, 2.0, 3.0])) for _ in counts] for _ in range(2)])
        slow = fast * draw(st.sampled_from([0.5, 0.75]))
        watts = np.array([draw(st.sampled_from([100.0, 200.0, 300.0])) for _ in range(2)])[:, None] * counts
        frugal = draw(st.sampled_from([0.3, 0.6]))
        power_w = np.stack([IDLE_W * counts + frugal * watts, IDLE_W * counts + watts], axis=2)
        pools.append(PoolCost(counts, 1.0 / np.stack([slow, fast], axis=2), power_w, IDLE_W, gpus))
    count = draw(st.integers(2, 3))
    jobs = jobs_of(
        sorted(draw(st.integers(0, 3)) for _ in range(count)),
        [draw(st.sampled_from([0.5, 1.0, 2.0])) for _ in range(count)],
        weight=[draw(st.sampled_from([1.0, 1.0, 3.0])) for _ in range(count)],
        cost_class=[draw(st.integers(0, 1)) for _ in range(count)],
        gpus_max=[draw(st.integers(1, 3)) for _ in range(count)],
    )
    return jobs, pools


@settings(max_examples=examples(20), deadline=None)
@given(tiny(), st.sampled_from([0.0, 0.002, 0.01]), st.data())
def test_any_prices_bound_every_schedule(
    instance: tuple[JobArrays, list[PoolCost]], energy_price: float, data: st.DataObject
) -> None:
    """Validity needs no good prices: random ones, on a random grid, with few worths tried."""
    jobs, pools = instance
    cost, _, _ = exhaustive(jobs, pools, energy_price, slots=10)
    first = float(jobs.release_s.min())
    cuts = data.draw(st.lists(st.floats(0.1, 8.0), min_size=0, max_size=4, unique=True))
    end = float(jobs.release_s.max()) + data.draw(st.sampled_from([0.5, 2.0, 9.0]))
    grid_s = np.unique([first, end, *(first + cut for cut in cuts if first + cut < end)])
    some = st.floats(0.0, 5.0)
    price = [[data.draw(some) for _ in range(len(grid_s) - 1)] for _ in pools]
    found = value_at(jobs, pools, grid_s, price, energy_price, data.draw(st.sampled_from([2, 3, 7, 40])))
    assert found.value_s <= cost * (1 + 1e-9)
    assert np.isfinite(cost)


@settings(max_examples=6, deadline=None)
@given(tiny())
def test_the_bound_holds_and_is_not_idle(instance: tuple[JobArrays, list[PoolCost]]) -> None:
    jobs, pools = instance
    prices = [0.0, 0.004]
    least = bound(jobs, pools, prices)
    for energy_price in prices:
        cost, flow, joules = exhaustive(jobs, pools, energy_price, slots=10)
        point = next(point for point in least.points if point.energy_price == energy_price)
        assert point.cost_s <= cost * (1 + 1e-9)
        # the exhaustive schedule is restricted to whole seconds, and few jobs leave a duality gap
        assert point.cost_s >= 0.4 * cost
        assert least.mean_jct_at(joules) <= flow / jobs.weight.sum() * (1 + 1e-9)


@settings(max_examples=15, deadline=None)
@given(tiny(), st.integers(1, 3), st.integers(0, 2))
def test_gpus_that_come_and_go(instance: tuple[JobArrays, list[PoolCost]], moment: int, then: int) -> None:
    jobs, pools = instance
    first = pools[0]
    pools[0] = PoolCost(
        first.gpu_counts, first.step_time_s, first.power_w, IDLE_W, first.gpus, [(moment, then), (5.0, first.gpus)]
    )
    cost, _, _ = exhaustive(jobs, pools, 0.002, slots=12)
    grid_s = np.linspace(jobs.release_s.min(), 12.0, 25)
    for level in (0.0, 0.5, 2.0):
        assert value_at(jobs, pools, grid_s, np.full((len(pools), 24), level), 0.002).value_s <= cost * (1 + 1e-9)


# --- worked by hand --------------------------------------------------------------------------------------------------


def test_a_job_alone_costs_what_its_cheapest_configuration_costs() -> None:
    """Free GPUs: the bound is W·min (w·T + λ_E·D·T) exactly."""
    step_s = np.array([[[2.0, 1.0], [1.5, 0.6]]])
    power_w = np.array([[[120.0, 300.0], [260.0, 700.0]]])
    pool = PoolCost(np.array([1, 2]), step_s, power_w, IDLE_W, 2)
    jobs = jobs_of([5.0], [100.0])
    for energy_price in (0.0, 0.001, 0.01, 0.1):
        added_w = power_w[0] - np.array([[1.0], [2.0]]) * IDLE_W
        exact = 100.0 * (step_s[0] * (1.0 + energy_price * added_w)).min()
        assert bound(jobs, [pool], [energy_price]).points[0].cost_s == pytest.approx(exact, rel=1e-6)


def test_equal_jobs_on_one_gpu_leave_no_gap() -> None:
    """k jobs of 1 s each, one GPU: they end at 1, 2, …, k, and the price k−1, k−2, …, 0 proves that it is optimal.

    The i-th second costs a job i of waiting and (k−i) of rent: k, whichever it takes. k·k less the k(k−1)/2 that the
    GPU earns is k(k+1)/2.
    """
    k = 5
    jobs = jobs_of([0.0] * k, [1.0] * k)
    price = [[float(k - 1 - i) for i in range(k)]]
    assert value_at(jobs, [one_gpu()], np.arange(k + 1), price, nodes=4000).value_s == pytest.approx(15.0, rel=1e-3)
    # five jobs that all change their minds at once: the search, made for crowds, stops short of those prices
    assert 2.5 < bound(jobs, [one_gpu()], [0.0]).mean_jct_at(0.0) <= 3.0


def test_the_minimum_inside_an_interval_is_found() -> None:
    """A price that falls within a job's life: worked out by calculus, not by looking at interval ends only.

    One GPU at 1 or 2 iterations/s costs 1 or 4 (rent 0, λ_E·D); W = 3 within one interval [0, 10]. Finishing at C by
    mixing speeds costs C + λ_E·(joules); at λ_E·D = (0.5, 4): per iteration 1.5 at the slow clock, 2.5 at the fast
    one: slow throughout, C = 3, inside the interval.
    """
    pool = PoolCost(np.array([1]), np.array([[[1.0, 0.5]]]), np.array([[[100.0, 450.0]]]), IDLE_W, 1)
    found = value_at(jobs_of([0.0], [3.0]), [pool], [0.0, 10.0], [[0.0]], 0.01, nodes=16)
    assert found.value_s == pytest.approx(4.5, rel=1e-9)
    assert found.energy_j == pytest.approx(150.0, rel=1e-6)  # 3 s at 50 W above idle
    assert found.excess_gpu_s[0, 0] == pytest.approx(3.0 - 10.0, rel=1e-6)


def test_a_job_waits_where_waiting_is_cheaper_than_rent() -> None:
    """Rent 5 until 4 s, then none: 1 iteration of 1 s costs 1 + 5 now or 4 + 1 later."""
    found = value_at(jobs_of([0.0], [1.0]), [one_gpu()], [0.0, 4.0, 8.0], [[5.0, 0.0]], nodes=2000)
    assert found.value_s == pytest.approx(5.0 - 4.0 * 5.0, abs=0.02)
    assert found.excess_gpu_s[0] == pytest.approx([-4.0, 1.0 - 4.0], abs=0.02)


def test_supply_follows_the_changes() -> None:
    pool = PoolCost(np.array([1]), np.ones((1, 1, 1)), np.full((1, 1, 1), 99.0), IDLE_W, 4, [(2.0, 1), (3.0, 6)])
    assert pool.supply_gpu_s(np.array([0.0, 1.0, 2.5, 4.0])) == pytest.approx([4.0, 4.0 + 0.5, 0.5 + 6.0])
    assert pool.most_gpus == 6


# --- what must hold of any instance ----------------------------------------------------------------------------------


Searched = tuple[JobArrays, PoolCost, Bound]


@pytest.fixture(scope="module")
def searched() -> Searched:
    jobs, pool = crowd(1)
    return jobs, pool, bound(jobs, [pool], [0.0, 0.002, 0.008])


def test_less_energy_never_means_less_time(searched: Searched) -> None:
    _, _, least = searched
    energies = np.linspace(0.2, 3.0, 30) * least.points[0].energy_j
    jct = [least.mean_jct_at(energy) for energy in energies]
    assert all(a >= b for a, b in pairwise(jct))
    assert jct[0] > jct[-1]


def test_points_between_lie_above_the_chord(searched: Searched) -> None:
    """The dual is concave: what needs no search is still better than a line between two searches."""
    _, _, least = searched
    by_price = {point.energy_price: point.cost_s for point in least.points}
    for price, cost in by_price.items():
        if price < 0.002:
            share = price / 0.002
            assert cost >= ((1 - share) * by_price[0.0] + share * by_price[0.002]) * (1 - 1e-3)


def test_more_gpus_never_raise_it(searched: Searched) -> None:
    jobs, pool, least = searched
    larger = PoolCost(pool.gpu_counts, pool.step_time_s, pool.power_w, IDLE_W, pool.gpus + 2)
    for point in least.points:
        same_prices = value_at(jobs, [larger], point.grid_s, point.gpu_price, point.energy_price, 256)
        assert same_prices.value_s <= point.cost_s
    found = bound(jobs, [larger], [0.002]).points[0].cost_s
    assert found <= least.points[4].cost_s
    assert least.points[4].energy_price == 0.002


def test_units_do_not_matter(searched: Searched) -> None:
    """Milliseconds for seconds: prices per GPU stay, the price of a joule and the cost are a thousandfold."""
    jobs, pool, least = searched
    slow = PoolCost(pool.gpu_counts, pool.step_time_s * 1e3, pool.power_w, IDLE_W, pool.gpus)
    later = JobArrays(
        jobs.release_s * 1e3, jobs.work, jobs.weight, jobs.cost_class, jobs.gpus_min, jobs.gpus_max, jobs.pool
    )
    point = least.points[4]
    found = value_at(later, [slow], point.grid_s * 1e3, point.gpu_price, point.energy_price, 256)
    straight = value_at(jobs, [pool], point.grid_s, point.gpu_price, point.energy_price, 256)
    assert found.value_s == pytest.approx(straight.value_s * 1e3, rel=1e-9)
    assert found.energy_j == pytest.approx(straight.energy_j * 1e3, rel=1e-9)


def test_weights_scale_it() -> None:
    jobs, pool = crowd(2, count=30)
    heavy = JobArrays(
        jobs.release_s, jobs.work, 3 * jobs.weight, jobs.cost_class, jobs.gpus_min, jobs.gpus_max, jobs.pool
    )
    grid_s, price = np.linspace(jobs.release_s[0], 600, 40), np.full((1, 39), 0.7)
    light = value_at(jobs, [pool], grid_s, price, 0.001)
    assert value_at(heavy, [pool], grid_s, 3 * price, 0.003).value_s == pytest.approx(3 * light.value_s, rel=1e-9)


def test_supergradients_are_slopes(searched: Searched) -> None:
    jobs, pool, least = searched
    point = least.points[4]
    rng = np.random.default_rng(0)
    price = point.gpu_price * rng.uniform(0.8, 1.2, point.gpu_price.shape)  # off the top, where the slope is not 0
    direction = price * rng.uniform(0.5, 1.5, price.shape)
    here = value_at(jobs, [pool], point.grid_s, price, 0.002, 512)
    step = 1e-3
    up = value_at(jobs, [pool], point.grid_s, price + step * direction, 0.002, 512).value_s
    down = value_at(jobs, [pool], point.grid_s, price - step * direction, 0.002, 512).value_s
    slope = float((here.excess_gpu_s * direction).sum())
    scale = float((np.abs(here.excess_gpu_s) * direction).sum())
    assert (up - down) / (2 * step) == pytest.approx(slope, abs=0.05 * scale)
    dearer = value_at(jobs, [pool], point.grid_s, price, 0.002 * 1.001, 512).value_s
    cheaper = value_at(jobs, [pool], point.grid_s, price, 0.002 * 0.999, 512).value_s
    assert (dearer - cheaper) / (0.002 * 0.002) == pytest.approx(here.energy_j, rel=0.02)


def test_the_search_climbs(searched: Searched) -> None:
    """Much better than no price, and better than any constant one."""
    jobs, pool, least = searched
    point = least.points[4]
    flat = [
        value_at(jobs, [pool], point.grid_s, np.full_like(point.gpu_price, level), 0.002).value_s
        for level in (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
    ]
    assert point.cost_s > 1.05 * max(flat)
    assert point.cost_s > 1.15 * flat[0]
