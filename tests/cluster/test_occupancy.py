import copy
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.cluster.occupancy import NodeShare, Occupancy
from powerflow.cluster.spec import Node, parse_cluster
from powerflow.testing.pool_invariants import check_pool, whole_free_nodes


def occupancy(text: str, *, rack_size: int | None = None) -> Occupancy:
    nodes = parse_cluster(text).nodes
    if rack_size is not None:
        nodes = tuple(Node(n.index, n.name, n.gpu_type, n.gpus, f"r{n.index // rack_size}") for n in nodes)
    return Occupancy(nodes)


def node_numbers(pool: Occupancy, owner: int) -> list[int]:
    names = [node.name for node in pool.nodes]
    return [names.index(share.node) for share in pool.placement(owner)]


# ---- worked by hand ----


def test_small_jobs_share_a_node_in_aligned_blocks() -> None:
    pool = occupancy("2x8:A")
    pool.allocate(0, 4)
    pool.allocate(1, 2)
    pool.allocate(2, 1)
    assert pool.placement(0) == (NodeShare("a-0", (0, 1, 2, 3)),)
    assert pool.placement(1) == (NodeShare("a-0", (4, 5)),)
    assert pool.placement(2) == (NodeShare("a-0", (6,)),)
    assert (pool.free, pool.held, pool.nodes_in_use(), whole_free_nodes(pool.pool)) == (9, 7, 1, 1)
    check_pool(pool.pool)


def test_best_fit_fills_the_fullest_node_that_has_room_before_it_opens_another() -> None:
    pool = occupancy("3x8:A")
    pool.allocate_many([0, 1], [5, 7])  # 7 on node 0, 5 on node 1
    pool.allocate(2, 3)
    assert node_numbers(pool, 2) == node_numbers(pool, 0) == [1]
    pool.allocate(3, 1)
    assert node_numbers(pool, 3) == node_numbers(pool, 1) == [0]
    pool.allocate(4, 1)
    assert node_numbers(pool, 4) == [2]


def test_many_are_placed_largest_first() -> None:
    pool = occupancy("2x8:A")
    pool.allocate_many([0, 1, 2, 3], [2, 8, 2, 4])  # in this order, 8 would find no whole node only if 2 came first
    assert pool.packed_many([0, 1, 2, 3]).all()
    assert (pool.free, pool.nodes_in_use()) == (0, 2)


def test_large_jobs_take_whole_nodes_of_one_rack() -> None:
    pool = occupancy("8x8:A", rack_size=4)
    pool.allocate(0, 8)  # rack 0 has three whole nodes left
    pool.allocate(1, 32)
    assert node_numbers(pool, 1) == [4, 5, 6, 7]
    pool.allocate(2, 24)
    assert node_numbers(pool, 2) == [1, 2, 3]


def test_a_whole_node_is_taken_from_the_rack_that_has_fewest() -> None:
    pool = occupancy("8x8:A", rack_size=4)
    pool.allocate_many([0, 1, 2], [32, 8, 8])
    pool.release(0)  # rack 0 has four whole nodes, rack 1 two
    pool.allocate(3, 8)
    assert node_numbers(pool, 3) == [6]


def test_the_rest_of_a_large_job_stays_in_its_rack() -> None:
    pool = occupancy("4x8:A", rack_size=2)
    pool.allocate(0, 4)  # node 0 has the best fit for four, but in the other rack than what follows
    pool.allocate_many([1], [12])
    assert node_numbers(pool, 1) == [0, 1]
    pool.allocate(2, 12)
    assert node_numbers(pool, 2) == [2, 3]


def test_nodes_of_six_and_jobs_of_six_and_twelve() -> None:
    pool = occupancy("3x6:A")
    pool.allocate_many([0, 1], [6, 12])
    assert pool.packed_many([0, 1]).all()
    assert pool.free == 0


def test_where_no_node_has_room_several_share() -> None:
    pool = occupancy("3x4:A")
    pool.allocate_many([0, 1, 2], [3, 3, 3])
    pool.allocate(3, 2)
    assert pool.nodes_of(3) == 2
    assert not pool.is_packed(3)
    assert pool.packed_many([0, 3, 99]).tolist() == [True, False, True]
    pool.release_many([0, 3])
    pool.allocate(3, 2)
    assert pool.is_packed(3)


def test_open_nodes_are_filled_before_smaller_empty_ones() -> None:
    pool = occupancy("1x8:A+1x4:A")
    pool.allocate(0, 4)
    assert node_numbers(pool, 0) == [1]  # the smallest empty node that has room
    pool.release(0)
    pool.allocate(1, 5)
    pool.allocate(2, 3)
    assert node_numbers(pool, 2) == [0]
    assert pool.is_packed(1)
    pool.allocate(3, 4)
    assert pool.is_packed(3)


# ---- nodes that go and come ----


def test_a_failed_node_keeps_its_owners_until_they_are_released() -> None:
    pool = occupancy("2x4:A")
    pool.allocate_many([5, 6], [6, 2])
    assert pool.fail("a-1").tolist() == [5, 6]
    assert (pool.up, pool.free, pool.held, pool.nodes_in_use()) == (4, 0, 8, 2)
    pool.release(5)
    assert (pool.up, pool.free, pool.held) == (4, 4, 2)
    check_pool(pool.pool)
    pool.release(6)
    pool.recover("a-1")
    assert (pool.up, pool.free, pool.nodes_in_use()) == (8, 8, 0)
    check_pool(pool.pool)


def test_a_drained_node_takes_nobody_new() -> None:
    pool = occupancy("2x4:A")
    pool.allocate(0, 2)
    assert pool.drain("a-0").tolist() == [0]
    assert (pool.up, pool.free, pool.held) == (4, 4, 2)
    pool.allocate(1, 1)
    assert node_numbers(pool, 1) == [1]
    with pytest.raises(ValueError, match="4 GPUs requested, but only 3 are free"):
        pool.allocate(2, 4)
    pool.fail("a-0")
    pool.drain("a-0")  # a late message does not bring it nearer to life
    pool.recover("a-0")
    pool.recover("a-0")
    assert (pool.up, pool.free) == (8, 5)
    check_pool(pool.pool)


@pytest.mark.parametrize(
    "placement",
    [
        (NodeShare("a-0", (0,)),),  # held
        (NodeShare("a-0", (8,)),),  # not there
        (NodeShare("a-1", ()),),
        (NodeShare("a-2", (0,)),),  # asleep
        (NodeShare("a-1", (0,)), NodeShare("a-1", (1,))),
    ],
)
def test_nobody_is_put_where_they_cannot_be(placement: tuple[NodeShare, ...]) -> None:
    pool = occupancy("3x8:A")
    pool.allocate(0, 1)
    pool.sleep("a-2")
    with pytest.raises(ValueError, match="cannot be placed"):
        pool.put(1, placement)
    with pytest.raises(ValueError, match="cannot be placed"):
        pool.put(0, (NodeShare("a-1", (0,)),))
    check_pool(pool.pool)


def test_only_an_empty_node_that_is_up_sleeps() -> None:
    pool = occupancy("2x4:A")
    pool.allocate(0, 1)
    for refused in ("a-0",):
        with pytest.raises(ValueError, match="is not up, or not empty"):
            pool.sleep(refused)
    pool.sleep("a-1")
    pool.sleep("a-1")
    assert (pool.up, pool.free, pool.asleep, whole_free_nodes(pool.pool)) == (8, 3, 4, 0)
    pool.recover("a-1")
    assert pool.asleep == 4
    pool.wake("a-1")
    pool.wake("a-0")
    assert (pool.free, pool.asleep) == (7, 0)
    pool.drain("a-1")
    with pytest.raises(ValueError, match="is not up, or not empty"):
        pool.sleep("a-1")
    check_pool(pool.pool)


def test_a_node_drained_in_its_sleep_sleeps_on_unless_it_fails() -> None:
    pool = occupancy("1x4:A")
    pool.sleep("a-0")
    pool.drain("a-0")
    pool.drain("a-0")
    pool.wake("a-0")
    assert (pool.up, pool.asleep) == (0, 0)
    pool.recover("a-0")
    pool.recover("a-0")
    assert (pool.up, pool.asleep, pool.free) == (4, 4, 0)
    pool.drain("a-0")
    pool.fail("a-0")
    pool.recover("a-0")
    assert (pool.up, pool.asleep, pool.free) == (4, 0, 4)


# ---- what is refused changes nothing ----


@pytest.mark.parametrize(
    ("owners", "gpus", "said"),
    [
        ([1, 2], [4, 8], "12 GPUs requested, but only 11 are free"),
        ([1, 1], [1, 1], "an owner is repeated"),
        ([1, 0], [1, 1], "owner 0 already holds"),
        ([0], [1], "owner 0 already holds"),
        ([1], [0], "at least 1"),
        ([1, 2], [1, 0], "at least 1"),
        ([-1], [1], "numbers ≥ 0"),
        ([1, -1], [1, 1], "numbers ≥ 0"),
        ([1], [12], "12 GPUs requested, but only 11 are free"),
    ],
)
def test_refused_whole(owners: list[int], gpus: list[int], said: str) -> None:
    pool = occupancy("2x8:A")
    pool.allocate(0, 5)
    with pytest.raises(ValueError, match=said):
        pool.allocate_many(owners, gpus)
    if len(owners) == 1:
        with pytest.raises(ValueError, match=said):
            pool.allocate(owners[0], gpus[0])
    assert (pool.free, pool.held) == (11, 5)
    check_pool(pool.pool)


def test_a_pool_has_nodes_of_different_names() -> None:
    with pytest.raises(ValueError, match="at least one node"):
        Occupancy([])
    with pytest.raises(ValueError, match="two nodes have the same name"):
        Occupancy([Node(0, "n", "A", 8, "r"), Node(1, "n", "A", 8, "r")])


def test_strangers_hold_nothing() -> None:
    pool = occupancy("1x8:A")
    pool.release_many([7, 100_000, -1])
    pool.release(3)
    pool.allocate_many([], [])
    assert pool.placement(100_000) == ()
    assert (pool.gpus_of(100_000), pool.nodes_of(100_000), pool.is_packed(100_000)) == (0, 0, True)
    assert pool.packed_many([]).tolist() == []
    pool.allocate(100_000, 3)
    assert pool.gpus_of(100_000) == 3
    check_pool(pool.pool)


def test_nodes_of_one_rack_stand_together_whatever_their_order() -> None:
    nodes = [Node(i, f"n{i}", "A", 8, f"r{i % 2}") for i in range(4)]
    pool = Occupancy(nodes)
    assert [node.name for node in pool.nodes] == ["n0", "n2", "n1", "n3"]
    pool.allocate_many([0, 1], [16, 16])
    assert [share.node for share in pool.placement(0)] == ["n0", "n2"]


def test_the_invariants_are_really_checked() -> None:
    """Each single falsehood in the arrays is found."""
    for name in ("free_mask", "room", "row_of", "row_len", "rack_len", "rows", "owner_of", "next_of", "held", "spread"):
        pool = occupancy("4x8:A")
        pool.allocate_many([0, 1], [12, 3])
        check_pool(pool.pool)
        getattr(pool._pool, name).flat[3 if name in ("next_of", "rack_len") else 1] += 1
        with pytest.raises(AssertionError):
            check_pool(pool.pool)


# ---- GPUs out of service ----


def test_a_gpu_out_of_service_goes_to_nobody_and_comes_back_where_it_was() -> None:
    pool = occupancy("1x4:A")
    assert pool.fail_gpu("a-0", 1).tolist() == []
    assert (pool.up, pool.free, pool.out_of_service()) == (3, 3, [("a-0", 1)])
    pool.allocate(0, 2)
    assert pool.placement(0) == (NodeShare("a-0", (2, 3)),)  # the aligned pair that is left
    pool.allocate(1, 1)
    assert pool.placement(1) == (NodeShare("a-0", (0,)),)
    with pytest.raises(ValueError, match="1 GPUs requested, but only 0 are free"):
        pool.allocate(2, 1)
    with pytest.raises(ValueError, match="cannot be placed"):
        pool.put(2, (NodeShare("a-0", (1,)),))
    check_pool(pool.pool)
    pool.recover_gpu("a-0", 1)
    pool.recover_gpu("a-0", 1)
    assert (pool.up, pool.free, pool.out_of_service()) == (4, 1, [])
    check_pool(pool.pool)


def test_a_gpu_that_leaves_service_stays_its_owners_until_he_lets_go() -> None:
    pool = occupancy("2x2:A")
    pool.allocate(7, 2)
    assert pool.fail_gpu("a-0", 0).tolist() == [7]
    assert pool.fail_gpu("a-0", 0).tolist() == [7]
    assert (pool.up, pool.held) == (4, 2)
    check_pool(pool.pool)
    pool.release(7)
    assert (pool.up, pool.free, pool.nodes_in_use()) == (3, 3, 0)
    check_pool(pool.pool)
    pool.fail_gpu("a-0", 1)  # nothing of the node is left
    assert (pool.up, pool.free, whole_free_nodes(pool.pool)) == (2, 2, 1)
    pool.allocate(8, 2)
    assert node_numbers(pool, 8) == [1]
    check_pool(pool.pool)


@pytest.mark.parametrize(("node", "gpu"), [("a-0", 2), ("a-0", -1), ("nowhere", 0)])
def test_a_gpu_that_is_not_there_cannot_leave_service(node: str, gpu: int) -> None:
    pool = occupancy("1x2:A")
    with pytest.raises(ValueError, match="there is no GPU"):
        pool.fail_gpu(node, gpu)
    with pytest.raises(ValueError, match="there is no GPU"):
        pool.recover_gpu(node, gpu)


# ---- properties ----

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


@settings(max_examples=60, deadline=None)
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


@settings(max_examples=80, deadline=None)
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


@settings(max_examples=80, deadline=None)
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


@settings(max_examples=60, deadline=None)
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


@settings(max_examples=60, deadline=None)
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
