"""Finish-time fairness and Jain's index, by hand and in a simulation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from benchmarks.fairness import compare, fairness, finish_time_fairness, isolated, jain
from hypothesis import given
from hypothesis import strategies as st

from powerflow.errors import InputError
from powerflow.policy.prices import Prices
from powerflow.simulate.run import simulate
from tests.simulate.workloads import by_hand, job


def test_jain_by_hand() -> None:
    assert jain([1.0, 1.0, 1.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jain([1.0, 2.0, 3.0]) == pytest.approx(36 / 42)
    assert jain([0.0, 0.0]) == 1.0
    for wrong in ([], [-1.0], [np.nan]):
        with pytest.raises(InputError):
            jain(wrong)


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=20), st.floats(0.01, 100.0))
def test_jain_is_between_one_share_and_one_and_knows_no_unit(values: list[float], unit: float) -> None:
    found = jain(values)
    assert 1 / len(values) - 1e-9 <= found <= 1 + 1e-9
    assert jain([unit * value for value in values]) == pytest.approx(found)


def test_rho_by_hand() -> None:
    assert finish_time_fairness(np.array([100.0, 50.0]), np.array([50.0, 100.0])).tolist() == [2.0, 0.5]


def test_each_project_alone_on_its_part() -> None:
    jobs = [job("a", 100.0, project="left"), job("b", 100.0, project="right")]
    workload = by_hand(jobs, "2x8:A100", step_s=(8.0, 4.0, 2.0, 1.0))
    part = isolated(workload, "left", 2)
    assert [one.id for one in part.jobs] == ["a"]
    assert part.cluster.gpus == 8
    assert isolated(workload, "left", 4).cluster.gpus == 4
    with pytest.raises(InputError, match="less than one"):
        isolated(workload, "left", 17)


def test_two_projects_that_share_a_cluster() -> None:
    # each is alone for half of the time: on eight GPUs 100 s, on its own four 200 s
    jobs = [job("a", 100.0, project="left"), job("b", 100.0, 1000.0, project="right")]
    workload = by_hand(jobs, "1x8:A100")
    found = fairness(workload, simulate(workload, Prices()), lambda part: simulate(part, Prices()))
    assert [row.project for row in found.projects] == ["left", "right"]
    assert [row.rho_mean for row in found.projects] == pytest.approx([0.5, 0.5])
    assert found.jain_rho == pytest.approx(1.0)
    assert found.rho_worst == pytest.approx(0.5)
    assert [row.jobs for row in found.projects] == [1, 1]
    assert sum(row.gpu_hours for row in found.projects) * 3600 == pytest.approx(1600.0)


def test_who_is_left_waiting_shows() -> None:
    jobs = [job("a", 1000.0, gpus_min=8, project="left"), job("b", 100.0, gpus_min=8, gpus=8, project="right")]
    workload = by_hand(jobs, "2x8:A100", step_s=(8.0, 4.0, 2.0, 1.0))
    one_node = dataclasses.replace(workload, cluster=by_hand(jobs, "1x8:A100").cluster)
    alone = {name: simulate(isolated(workload, name, 2), Prices()) for name in ("left", "right")}
    found = compare([one.project for one in jobs], simulate(one_node, Prices()), alone)
    assert found.projects[0].rho_mean == pytest.approx(1.1)  # it waits for the small one, which waits for nobody
    assert found.projects[1].rho_mean == pytest.approx(1.0)
    assert found.jain_rho < 1.0
