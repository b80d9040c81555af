"""Spread jobs brought together: by hand, and what holds whatever stands where."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.cluster.consolidate import MARGIN, STAY_S, Spread, consolidate
from powerflow.cluster.occupancy import NodeShare, Occupancy
from powerflow.cluster.spec import Node
from powerflow.testing.pool_invariants import check_pool


def pool_of(*sizes: int) -> Occupancy:
    return Occupancy([Node(i, f"n{i}", "A", gpus, "r") for i, gpus in enumerate(sizes)])


def put(pool: Occupancy, owner: int, **gpus: range) -> None:
    """``put(pool, 0, n0=range(2), n1=range(3, 4))``."""
    pool.put(owner, tuple(NodeShare(node, tuple(which)) for node, which in gpus.items()))


def where(pool: Occupancy, *owners: int) -> list[dict[str, int]]:
    """Nodes and GPUs there, by owner."""
    return [{share.node: len(share.gpus) for share in pool.placement(owner)} for owner in owners]


def pauses(**gpu_s: float) -> np.ndarray:
    """``pauses(o1=30.0)``: by owner; moving anybody else costs nothing."""
    cost = np.zeros(8)
    for owner, each in gpu_s.items():
        cost[int(owner[1:])] = each
    return cost


def spread_pool() -> Occupancy:
    """Owner 0 has 2 + 2 GPUs on two nodes, owner 1 four on the first, owner 2 six on the second."""
    pool = pool_of(8, 8)
    put(pool, 0, n0=range(2), n1=range(2))
    put(pool, 1, n0=range(2, 6))
    put(pool, 2, n1=range(2, 8))
    return pool


#: Four GPUs that lose a quarter of their time for 1000 s: 1000 GPU-seconds to gain, so that 500 may be spent.
JOB = Spread(owner=0, gpus=4, speedup=0.25, stay_s=1000.0)


def test_a_job_goes_to_a_node_that_has_room_once_it_has_left() -> None:
    pool = spread_pool()
    assert consolidate(pool, [JOB], pauses(o0=499.9)) == [0]
    assert where(pool, 0, 1, 2) == [{"n0": 4}, {"n0": 4}, {"n1": 6}]
    check_pool(pool.pool)


def test_a_move_must_gain_more_than_twice_what_it_costs() -> None:
    pool = spread_pool()
    assert consolidate(pool, [JOB], pauses(o0=500.0)) == []
    assert where(pool, 0) == [{"n0": 2, "n1": 2}]


def test_nobody_is_expected_to_stay_for_ever() -> None:
    endless = Spread(0, 4, 0.25, np.inf)
    assert endless.gain_gpu_s() == 4 * 0.25 * STAY_S
    assert consolidate(spread_pool(), [endless], pauses(o0=STAY_S / MARGIN + 1)) == []


def full_pool() -> Occupancy:
    """Owner 0 has 3 + 1 GPUs on full nodes; beside the three stands owner 1 with one, beside the one owner 2."""
    pool = pool_of(4, 4)
    put(pool, 0, n0=range(3), n1=range(1))
    put(pool, 1, n0=range(3, 4))
    put(pool, 2, n1=range(1, 4))
    return pool


def test_a_smaller_job_makes_room_where_the_least_is_missing() -> None:
    pool = full_pool()
    assert consolidate(pool, [JOB], pauses(o0=400.0, o1=100.0)) == [0, 1]
    assert where(pool, 0, 1, 2) == [{"n0": 4}, {"n1": 1}, {"n1": 3}]
    check_pool(pool.pool)


def test_who_makes_room_is_paid_for_as_well() -> None:
    pool = full_pool()
    before = copy.deepcopy(pool)
    assert consolidate(pool, [JOB], pauses(o0=400.0, o1=100.1, o2=100.1)) == []
    assert [pool.placement(owner) for owner in range(3)] == [before.placement(owner) for owner in range(3)]
    # where the next best node is cheaper, it is taken
    assert consolidate(pool, [JOB], pauses(o0=400.0, o1=100.1, o2=100.0)) == [0, 2]
    assert where(pool, 0, 1, 2) == [{"n1": 4}, {"n0": 1}, {"n0": 3}]


def test_two_smaller_jobs_make_room_and_find_a_home_each() -> None:
    pool = pool_of(4, 4, 4)
    put(pool, 0, n0=range(2), n1=range(2))
    put(pool, 1, n0=range(2, 3))
    put(pool, 2, n0=range(3, 4))
    put(pool, 3, n1=range(2, 4))
    put(pool, 4, n2=range(3))
    # Once owner 0 has left, n0 and n1 have two free GPUs each and n2 one. Owner 1 fits n2 best, owner 2 then n1.
    assert consolidate(pool, [JOB], pauses(o0=100.0, o1=200.0, o2=200.0)) == [0, 1, 2]
    assert where(pool, 0, 1, 2, 3, 4) == [{"n0": 4}, {"n2": 1}, {"n1": 1}, {"n1": 2}, {"n2": 3}]
    check_pool(pool.pool)


def test_nobody_is_torn_apart_to_make_room() -> None:
    pool = pool_of(4, 4, 4)
    put(pool, 0, n0=range(2), n1=range(2))
    put(pool, 1, n0=range(2, 4))
    put(pool, 2, n1=range(2, 4), n2=range(1))  # spread itself
    put(pool, 3, n2=range(1, 3))  # n2 has one GPU left
    assert consolidate(copy.deepcopy(pool), [JOB], pauses()) == [0, 1]  # both free GPUs of n1 take owner 1
    pool.drain("n1")
    assert consolidate(pool, [JOB], pauses()) == []


@pytest.mark.parametrize("status", ["fail", "drain", "sleep"])
def test_nodes_that_take_nobody_are_no_way_out(status: str) -> None:
    pool = pool_of(4, 4, 4)
    put(pool, 0, n0=range(2), n1=range(2))
    put(pool, 1, n0=range(2, 4))
    put(pool, 2, n1=range(2, 4))
    assert consolidate(copy.deepcopy(pool), [JOB], pauses(o1=9e9, o2=9e9)) == [0]
    getattr(pool, status)("n2")
    assert consolidate(pool, [JOB], pauses(o1=9e9, o2=9e9)) == []


def test_who_makes_room_twice_pauses_once() -> None:
    pool = pool_of(4, 4, 4)
    put(pool, 0, n0=range(3), n1=range(1))
    put(pool, 1, n0=range(3, 4))
    put(pool, 2, n1=range(1, 3))
    put(pool, 3, n2=range(3))
    put(pool, 4, n1=range(3, 4), n2=range(3, 4))
    # owner 1 leaves n0 for n1; it must leave n1 or n2 again if owner 4 is to stand together
    jobs = [JOB, Spread(4, 2, 0.3, 1000.0)]
    moved = consolidate(pool, jobs, pauses(o1=290.0, o2=9e9, o3=9e9))
    assert where(pool, 0, 1, 4) == [{"n0": 4}, {"n2": 1}, {"n1": 2}]
    assert moved == [0, 1, 4]
    check_pool(pool.pool)


@st.composite
def crowded_pools(draw: st.DrawFn) -> tuple[Occupancy, list[int]]:
    """A pool with holes, and its owners."""
    pool = pool_of(*draw(st.lists(st.sampled_from([2, 4, 4, 8, 8]), min_size=2, max_size=7)))
    owners = []
    for owner, gpus in enumerate(draw(st.lists(st.sampled_from([1, 1, 2, 2, 3, 4, 8]), min_size=1, max_size=40))):
        if gpus <= pool.free:
            pool.allocate(owner, gpus)
            owners.append(owner)
    gone = [owner for owner in owners if draw(st.booleans())]
    pool.release_many(gone)
    for owner in gone:  # those who come into holes are often spread
        if pool.free >= 2 and draw(st.booleans()):
            pool.allocate(owner, draw(st.integers(2, min(8, pool.free))))
    if draw(st.integers(0, 3)) == 0:
        pool.drain(draw(st.sampled_from(pool.nodes)).name)
    return pool, [owner for owner in owners if pool.gpus_of(owner)]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), start=crowded_pools())
def test_all_that_moves_is_worth_it_and_the_pool_stays_sound(
    data: st.DataObject, start: tuple[Occupancy, list[int]]
) -> None:
    pool, owners = start
    pause = np.zeros(64)
    pause[owners] = data.draw(st.lists(st.sampled_from([0.0, 5.0, 30.0, 200.0]), min_size=len(owners), max_size=64))[
        : len(owners)
    ]
    most = max(node.gpus for node in pool.nodes)
    jobs = [
        Spread(owner, pool.gpus_of(owner), data.draw(st.floats(0.02, 0.9)), data.draw(st.floats(0.0, 1e4)))
        for owner in owners
        if pool.nodes_of(owner) > 1 and pool.gpus_of(owner) <= most
    ]
    before = copy.deepcopy(pool)
    moved = consolidate(pool, jobs, pause)
    check_pool(pool.pool)
    assert len(moved) == len(set(moved))
    gained = [job for job in jobs if job.owner in moved]
    assert sum(pause[moved]) <= sum(job.gain_gpu_s() for job in gained) / MARGIN + 1e-9
    for owner in owners:
        assert pool.gpus_of(owner) == before.gpus_of(owner)
        if owner in moved:
            assert pool.nodes_of(owner) == 1
        else:
            assert pool.placement(owner) == before.placement(owner)
    for job in jobs:
        assert pool.nodes_of(job.owner) == (1 if job.owner in moved else before.nodes_of(job.owner))
    assert {job.owner for job in gained} or not moved  # nobody moves for nothing
