"""`prices`, step by step as design §5 numbers them, on cases worked by hand; then what always holds of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.policy.busy_period import ranks
from powerflow.policy.prices import Prices, sizes
from powerflow.policy.prices_kernel import sell, value_counts
from powerflow.policy.protocol import View
from tests.policy.views import assert_valid, given_gpus, make_view, views
from tests.slow import examples

NEVER = -np.inf
SUBLINEAR = [[8.0, 5.0, 4.0]]  # seconds per iteration on 1, 2, 4 GPUs
COUNTS = (1, 2, 4)


def values(view: View, rank: list[float]) -> tuple[list[float], list[list[float]], list[list[int]]]:
    """Steps 2 to 4: v_j, V_j(n) and the clock that attains it."""
    jobs = view.jobs
    shape = (len(jobs), len(view.gpu_counts))
    value, clock, worth = np.empty(shape), np.full(shape, -1, np.int64), np.empty(len(jobs))
    offers, offered = np.empty(len(jobs), np.int64), np.empty(shape, np.int64)
    value_counts(
        np.array(rank, float),
        jobs["remaining"],
        jobs["attained_gpu_s"],
        jobs["weight"],
        jobs["pause_s"],
        jobs["gpus"],
        jobs["gpus_min"],
        jobs["gpus_max"],
        jobs["cost"],
        jobs["listed"],
        view.gpu_counts,
        view.count_index,
        view.step_time_s,
        view.power_w,
        view.idle_w,
        view.capacity,
        view.energy_prices,
        view.sizes_known,
        offers,
        offered,
        value,
        clock,
        worth,
    )
    values_of, clock_of = np.full(shape, NEVER), np.full(shape, -1, np.int64)
    for j, count in enumerate(offers):
        at, runs = offered[j, :count], value[j, :count] > NEVER
        values_of[j, at], clock_of[j, at[runs]] = value[j, :count], clock[j, :count][runs]
    return worth.tolist(), values_of.tolist(), clock_of.tolist()


def sold(value: list[list[float]], capacity: int) -> tuple[list[int], float]:
    """Step 5: GPUs for each job on counts 1, 2, 4, and the spot price."""
    jobs = len(value)
    gpus, clock, level_clock = np.zeros(jobs, np.int64), np.zeros(jobs, np.int64), np.zeros((jobs, 3), np.int64)
    slope, places = np.empty(jobs), np.empty((3, jobs), np.int64)
    offers, offered = np.full(jobs, len(COUNTS)), np.tile(np.arange(len(COUNTS)), (jobs, 1))
    spot = sell(np.array(value), level_clock, offers, offered, np.array(COUNTS), capacity, gpus, clock, slope, places)
    return gpus.tolist(), spot


def ranked(size: list[float], weight: list[float]) -> list[float]:
    """Step 1: i_j."""
    rank = np.empty(len(size))
    ranks(np.array(size), np.array(weight), np.argsort(np.array(size)), rank)
    return rank.tolist()


# -- step 1: sizes and ranks ------------------------------------------------------------------------------------------


def test_rank_is_the_weight_of_the_jobs_that_are_at_least_as_large() -> None:
    # Sizes 10, 30, 20, 30 with weights 1, 1, 2, 3: the two of 30 count 4 together; at least 20: 6; at least 10: 7.
    assert ranked([10.0, 30.0, 20.0, 30.0], [1.0, 1.0, 2.0, 3.0]) == [7.0, 4.0, 6.0, 4.0]
    assert ranked([], []) == []


def test_known_sizes_are_gpu_seconds_on_the_fewest_gpus() -> None:
    # 10 iterations: 8 s on one GPU; the second needs two GPUs: 10·5·2; the third can run on none.
    jobs = [{"remaining": 10}, {"remaining": 10, "gpus_min": 2}, {"remaining": 10, "cost": 1}]
    times = [*SUBLINEAR, [np.inf] * 3]
    view = make_view(jobs, step_time_s=times, capacity=4, gpu_counts=COUNTS)
    assert sizes(view)[0].tolist() == [80.0, 100.0, np.inf]


# -- steps 2 to 4: worth and value ------------------------------------------------------------------------------------


def test_worth_and_value_without_energy_price() -> None:
    # G = 4. Job 0 has rank 1: a GPU costs 1/4.
    #   v = min(8·(1 + 1/4), 5·(1 + 2/4), 4·(1 + 4/4)) = min(10, 7.5, 8) = 7.5;  V = 7.5/T = 0.9375, 1.5, 1.875.
    # Job 1 has rank 2: a GPU costs 2/4.
    #   v = min(8·1.5, 5·2, 4·3) = 10;  V = 1.25, 2, 2.5.
    view = make_view([{}, {}], step_time_s=SUBLINEAR, capacity=4, gpu_counts=COUNTS)
    worth, value, _ = values(view, [1, 2])
    assert worth == [7.5, 10.0]
    assert value == [[0.9375, 1.5, 1.875], [1.25, 2.0, 2.5]]


def test_energy_price_chooses_the_clock() -> None:
    # One GPU, rank 1: a GPU costs 1. Low clock 10 s at 100 W, high clock 8 s at 250 W, idle 50 W: D = 50, 200.
    # λ = 0.001: v = min(10·(1 + 0.05 + 1), 8·(1 + 0.2 + 1)) = 17.6;  V = max(1.76 − 0.05, 2.2 − 0.2) = 2.0: high.
    # λ = 0.01:  v = min(10·(1 + 0.5 + 1), 8·(1 + 2 + 1)) = 25;  V = max(2.5 − 0.5, 3.125 − 2) = 2.0: low.
    for price, v, clock in ((0.001, 17.6, 1), (0.01, 25.0, 0)):
        view = make_view(
            [{}],
            step_time_s=[[[10.0, 8.0]]],
            power_w=[[[100.0, 250.0]]],
            clocks_mhz=(700, 1400),
            capacity=1,
            gpu_counts=(1,),
            energy_price=price,
        )
        worth, value, chosen = values(view, [1])
        assert worth == pytest.approx([v])
        assert value == [pytest.approx([2.0])]
        assert chosen == [[clock]]
        assert Prices().decide(view).clock.tolist() == [clock]


def test_a_longer_queue_raises_the_clock() -> None:
    # The same at λ = 0.01 with c_μ·i/G = 20: v = min(10·(1 + 0.5 + 20), 8·(1 + 2 + 20)) = 184;
    # V = max(18.4 − 0.5, 23 − 2) = 21: high.
    view = make_view(
        [{}],
        step_time_s=[[[10.0, 8.0]]],
        power_w=[[[100.0, 250.0]]],
        clocks_mhz=(700, 1400),
        capacity=1,
        gpu_counts=(1,),
        energy_price=0.01,
    )
    worth, value, chosen = values(view, [20])
    assert worth == pytest.approx([184.0])
    assert value == [pytest.approx([21.0])]
    assert chosen == [[1]]


def test_a_pause_discounts_every_count_but_the_present_one() -> None:
    # v = 7.5 as above. The job holds 2 GPUs and would stand still for 60 s: H = max(600, 10·60) = 600.
    # 1000 iterations left: S/remaining ≤ 1/4000 < 1/600: pen = 1/(1 + 60/600) = 1/1.1.
    # 10 left: S/remaining = 1/80 and 1/40: pen = 1/(1 + 60/80) = 1/1.75 and 1/(1 + 60/40) = 1/2.5.
    for remaining, pen_1, pen_4 in ((1000.0, 1.1, 1.1), (10.0, 1.75, 2.5)):
        job = {"gpus": 2, "pause_s": 60, "remaining": remaining, "attained_gpu_s": 90}
        view = make_view([job], step_time_s=SUBLINEAR, capacity=4, gpu_counts=COUNTS)
        _, value, _ = values(view, [1])
        assert value == [pytest.approx([0.9375 / pen_1, 1.5, 1.875 / pen_4])]
        # unknown sizes: the stretch is H, whatever is left
        view = make_view([job], step_time_s=SUBLINEAR, capacity=4, gpu_counts=COUNTS, sizes_known=False)
        _, value, _ = values(view, [1])
        assert value == [pytest.approx([0.9375 / 1.1, 1.5, 1.875 / 1.1])]


def test_a_new_job_pays_its_pause_whenever_it_starts() -> None:
    # One GPU; a pause of 30 s. A job of 80 s waits, one of 2,400 s runs: ranks 2 and 1, V = 3 and 2. The short job's
    # own pause would take a third of its time; as it must be paid in any case, only 1 + 30/600 discounts it: 2.86.
    jobs = [{"remaining": 300, "gpus": 1, "pause_s": 30, "attained_gpu_s": 90}, {"remaining": 10, "pause_s": 30}]
    view = make_view(jobs, step_time_s=[[8.0]], capacity=1, gpu_counts=(1,))
    assert values(view, [1, 2])[1] == [[2.0], [pytest.approx(3.0 / 1.05)]]
    assert given_gpus(Prices(), view) == [0, 1]


def test_the_horizon_grows_with_the_pause() -> None:
    # R = 300 s: H = 3000 s, pen = 1/(1 + 300/3000) = 1/1.1 again.
    job = {"gpus": 2, "pause_s": 300, "remaining": 1e6}
    view = make_view([job], step_time_s=SUBLINEAR, capacity=4, gpu_counts=COUNTS)
    _, value, _ = values(view, [1])
    assert value == [pytest.approx([0.9375 / 1.1, 1.5, 1.875 / 1.1])]


def test_the_pause_discounts_the_energy_too() -> None:
    # 2 GPUs, λ = 0.001, D = 150 W a GPU: v = min over n of T·(1 + 0.15·n + n/4) = min(11.2, 9, 10.4) = 9.
    # V(4) = (9/4 − 0.6)/1.1 = 1.5: the discount stands before both terms.
    view = make_view(
        [{"gpus": 2, "pause_s": 60, "remaining": 1e6}],
        step_time_s=SUBLINEAR,
        capacity=4,
        gpu_counts=COUNTS,
        energy_price=0.001,
    )
    worth, value, _ = values(view, [1])
    assert worth == pytest.approx([9.0])
    assert value == [pytest.approx([(9 / 8 - 0.15) / 1.1, 9 / 5 - 0.3, 1.5])]


def test_a_job_of_twice_the_weight_is_worth_more() -> None:
    # w = 2, rank 1, G = 4: v = min(8·2.25, 5·2.5, 4·3) = 12.
    view = make_view([{"weight": 2}], step_time_s=SUBLINEAR, capacity=4, gpu_counts=COUNTS)
    assert values(view, [1])[0] == [12.0]


def test_powers_of_two_within_the_limits_are_on_offer() -> None:
    jobs = [{}, {"gpus_min": 2}, {"gpus_max": 3}, {"gpus_min": 3, "gpus_max": 3}]
    view = make_view(jobs, step_time_s=[[8.0, 5.0, 4.5, 4.0]], capacity=8, gpu_counts=(1, 2, 3, 4))
    _, value, _ = values(view, [1, 1, 1, 1])
    offered = [[v > NEVER for v in row] for row in value]
    assert offered == [
        [True, True, False, True],
        [False, True, False, True],
        [True, True, False, False],
        [False, False, True, False],  # it can use no power of two
    ]


# -- steps 5 and 6: the sale ------------------------------------------------------------------------------------------


def test_steepest_segments_first() -> None:
    # Slopes of job 0: 0.9375, then 0.5625, then 0.1875 each; of job 1: 1.25, 0.75, 0.25 each.
    value = [[0.9375, 1.5, 1.875], [1.25, 2.0, 2.5]]
    assert sold(value, 1) == ([0, 1], 1.25)
    assert sold(value, 2) == ([1, 1], 0.9375)
    assert sold(value, 3) == ([1, 2], 0.75)
    assert sold(value, 4) == ([2, 2], 0.5625)
    assert sold(value, 6) == ([2, 4], 0.25)
    assert sold(value, 8) == ([4, 4], 0.1875)
    assert sold(value, 9) == ([4, 4], 0.0)  # one is left over: another would be worth nothing


def test_a_dent_is_stepped_over() -> None:
    # V = 1, 3, 4: the hull goes 0 → 2 GPUs (slope 1.5) → 4 (0.5); one GPU lies below it.
    assert sold([[1.0, 3.0, 4.0]], 4) == ([4], 0.5)
    assert sold([[1.0, 3.0, 4.0]], 2) == ([2], 1.5)
    # what is worth less than nothing is never bought
    assert sold([[-1.0, -0.5, -0.1]], 4) == ([0], 0.0)
    assert sold([[2.0, 1.0, -3.0]], 4) == ([1], 0.0)


def test_what_does_not_fit_is_cut_to_the_largest_level_that_does() -> None:
    # V = 1, 1.5, 6: the hull goes 0 → 4 (slope 1.5), but three are there. Two GPUs are worth 1.5: taken, and that
    # is the end of it; the third goes to the other job, at 0.5.
    assert sold([[1.0, 1.5, 6.0], [0.5, NEVER, NEVER]], 3) == ([2, 1], 0.5)
    # Job 0 has taken one GPU (slope 2) and wants four (2/3 each), of which two fit: 0.5 is less than the 2 it has.
    assert sold([[2.0, 0.5, 4.0]], 3) == ([1], 0.0)
    # A level that cannot be had is no level: one GPU is.
    assert sold([[1.0, NEVER, 6.0]], 3) == ([1], 0.0)


def test_equal_offers_go_to_the_earlier_job() -> None:
    assert sold([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], 1) == ([1, 0], 1.0)


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([NEVER, -1.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0]), min_size=3, max_size=3),
        min_size=1,
        max_size=25,
    ),
    st.integers(1, 60),
)
def test_of_many_jobs_the_steepest_are_served_first(value: list[list[float]], capacity: int) -> None:
    # The same, said slowly: always the steepest segment that any open job has; of equals the earlier job's.
    held, open_jobs, free, spot = [0] * len(value), set(range(len(value))), capacity, 0.0
    while free > 0:
        offers = []
        for j in open_jobs:
            now = value[j][COUNTS.index(held[j])] if held[j] else 0.0
            slopes = [((v - now) / (n - held[j]), n) for n, v in zip(COUNTS, value[j], strict=True) if n > held[j]]
            offers += [(-slope, j, n) for slope, n in [max(slopes, default=(0.0, 0))] if slope > 0.0]
        if not offers:
            break
        negative, j, n = min(offers)
        if n - held[j] > free:
            open_jobs.remove(j)
            fits = [(value[j][COUNTS.index(m)], -m) for m in COUNTS if held[j] < m < n and m - held[j] <= free]
            gain, m = max(fits, default=(-np.inf, 0))
            now = value[j][COUNTS.index(held[j])] if held[j] else 0.0
            if gain <= now:
                continue
            negative, n = -(gain - now) / (-m - held[j]), -m
        free, held[j], spot = free - (n - held[j]), n, -negative
    assert sold(value, capacity) == (held, spot if free == 0 else 0.0)


# -- all of it --------------------------------------------------------------------------------------------------------


def test_from_view_to_allocation() -> None:
    # Job 0: 100 iterations, 800 GPU-s; job 1: 10 iterations, 80 GPU-s. Ranks 1 and 2; the rest as worked above.
    jobs = [{"remaining": 100}, {"remaining": 10}]
    answer = Prices().decide(make_view(jobs, step_time_s=SUBLINEAR, capacity=4, gpu_counts=COUNTS))
    assert answer.gpus.tolist() == [2, 2]
    assert answer.gpu_price == 0.5625
    assert answer.worth is not None
    assert answer.worth.tolist() == [7.5, 10.0]


def test_the_shorter_job_runs_when_only_one_can() -> None:
    # G = 1, both on one GPU only: ranks 1 and 2, v = 8·2 and 8·3, V = 2 and 3.
    jobs = [{"remaining": 100, "gpus_max": 1}, {"remaining": 10, "gpus_max": 1}]
    answer = Prices().decide(make_view(jobs, step_time_s=SUBLINEAR, capacity=1, gpu_counts=COUNTS))
    assert answer.gpus.tolist() == [0, 1]
    assert answer.gpu_price == 3.0


@pytest.mark.parametrize("sizes_known", [True, False])
def test_one_job_of_unknown_size_among_known_ones(sizes_known: bool) -> None:
    # It ranks as the largest. It must neither hang the ranking nor be lost.
    jobs = [{"remaining": left, "gpus_max": 1.0} for left in (10.0, np.nan, 10.0)]
    for capacity, expected in ((2, [1, 0, 1]), (3, [1, 1, 1])):
        view = make_view(jobs, step_time_s=SUBLINEAR, capacity=capacity, gpu_counts=COUNTS, sizes_known=sizes_known)
        assert given_gpus(Prices(), view) == expected


def test_any_count_that_the_owner_lists_may_be_given_and_no_other_odd_one() -> None:
    counts, times = (1, 2, 3, 4), [[8.0, np.inf, 3.0, 2.9]]
    for listed, gpus in ((1.0, 3), (0.0, 1)):
        view = make_view([{"listed": listed}], step_time_s=times, capacity=3, gpu_counts=counts)
        assert given_gpus(Prices(), view) == [gpus]


# -- what always holds ------------------------------------------------------------------------------------------------


@settings(max_examples=examples(150), deadline=None)
@given(view=views())
def test_whole_gangs_of_powers_of_two_and_no_more_than_there_are(view: View) -> None:
    answer = Prices().decide(view)
    assert_valid(view, answer)
    given_out = answer.gpus[answer.gpus > 0]
    assert (given_out & (given_out - 1) == 0).all()
    assert answer.gpu_price >= 0
    assert answer.gpu_price == 0 or answer.gpus.sum() == view.capacity


def _random_view(seed: int, jobs: int, capacity: int, energy_price: float = 0.0, **more: float) -> View:
    """Jobs without anything in common, of any scaling, on three clocks."""
    rng = np.random.default_rng(seed)
    counts, clocks = np.array([1, 2, 4, 8]), np.array([700.0, 1000.0, 1400.0])
    times = rng.lognormal(0, 1, (jobs, 1, 1)) * rng.uniform(0.3, 1.1, (jobs, 4, 1)).cumprod(axis=1)
    share = rng.uniform(0, 1, (jobs, 1, 1))
    times = times * (1 - share + share * 1400.0 / clocks)
    watts = counts[:, None] * (50.0 + rng.uniform(50, 300, (jobs, 1, 1)) * (clocks / 1400.0) ** 2.5)
    rows = [
        {"cost": j, "remaining": rng.lognormal(3, 2), "weight": rng.uniform(0.5, 2), "pause_s": 30.0, **more}
        for j in range(jobs)
    ]
    return make_view(
        rows,
        step_time_s=times,
        power_w=watts,
        capacity=capacity,
        clocks_mhz=clocks.tolist(),
        energy_price=energy_price,
    )


@settings(max_examples=examples(150), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), low=st.floats(1e-7, 1e-1), factor=st.floats(1.0, 100.0))
def test_dearer_energy_never_makes_a_lone_job_draw_more(seed: int, low: float, factor: float) -> None:
    # Without pauses a lone job takes the c that maximises v·S − λ·D, so S − (λ/v)·D. v(λ) is a minimum of rising
    # straight lines, hence concave from v(0) ≥ 0: λ/v never falls with λ, and with it D never rises.
    drawn = []
    for price in (low, low * factor):
        view = _random_view(seed, 1, 8, price, pause_s=0.0)
        answer = Prices().decide(view)
        assert answer.gpus[0] > 0
        level = view.count_index[answer.gpus[0]]
        drawn.append(view.power_w[0, level, answer.clock[0]] - answer.gpus[0] * view.idle_w)
    assert drawn[1] <= drawn[0] * (1 + 1e-9)


@settings(max_examples=examples(150), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), others=st.integers(0, 6), capacity=st.integers(1, 20))
def test_of_twins_the_heavier_never_gets_less(seed: int, others: int, capacity: int) -> None:
    # Energy free and rescaling too: V = v·S, so the heavier twin's hull is the lighter's, stretched.
    view = _random_view(seed, others + 2, capacity, pause_s=0.0)
    rows = view.jobs.copy()
    for name in ("cost", "remaining"):
        rows[name][1] = rows[name][0]
    rows["weight"][:2] = (1.0, 2.0)
    rows.flags.writeable = False
    twins = View(**{**{name: getattr(view, name) for name in View.__slots__}, "jobs": rows})
    light, heavy = Prices().decide(twins).gpus[:2]
    assert heavy >= light


@settings(max_examples=examples(100), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), jobs=st.integers(2, 12), capacity=st.integers(1, 40), known=st.booleans())
def test_the_order_of_rows_does_not_matter(seed: int, jobs: int, capacity: int, known: bool) -> None:
    view = _random_view(seed, jobs, capacity, 1e-4)
    view = View(**{**{name: getattr(view, name) for name in View.__slots__}, "sizes_known": known})
    order = np.random.default_rng(seed).permutation(jobs)
    rows = view.jobs[order]
    rows.flags.writeable = False
    shuffled = View(**{**{name: getattr(view, name) for name in View.__slots__}, "jobs": rows})
    answer, other = Prices().decide(view), Prices().decide(shuffled)
    assert other.gpus.tolist() == answer.gpus[order].tolist()
    assert other.clock[other.gpus > 0].tolist() == answer.clock[order][other.gpus > 0].tolist()


@settings(max_examples=examples(150), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), jobs=st.integers(1, 12), capacity=st.integers(1, 40))
def test_it_stays_with_its_own_decision(seed: int, jobs: int, capacity: int) -> None:
    """Asked again at once with what it gave in hand, it changes no count."""
    view = _random_view(seed, jobs, capacity, 1e-4)
    answer = Prices().decide(view)
    again = view.with_jobs(gpus=answer.gpus, clock=answer.clock)
    assert Prices().decide(again).gpus.tolist() == answer.gpus.tolist()
