"""What holds of any occupancy, whatever is put and taken."""

import copy
import itertools
import pickle

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.cluster.occupancy import Occupancy
from powerflow.testing.pool_invariants import check_pool
from tests.cluster.pools import node_numbers, occupancy
from tests.slow import examples

shapes = st.lists(st.tuples(st.integers(1, 5), st.sampled_from([1, 2, 4, 6, 8, 16, 64])), min_size=1, max_size=3)


def pool_of(shape: list[tuple[int, int]], rack_size: int) -> Occupancy:
    return occupancy("+".join(f"{count}x{gpus}:A" for count, gpus in shape), rack_size=rack_size)


def draw_jobs(data: st.DataObject, free: int, sizes: st.SearchStrategy[int]) -> list[int]:
    """Job sizes whose sum does not exceed what is free, often exactly."""
    jobs: list[int] = []
    for gpus in data.draw(st.lists(sizes, max_size=40)):
        if sum(jobs) + gpus <= free:
            jobs.append(gpus)
    if data.draw(st.booleans()) and sum(jobs) < free:
        jobs.append(free - sum(jobs))
    return jobs


def fewest_nodes(rooms: list[int], gpus: int) -> int:
    taken = itertools.accumulate(sorted(rooms, reverse=True))
    return next(i for i, total in enumerate(taken, 1) if total >= gpus)


powers = st.integers(0, 6).map(lambda exponent: 2**exponent)


@settings(max_examples=examples(60), deadline=None)
@given(count=st.integers(1, 12), node=st.integers(0, 6).map(lambda e: 2**e), rack=st.integers(1, 5), data=st.data())
def test_powers_of_two_fill_an_empty_pool_without_spreading(
    count: int, node: int, rack: int, data: st.DataObject
) -> None:
    pool = pool_of([(count, node)], rack)
    left, jobs = pool.free, []
    while left and data.draw(st.booleans() | st.just(True)):
        jobs.append(2 ** data.draw(st.integers(0, left.bit_length() - 1)))
        left -= jobs[-1]
    owners = np.arange(len(jobs))
    pool.allocate_many(owners, jobs)
    check_pool(pool.pool)
    assert pool.packed_many(owners).all()
    assert pool.nodes_in_use() == -(-sum(jobs) // node)
    for owner, gpus in enumerate(jobs):
        for share in pool.placement(owner):  # an aligned block
            assert share.gpus == tuple(range(share.gpus[0], share.gpus[0] + min(gpus, node)))
            assert share.gpus[0] % min(gpus, node) == 0


@settings(max_examples=examples(80), deadline=None)
@given(shape=shapes, rack=st.integers(1, 4), data=st.data())
def test_whatever_fits_in_number_fits_and_no_gpu_twice(
    shape: list[tuple[int, int]], rack: int, data: st.DataObject
) -> None:
    pool = pool_of(shape, rack)
    first = draw_jobs(data, pool.free, st.integers(1, 70) | powers)
    pool.allocate_many(range(len(first)), first)
    gone = [owner for owner in range(len(first)) if data.draw(st.booleans())]
    pool.release_many(gone)
    for node in pool.nodes:
        status = data.draw(st.sampled_from(["up", "up", "up", "fail", "drain", "sleep"]))
        if status == "fail":
            pool.fail(node.name)
        elif status == "drain" or (status == "sleep" and len(pool.owners_on(node.name))):
            pool.drain(node.name)
        elif status == "sleep":
            pool.sleep(node.name)
    for node in pool.nodes:
        for gpu in data.draw(st.lists(st.integers(0, node.gpus - 1), max_size=3)):
            pool.fail_gpu(node.name, gpu)
            if data.draw(st.booleans()):
                pool.recover_gpu(node.name, gpu)
    out = set(pool.out_of_service())
    usable = {node.name for node, status in zip(pool.nodes, pool.status(), strict=True) if status == 0}
    second = draw_jobs(data, pool.free, powers)
    owners = range(len(first), len(first) + len(second))
    pool.allocate_many(owners, second)
    check_pool(pool.pool)
    held = [(share.node, gpu) for owner in range(owners.stop) for share in pool.placement(owner) for gpu in share.gpus]
    assert len(held) == len(set(held)) == pool.held
    for owner, gpus in zip(owners, second, strict=True):
        assert sum(len(share.gpus) for share in pool.placement(owner)) == gpus
        assert {share.node for share in pool.placement(owner)} <= usable
        assert not out & {(share.node, gpu) for share in pool.placement(owner) for gpu in share.gpus}


@settings(max_examples=examples(80), deadline=None)
@given(shape=shapes, rack=st.integers(1, 4), data=st.data())
def test_a_job_gets_as_few_nodes_as_its_moment_allows(
    shape: list[tuple[int, int]], rack: int, data: st.DataObject
) -> None:
    pool = pool_of(shape, rack)
    for owner in range(data.draw(st.integers(1, 12))):
        if pool.free == 0:
            break
        gpus = data.draw(st.integers(1, pool.free))
        rooms = pool.room().tolist()
        fewest = fewest_nodes(rooms, gpus)
        in_use = [room for room, node in zip(rooms, pool.nodes, strict=True) if gpus <= room < node.gpus]
        pool.allocate(owner, gpus)
        assert pool.nodes_of(owner) == fewest
        if in_use:  # best fit: the node in use that has the least room that is enough
            assert rooms[node_numbers(pool, owner)[0]] == min(in_use)
        elif fewest == 1:
            assert rooms[node_numbers(pool, owner)[0]] == min(room for room in rooms if room >= gpus)
        if data.draw(st.booleans()):
            pool.release(data.draw(st.integers(0, owner)))
    check_pool(pool.pool)


@settings(max_examples=examples(60), deadline=None)
@given(count=st.integers(1, 20), rack=st.integers(1, 6), data=st.data())
def test_whole_node_jobs_get_as_few_racks_as_their_moment_allows(count: int, rack: int, data: st.DataObject) -> None:
    pool = pool_of([(count, 8)], rack)
    for owner in range(10):
        if pool.free < 8:
            break
        nodes = data.draw(st.integers(1, pool.free // 8))
        racks = [int(node.rack[1:]) for node in pool.nodes]
        whole = np.bincount(racks, weights=pool.room() == 8).astype(int).tolist()
        pool.allocate(owner, 8 * nodes)
        used = np.bincount([racks[number] for number in node_numbers(pool, owner)], minlength=len(whole))
        assert np.count_nonzero(used) == fewest_nodes(whole, nodes)
        if np.count_nonzero(used) == 1:  # the rack with the fewest whole nodes that are enough
            assert whole[int(used.argmax())] == min(w for w in whole if w >= nodes)
        if data.draw(st.booleans()):
            pool.release(data.draw(st.integers(0, owner)))


@settings(max_examples=examples(60), deadline=None)
@given(shape=shapes, rack=st.integers(1, 4), data=st.data())
def test_release_restores_exactly_and_copies_are_equal(
    shape: list[tuple[int, int]], rack: int, data: st.DataObject
) -> None:
    pool = pool_of(shape, rack)
    stays = draw_jobs(data, pool.free // 2, powers)
    pool.allocate_many(range(len(stays)), stays)
    before = pickle.dumps(pool)
    comes = draw_jobs(data, pool.free, st.integers(1, 20))
    owners = list(range(len(stays), len(stays) + len(comes)))
    twin = copy.deepcopy(pool)
    pool.allocate_many(owners, comes)
    twin.allocate_many(owners, comes)
    assert [pool.placement(owner) for owner in owners] == [twin.placement(owner) for owner in owners]
    pool.release_many(data.draw(st.permutations(owners)))
    check_pool(pool.pool)
    restored = pickle.loads(before)
    for name in pool._pool._fields:
        kept, now = getattr(restored._pool, name), getattr(pool._pool, name)
        length = min(len(kept), len(now))  # arrays over owners may have grown
        assert np.array_equal(kept[:length], now[:length])
