import pytest

from powerflow.cluster.occupancy import NodeShare, Occupancy
from powerflow.cluster.spec import Node
from powerflow.testing.pool_invariants import check_pool, whole_free_nodes
from tests.cluster.pools import node_numbers, occupancy

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
