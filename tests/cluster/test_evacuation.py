"""Nodes emptied so that they can sleep: by hand, and what holds whatever stands where."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.cluster.evacuation import empty_nodes
from powerflow.cluster.occupancy import NodeShare, Occupancy
from powerflow.cluster.spec import Node
from powerflow.testing.pool_invariants import check_pool
from tests.slow import examples


def pool_of(*sizes: int) -> Occupancy:
    return Occupancy([Node(i, f"n{i}", "A", gpus, "r") for i, gpus in enumerate(sizes)])


def put(pool: Occupancy, owner: int, **gpus: range) -> None:
    """``put(pool, 0, n0=range(2), n1=range(3, 4))``."""
    pool.put(owner, tuple(NodeShare(node, tuple(which)) for node, which in gpus.items()))


def where(pool: Occupancy, *owners: int) -> list[dict[str, int]]:
    """Nodes and GPUs there, by owner."""
    return [{share.node: len(share.gpus) for share in pool.placement(owner)} for owner in owners]


def two_nodes() -> Occupancy:
    """Owner 0 has four GPUs of one node, owners 1 and 2 have two and one of the other."""
    pool = pool_of(8, 8)
    put(pool, 0, n0=range(4))
    put(pool, 1, n1=range(2))
    put(pool, 2, n1=range(2, 3))
    return pool


def test_the_node_with_the_most_to_win_is_emptied() -> None:
    pool = two_nodes()
    assert pool.spare_nodes() == 1
    # either node could go: n0 for 100 − 90, n1 for 100 − 30 − 40
    assert empty_nodes(pool, np.array([100.0, 100.0]), np.array([90.0, 30.0, 40.0])) == [1, 2]
    assert where(pool, 0, 1, 2) == [{"n0": 4}, {"n0": 2}, {"n0": 1}]
    pool.sleep("n1")
    assert pool.spare_nodes() == 0
    check_pool(pool.pool)
    other = two_nodes()
    assert empty_nodes(other, np.array([100.0, 100.0]), np.array([60.0, 30.0, 40.0])) == [0]
    assert where(other, 0, 1, 2) == [{"n1": 4}, {"n1": 2}, {"n1": 1}]


@pytest.mark.parametrize(("gain", "who"), [(70.0, []), (70.1, [1, 2])])
def test_it_must_bring_more_than_the_pauses_cost(gain: float, who: list[int]) -> None:
    assert empty_nodes(two_nodes(), np.array([gain, gain]), np.array([90.0, 30.0, 40.0])) == who


def test_a_node_that_cannot_sleep_is_left_alone() -> None:
    assert empty_nodes(two_nodes(), np.array([0.0, 0.0]), np.zeros(3)) == []
    assert empty_nodes(two_nodes(), np.array([1.0, 0.0]), np.zeros(3)) == [0]


def test_nobody_is_torn_apart_and_no_other_node_is_opened() -> None:
    pool = pool_of(4, 4, 4, 4)
    put(pool, 0, n0=range(3))
    put(pool, 1, n1=range(3))
    put(pool, 2, n2=range(2))  # one GPU is free on each of n0 and n1, and four on n3, which nobody uses
    assert empty_nodes(pool, np.full(4, 1000.0), np.zeros(3)) == []


def test_who_stands_on_other_nodes_as_well_keeps_a_node_awake() -> None:
    pool = pool_of(4, 4, 4)
    put(pool, 0, n0=range(1), n1=range(1))
    put(pool, 1, n2=range(4))
    assert empty_nodes(pool, np.full(3, 1000.0), np.zeros(2)) == []


@pytest.mark.parametrize("status", ["fail", "drain"])
def test_nodes_that_are_not_up_are_no_home_and_are_not_emptied(status: str) -> None:
    pool = two_nodes()
    getattr(pool, status)("n0")
    assert empty_nodes(pool, np.full(2, 1000.0), np.zeros(3)) == []


def test_several_nodes_in_a_row() -> None:
    pool = pool_of(4, 4, 4, 4)
    for owner in range(4):
        pool.put(owner, (NodeShare(f"n{owner}", (0,)),))
    # everybody ends up together; who moves again does not pause again
    assert sorted(empty_nodes(pool, np.full(4, 10.0), np.array([9.0, 9.0, 9.0, 9.0]))) == [0, 1, 2]
    assert pool.nodes_in_use() == 1
    check_pool(pool.pool)


@settings(max_examples=examples(150), deadline=None)
@given(data=st.data(), sizes=st.lists(st.sampled_from([2, 4, 4, 8, 8]), min_size=2, max_size=7))
def test_every_emptied_node_pays_and_the_pool_stays_sound(data: st.DataObject, sizes: list[int]) -> None:
    pool = pool_of(*sizes)
    owners = []
    for owner, gpus in enumerate(data.draw(st.lists(st.sampled_from([1, 1, 2, 3, 4, 8]), min_size=1, max_size=40))):
        if gpus <= pool.free:
            pool.allocate(owner, gpus)
            owners.append(owner)
    pool.release_many([owner for owner in owners if data.draw(st.integers(0, 2))])
    owners = [owner for owner in owners if pool.gpus_of(owner)]
    if data.draw(st.booleans()):
        pool.drain(data.draw(st.sampled_from(pool.nodes)).name)
    pause = np.zeros(40)
    pause[owners] = [data.draw(st.sampled_from([0.0, 5.0, 30.0])) for _ in owners]
    gain = np.array([data.draw(st.sampled_from([0.0, 20.0, 50.0])) for _ in sizes])
    before = copy.deepcopy(pool)
    moved = empty_nodes(pool, gain, pause)
    check_pool(pool.pool)
    emptied = (before.room() < sizes) & (pool.room() == sizes)
    opened = (before.room() == sizes) & (pool.room() < sizes)
    assert not opened.any()
    assert len(moved) == len(set(moved))
    assert bool(moved) == bool(emptied.any())
    assert emptied.sum() <= before.spare_nodes()
    assert pause[moved].sum() < gain[emptied].sum() or not moved
    for owner in owners:
        assert pool.gpus_of(owner) == before.gpus_of(owner)
        assert pool.nodes_of(owner) == before.nodes_of(owner)
        if owner not in moved:
            assert pool.placement(owner) == before.placement(owner)
