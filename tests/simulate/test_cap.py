"""Power caps in the simulator: kept against the truth, by a scheduler that believes otherwise."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from powerflow.policy.registry import load
from powerflow.scheduler.cap import CALM_S, PowerCap, parse_scope
from powerflow.scheduler.caps.compliance import comply
from powerflow.scheduler.events import CostLearned
from powerflow.simulate.belief import Oracle
from powerflow.simulate.cap_log import CapLog
from powerflow.simulate.run import Simulation
from powerflow.simulate.workload.workload import Workload
from powerflow.simulate.world import World
from tests.simulate.small import small_workload

FROM_S, TO_S = 3600.0, 3 * 3600.0


class Wrong(Oracle):
    """Believes every power times a factor."""

    def __init__(self, workload: Workload, factor: float) -> None:
        super().__init__(workload)
        self._tables = [
            CostLearned(name, gpu_type, dataclasses.replace(table, power_w=table.power_w * factor))
            for (name, gpu_type), table in workload.truth.items()
        ]

    def start(self) -> list[CostLearned]:
        """See `Belief`."""
        return self._tables


def run(policy: str = "prices", factor: float = 1.0, **cap: object) -> Simulation:
    """Forty jobs on sixteen GPUs, capped for two hours."""
    workload = small_workload(3)
    caps = [(1800.0, PowerCap(start_s=FROM_S, end_s=TO_S, **cap))] if cap else []  # type: ignore[arg-type]
    simulation = Simulation(workload, load(policy), energy_price=1e-4, belief=Wrong(workload, factor), caps=caps)
    simulation.run()
    return simulation


@pytest.mark.parametrize("policy", ["prices", "fifo", "afs"])
@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
@pytest.mark.parametrize("watts", [4800.0, 2000.0])
def test_a_cap_is_kept_whatever_is_believed(policy: str, factor: float, watts: float) -> None:
    simulation = run(policy, factor, watts=watts)
    (record,) = simulation.cap_log.compliance()
    assert record.under_after_s <= 10.0
    assert record.over_s <= 0.005 * (TO_S - FROM_S)
    assert record.mean_w > 0.5 * watts
    assert len(simulation.result().jobs.ids) == 40  # and all of them end
    assert np.isfinite(simulation.finish_s).all()


def test_power_does_not_rebound() -> None:
    simulation = run(watts=2500.0)
    (record,) = simulation.cap_log.compliance()
    assert record.after_w <= record.before_w * 1.01


def test_power_comes_back_along_the_ramp() -> None:
    simulation = run(watts=2500.0, ramp_w_per_s=1.0)
    time_s, watts, allowed_w = simulation.cap_log.rows("cluster")
    climbs = (time_s > TO_S) & (time_s < TO_S + CALM_S)
    assert climbs.sum() > 50
    assert (watts[climbs] <= 2500.0 + (time_s[climbs] - TO_S) + 60.0).all()
    falls = (time_s > FROM_S - 1000.0) & (time_s < FROM_S)
    assert (watts[falls] <= allowed_w[falls] + 60.0).all()


def test_a_rack_is_kept_below_its_own_cap() -> None:
    workload = small_workload(3)
    scope = parse_scope("nodes:a100-1", workload.cluster.nodes)
    caps = [(1800.0, PowerCap(1500.0, scope, FROM_S, TO_S))]
    simulation = Simulation(workload, load("prices"), energy_price=1e-4, caps=caps)
    simulation.run()
    (record,) = simulation.cap_log.compliance()
    assert record.scope == "nodes:a100-1"
    assert record.under_after_s <= 10.0
    assert record.over_s <= 10.0
    assert record.before_w > 1500.0
    assert simulation.meter.joules > 0


def test_a_cap_far_above_changes_no_job() -> None:
    free, capped = run(), run(watts=1e6)
    assert free.finish_s == pytest.approx(capped.finish_s, abs=120.0)


def test_a_capped_simulation_can_be_stored_and_goes_on_alike() -> None:
    workload = small_workload(3)

    def simulation() -> Simulation:
        caps = [(1800.0, PowerCap(2500.0, start_s=FROM_S, end_s=TO_S))]
        return Simulation(workload, load("prices"), world=World(node_mtbf_h=20.0), seed=4, caps=caps)

    whole, parts = simulation(), simulation()
    whole.run()
    while not parts.run(25):
        parts = Simulation.resume(parts.state())
    assert parts.finish_s == whole.finish_s
    assert parts.cap_log.to_csv("cluster") == whole.cap_log.to_csv("cluster")


def test_the_record_counts_seconds_over() -> None:
    cap = PowerCap(100.0, start_s=10.0, end_s=30.0)
    time_s = np.array([0.0, 10.0, 14.0, 20.0, 21.0, 30.0, 40.0])
    watts = np.array([150.0, 120.0, 100.0, 101.0, 90.0, 130.0, 0.0])
    record = comply(cap, time_s, watts)
    assert (record.under_after_s, record.over_s, record.worst_over_w) == (4.0, 5.0, 20.0)
    assert record.mean_w == pytest.approx((4 * 120 + 6 * 100 + 101 + 9 * 90) / 20)
    assert (record.before_w, record.after_w) == (150.0, 130.0)
    assert json.loads(record.to_json())["over_s"] == 5.0


def test_a_cap_that_was_never_met_says_so() -> None:
    record = comply(PowerCap(100.0, start_s=0.0), np.array([0.0, 50.0]), np.array([120.0, 120.0]))
    assert record.under_after_s == math.inf
    assert json.loads(record.to_json())["under_after_s"] is None


def test_the_record_as_csv_has_a_line_for_each_moment() -> None:
    log = CapLog([(0.0, PowerCap(100.0))])
    for row in ((0.0, 5.0, math.inf), (0.0, 6.0, math.inf), (1.5, 90.0, 100.0)):
        log.note("cluster", *row)
    assert log.to_csv("cluster") == "time_s,watts,allowed_w\n0.000,6.0,\n1.500,90.0,100.0\n"
