import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.cluster.defrag import Migration, Movable, Prices, apply_migration, worthwhile_migrations
from powerflow.cluster.occupancy import NodeShare, Occupancy
from powerflow.cluster.spec import Node


def sleepers(count: int, gpus: int = 8, *, can_sleep: bool = True) -> list[Node]:
    """Nodes that draw 300 W beside their GPUs, 20 W asleep, and take 100 s to wake."""
    return [Node(i, f"n{i}", "A", gpus, "r", 300.0, can_sleep, 20.0, 100.0) for i in range(count)]


def movable(*jobs: tuple[int, float, float, float, float]) -> Movable:
    """Jobs of (owner, pause_s, remaining_s, slowdown, power_w), all of weight 1."""
    owners = np.array([job[0] for job in jobs], np.int64)
    pause_s, remaining_s, slowdown, power_w = (np.array([job[i] for job in jobs], np.float64) for i in range(1, 5))
    return Movable(owners, pause_s, remaining_s, slowdown, power_w, np.ones(len(jobs)))


def said(found: list[Migration]) -> list[tuple[tuple[int, ...], str | None, float, float]]:
    """Migrations in plain rounded numbers."""
    return [(m.owners, m.emptied, round(m.gain, 6), round(m.cost, 6)) for m in found]


#: One GPU idles at 50 W, so a node of eight draws 700 W awake and empty, and saves 680 W asleep.
PRICES = Prices(energy_price=0.001, gpu_idle_w=50.0, expected_sleep_s=1000.0)


def spread_pool(*, can_sleep: bool = False) -> Occupancy:
    """Owner 0 has 2 + 2 GPUs on two nodes, owners 1 and 2 six on each."""
    pool = Occupancy(sleepers(2, can_sleep=can_sleep))
    pool.put(0, (NodeShare("n0", (0, 1)), NodeShare("n1", (0, 1))))
    pool.put(1, (NodeShare("n0", (2, 3, 4, 5)),))
    pool.put(2, (NodeShare("n1", (2, 3, 4, 5, 6, 7)),))
    return pool


def test_packing_pays_when_what_is_saved_exceeds_the_pause() -> None:
    pool = spread_pool()
    # gain (1 + 0.001·500)·0.5·1000 = 750, cost (1 + 0.5)·30 = 45
    found = worthwhile_migrations(pool, movable((0, 30.0, 1000.0, 1.5, 500.0)), PRICES)
    assert said(found) == [((0,), None, 750.0, 45.0)]
    assert not pool.is_packed(0)  # nothing moved yet
    apply_migration(pool, found[0])
    assert pool.placement(0) == (NodeShare("n0", (0, 1, 6, 7)),)
    pool.check()


def test_packing_does_not_pay_near_the_end() -> None:
    assert worthwhile_migrations(spread_pool(), movable((0, 30.0, 60.0, 1.5, 500.0)), PRICES) == []
    assert worthwhile_migrations(spread_pool(), movable((0, 30.0, 60.1, 1.5, 500.0)), PRICES) != []


def test_packing_onto_an_empty_node_pays_for_its_watts() -> None:
    pool = Occupancy(sleepers(3))
    pool.put(0, (NodeShare("n0", (0, 1)), NodeShare("n1", (0, 1))))
    pool.put(1, (NodeShare("n0", (2, 3, 4, 5, 6)),))
    pool.put(2, (NodeShare("n1", (2, 3, 4, 5, 6)),))
    # 680 W over 1000 s at 0.001 s/J are 680 more than the pause of 45
    found = worthwhile_migrations(pool, movable((0, 30.0, 1000.0, 1.5, 500.0)), PRICES)
    assert said(found) == [((0,), None, 750.0, 725.0)]
    assert worthwhile_migrations(pool, movable((0, 50.0, 1000.0, 1.5, 500.0)), PRICES) == []


def test_emptying_pays_when_the_sleep_is_worth_the_pauses() -> None:
    pool = Occupancy(sleepers(2))
    pool.put(0, (NodeShare("n0", (0, 1, 2, 3)),))
    pool.put(1, (NodeShare("n1", (0, 1)),))
    pool.put(2, (NodeShare("n1", (2,)),))
    # 0.001·(680·1000 − 700·100) = 610; moving 1 and 2 costs (1 + 0.1)·30 each = 66, moving 0 (1 + 0.4)·300 = 420
    jobs = movable((0, 300.0, 9e9, 1.0, 400.0), (1, 30.0, 9e9, 1.0, 100.0), (2, 30.0, 9e9, 1.0, 100.0))
    found = worthwhile_migrations(pool, jobs, PRICES)
    assert said(found) == [((1, 2), "n1", 610.0, 66.0)]
    apply_migration(pool, found[0])
    pool.check()
    pool.sleep("n1")
    assert pool.nodes_in_use() == 1


@pytest.mark.parametrize(("sleep_s", "worth"), [(199.0, False), (201.0, True)])
def test_emptying_does_not_pay_for_a_short_sleep(sleep_s: float, worth: bool) -> None:
    """A sleep of 200 s is worth 0.001·(680·200 − 700·100) = 66, which is what the move costs."""
    pool = Occupancy(sleepers(2))
    pool.put(0, (NodeShare("n0", (0, 1, 2, 3)),))
    pool.put(1, (NodeShare("n1", (0, 1)),))
    jobs = movable((0, 300.0, 9e9, 1.0, 400.0), (1, 60.0, 9e9, 1.0, 100.0))
    assert bool(worthwhile_migrations(pool, jobs, Prices(0.001, 50.0, sleep_s))) == worth


def test_who_may_not_move_keeps_the_node_awake() -> None:
    pool = Occupancy(sleepers(2))
    pool.allocate(0, 5)
    pool.put(1, (NodeShare("n1", (0,)),))
    pool.put(2, (NodeShare("n1", (1,)),))
    assert worthwhile_migrations(pool, movable((1, 1.0, 9e9, 1.0, 100.0)), PRICES) == []


def test_no_job_is_torn_apart_to_empty_a_node() -> None:
    pool = Occupancy(sleepers(3, 4))
    for owner, node in enumerate(("n0", "n1")):
        pool.put(owner, (NodeShare(node, (0, 1, 2)),))
    pool.put(2, (NodeShare("n2", (0, 1)),))
    jobs = movable(*((owner, 1.0, 9e9, 1.0, 100.0) for owner in range(3)))
    assert worthwhile_migrations(pool, jobs, PRICES) == []


def test_a_move_that_no_longer_fits_changes_nothing() -> None:
    pool = Occupancy(sleepers(2))
    pool.allocate(0, 8)
    pool.put(1, (NodeShare("n1", (5,)),))
    before = [pool.placement(owner) for owner in (0, 1)]
    with pytest.raises(ValueError, match="free"):
        apply_migration(pool, Migration((1,), "n1", 1.0, 0.0))
    assert [pool.placement(owner) for owner in (0, 1)] == before
    assert pool.up == 16
    pool.check()


@pytest.mark.parametrize(
    "placement",
    [
        (NodeShare("n0", (0,)),),  # held
        (NodeShare("n0", (8,)),),  # not there
        (NodeShare("n1", ()),),
        (NodeShare("n2", (0,)),),  # asleep
        (NodeShare("n1", (0,)), NodeShare("n1", (1,))),
    ],
)
def test_nobody_is_put_where_they_cannot_be(placement: tuple[NodeShare, ...]) -> None:
    pool = Occupancy(sleepers(3))
    pool.allocate(0, 1)
    pool.sleep("n2")
    with pytest.raises(ValueError, match="cannot be put"):
        pool.put(1, placement)
    with pytest.raises(ValueError, match="cannot be put"):
        pool.put(0, (NodeShare("n1", (0,)),))
    pool.check()


@settings(max_examples=80, deadline=None)
@given(data=st.data(), count=st.integers(2, 8), gpus=st.sampled_from([2, 4, 6, 8]))
def test_every_migration_gains_and_the_pool_stays_sound(data: st.DataObject, count: int, gpus: int) -> None:
    pool = Occupancy(sleepers(count, gpus))
    sizes = [s for s in data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 8]), min_size=1, max_size=30)) if s <= pool.up]
    while sum(sizes) > pool.up:
        sizes.pop()
    order = data.draw(st.permutations(range(len(sizes))))
    for owner in order:
        pool.allocate(owner, sizes[owner])
    gone = [owner for owner in order if data.draw(st.integers(0, 2)) == 0]
    pool.release_many(gone)
    node = data.draw(st.sampled_from(pool.nodes)).name
    if data.draw(st.booleans()):
        pool.drain(node)
    stay = [owner for owner in order if owner not in gone and data.draw(st.integers(0, 5)) > 0]
    if not stay:
        return
    jobs = movable(
        *(
            (
                owner,
                data.draw(st.floats(0, 300)),
                data.draw(st.floats(0, 1e4)),
                data.draw(st.floats(1, 2)),
                data.draw(st.floats(0, 2000)),
            )
            for owner in stay
        )
    )
    prices = Prices(data.draw(st.floats(0, 0.01)), 50.0, data.draw(st.floats(0, 1e4)))
    before = copy.deepcopy(pool)
    found = worthwhile_migrations(pool, jobs, prices)
    everyone = range(len(sizes))
    assert [pool.placement(owner) for owner in everyone] == [before.placement(owner) for owner in everyone]
    moved = [owner for migration in found for owner in migration.owners]
    assert len(moved) == len(set(moved))
    assert set(moved) <= set(stay)
    for migration in found:
        assert migration.gain > migration.cost
        spread, in_use = np.count_nonzero(~pool.packed_many(everyone)), pool.nodes_in_use()
        apply_migration(pool, migration)
        pool.check()
        if migration.emptied is None:
            assert np.count_nonzero(~pool.packed_many(everyone)) == spread - 1
        else:
            assert np.count_nonzero(~pool.packed_many(everyone)) <= spread
            assert pool.nodes_in_use() < in_use
            pool.sleep(migration.emptied)
            pool.wake(migration.emptied)
    held = [(share.node, gpu) for owner in everyone for share in pool.placement(owner) for gpu in share.gpus]
    assert len(held) == len(set(held)) == before.held
