"""What the controller's loop tells metrics of itself: durations of its turns, GPU prices, power under caps."""

from __future__ import annotations

import math
import threading

import pytest

from powerflow.api.governance import CapOrder
from powerflow.live.turn_times import BOUNDS_S, TurnTimes
from tests.live.controller_bench import ROOT, Bench


def test_durations_are_counted_at_the_first_bound_that_holds_them() -> None:
    times = TurnTimes()
    for took_s in (0.001, 0.003, 0.02, 5.0, 60.0):
        times.note(took_s)
    counts = dict(zip(BOUNDS_S, times.counted.counts, strict=True))
    assert {bound: count for bound, count in counts.items() if count} == {0.003: 2, 0.03: 1, 10.0: 1, math.inf: 1}
    assert times.counted.sum_s == pytest.approx(65.024)


def test_each_turn_of_the_loop_is_counted_once(bench: Bench) -> None:
    stop, turns = threading.Event(), 0

    def turn() -> float:
        nonlocal turns
        turns += 1
        if turns == 3:
            stop.set()
        return 0.0

    bench.controller.turn = turn  # type: ignore[method-assign]
    bench.controller.run(stop)
    counted = bench.service.loop_figures().turns
    assert sum(counted.counts) == turns == 3
    assert counted.sum_s > 0.0


def test_the_gpu_price_is_that_of_the_last_decision_about_all_jobs(bench: Bench) -> None:
    assert bench.service.loop_figures().gpu_prices == {}
    bench.steps_total = 10_000
    for _ in range(3):
        bench.submit(gpus="1..8")
    bench.turn(10)
    job = next(iter(bench.controller.jobs.values()))
    assert bench.service.loop_figures().gpu_prices == {"A100": job.gpu_price}
    assert job.gpu_price > 0.0, "three jobs want all GPUs"


def test_power_under_a_cap_is_compared_with_what_its_ramp_allows(bench: Bench) -> None:
    bench.turn()
    now_s = bench.controller.clock()
    ramp = CapOrder(watts=1000.0, start_s=now_s, deadline_s=now_s + 60.0, ramp_w_per_s=10.0)
    bench.service.set_cap(ramp, ROOT)
    bench.service.set_cap(CapOrder(watts=900.0, scope="nodes:a100-0", start_s=now_s + 3600.0), ROOT)
    bench.turn(2)
    (cap,) = bench.service.loop_figures().caps  # the second sets no limit yet
    assert cap.scope == "cluster"
    assert cap.allowed_w == pytest.approx(1000.0 + 10.0 * (now_s + 60.0 - bench.controller.clock()))
    assert cap.power_w == pytest.approx(bench.controller.power.power_w())
    while bench.controller.clock() < now_s + 61.0:
        bench.turn()
    assert [cap.allowed_w for cap in bench.service.loop_figures().caps] == [1000.0]
    bench.service.lift_cap("cluster", ROOT)
    lifted_s = bench.controller.clock()
    bench.turn(10)
    (cap,) = bench.service.loop_figures().caps
    rise_s = bench.controller.clock() - lifted_s
    assert cap.allowed_w == pytest.approx(1000.0 + 10.0 * rise_s, abs=10.0), "power rises on the ramp, too"


def test_a_cap_without_a_ramp_is_gone_once_it_is_lifted(bench: Bench) -> None:
    bench.service.set_cap(CapOrder(watts=1000.0), ROOT)
    bench.turn(2)
    assert [cap.allowed_w for cap in bench.service.loop_figures().caps] == [1000.0]
    bench.service.lift_cap("cluster", ROOT)
    bench.turn(2)
    assert bench.service.loop_figures().caps == ()
