"""Nodes that do not answer, join and leave: the GPUs of the first are neither free nor lost."""

from __future__ import annotations

import pytest

from powerflow.cluster.occupancy import NodeShare
from powerflow.cluster.spec import Node
from powerflow.scheduler.events import (
    Failed,
    GpuFailed,
    NodeAdded,
    NodeDrained,
    NodeFailed,
    NodeGone,
    NodeRecovered,
    NodeUnreachable,
)
from powerflow.scheduler.plan import Why
from powerflow.scheduler.pool_nodes import largest
from powerflow.scheduler.what_if import what_if
from powerflow.testing.invariants import check
from tests.scheduler.situations import SchedulerDriver, Told, submitted

FULL, HALF = 1, 0  # clocks


def told() -> SchedulerDriver:
    """A cluster of 2 × 4 GPUs that does as it is told; jobs are numbered by submission."""
    return SchedulerDriver(Told())


def places(driver: SchedulerDriver, slot: int) -> dict[str, int]:
    occupancy = driver.scheduler.pools["A100"].occupancy
    return {share.node: len(share.gpus) for share in occupancy.placement(slot)}


def nodes(driver: SchedulerDriver) -> list[str]:
    return [node.name for node in driver.scheduler.pools["A100"].occupancy.nodes]


def test_a_job_wholly_on_the_node_keeps_its_gpus_and_is_not_planned() -> None:
    driver = told()
    driver.tell({0: (4, FULL)})
    driver.at(0, submitted("a"))
    (home,) = places(driver, 0)
    driver.tell({0: (4, FULL), 1: (4, FULL)})
    driver.at(30, NodeUnreachable(home))
    plan = driver.at(60, submitted("b"))
    assert [(change.job_id, change.gpus) for change in plan.changes] == [("b", 4)]
    assert plan.reasons()["a"].why is Why.UNREACHABLE
    assert plan.reasons()["a"].sentence() == "keeps its GPUs: its node does not answer, and it may run there"
    assert places(driver, 0) == {home: 4}
    assert home not in places(driver, 1)
    assert what_if(driver.scheduler, "a", 61.0).otherwise == ()
    driver.tell({0: (2, FULL), 1: (4, FULL)})
    plan = driver.at(120, NodeRecovered(home))
    assert [(change.job_id, change.gpus) for change in plan.changes] == [("a", 2)]
    check(driver.scheduler)


def test_no_job_starts_on_the_node() -> None:
    driver = told()
    driver.tell({0: (4, FULL), 1: (4, FULL)})
    driver.at(0, NodeUnreachable(nodes(driver)[0]))
    assert driver.scheduler.pools["A100"].occupancy.up == 4
    driver.at(60, submitted("a"))
    assert places(driver, 0) == {nodes(driver)[1]: 4}


def test_a_job_with_other_nodes_goes_on_with_those() -> None:
    driver = told()
    driver.tell({0: (8, FULL)})
    driver.at(0, submitted("a"))
    first, second = nodes(driver)
    before = driver.scheduler.pools["A100"].occupancy.placement(0)
    driver.tell({0: (4, FULL)})
    driver.at(30, NodeUnreachable(second))
    assert places(driver, 0) == {first: 4}
    plan = driver.at(60)
    (change,) = plan.changes
    assert (change.job_id, change.gpus, change.moved) == ("a", 4, True)
    assert change.reason.why is Why.CUT
    assert change.reason.sentence() == "goes on without a node that does not answer"
    assert driver.scheduler.pools["A100"].occupancy.placement(0) == tuple(s for s in before if s.node == first)
    assert not driver.at(120).changes  # it is said once
    driver.tell({0: (8, FULL)})
    (change,) = driver.at(180, NodeRecovered(second)).changes
    assert (change.gpus, change.reason.why) == (8, Why.GROWN)


def test_a_job_that_cannot_go_on_with_fewer_stays() -> None:
    driver = told()
    driver.tell({0: (8, FULL)})
    driver.at(0, submitted("a"))
    first, second = nodes(driver)
    driver.tell({})
    driver.at(30, NodeUnreachable(second, frozenset({"a", "who"})))
    assert places(driver, 0) == {first: 4, second: 4}
    plan = driver.at(60, submitted("b"))
    assert driver.scheduler.view(driver.scheduler.pools["A100"], 60.0).capacity == 0  # nobody else gets its GPUs
    assert not plan.changes
    driver.tell({0: (8, FULL), 1: (0, FULL)})
    assert not driver.at(120, NodeRecovered(second)).changes
    assert places(driver, 0) == {first: 4, second: 4}
    check(driver.scheduler)


def test_a_job_whose_other_gpus_are_too_few_is_moved() -> None:
    driver = told()
    driver.tell({0: (8, FULL)})
    driver.at(0, submitted("a", gpus_min=5, gpus=8))
    driver.tell({0: (0, FULL)})
    (change,) = driver.at(60, NodeUnreachable(nodes(driver)[1])).changes
    assert (change.job_id, change.gpus) == ("a", 0)


def test_nodes_that_go_and_come_one_after_the_other() -> None:
    driver = told()
    driver.tell({0: (8, FULL)})
    driver.at(0, submitted("a"))
    first, second = nodes(driver)
    driver.at(10, NodeUnreachable(first, frozenset({"a"})), NodeUnreachable(second))
    assert places(driver, 0) == {first: 4, second: 4}
    driver.at(20, NodeRecovered(first))
    assert places(driver, 0) == {first: 4, second: 4}
    driver.at(30, NodeUnreachable(first), NodeRecovered(second), NodeRecovered(first))
    assert not driver.at(60).changes
    check(driver.scheduler)


def test_a_job_that_has_not_started_there_starts_elsewhere() -> None:
    driver = told()
    driver.tell({0: (4, FULL)})
    driver.at(0, submitted("a"))
    (home,) = places(driver, 0)
    (change,) = driver.at(60, NodeUnreachable(home, absent=frozenset({"a", "who"}))).changes
    assert (change.gpus, change.reason.why) == (4, Why.RESUMED)
    assert home not in places(driver, 0)


def test_a_job_on_two_nodes_waits_for_both_until_one_is_said_to_stay_away() -> None:
    driver = told()
    driver.tell({0: (8, FULL)})
    driver.at(0, submitted("a"))
    first, second = nodes(driver)
    both = frozenset({"a"})
    driver.at(10, NodeUnreachable(first, both), NodeUnreachable(second, both))
    driver.at(60, NodeRecovered(first))
    assert places(driver, 0) == {first: 4, second: 4}
    driver.tell({0: (4, FULL)})
    (change,) = driver.at(120, NodeUnreachable(second)).changes
    assert change.reason.why is Why.CUT
    assert places(driver, 0) == {first: 4}


def test_proof_that_a_node_is_off_stops_its_jobs() -> None:
    driver = told()
    driver.tell({0: (4, FULL)})
    driver.at(0, submitted("a"))
    (home,) = places(driver, 0)
    driver.at(30, NodeUnreachable(home))
    driver.at(60, NodeFailed(home))
    assert places(driver, 0) == {next(name for name in nodes(driver) if name != home): 4}
    assert not driver.scheduler.pools["A100"].outage.nodes


@pytest.mark.parametrize("retry", [True, False])
def test_a_job_ends_while_its_node_does_not_answer(retry: bool) -> None:
    driver = told()
    driver.tell({0: (4, FULL)})
    driver.at(0, submitted("a"))
    (home,) = places(driver, 0)
    driver.tell({0: (0, FULL)})
    driver.at(60, NodeUnreachable(home), NodeDrained(home), Failed("a", retry=retry))
    assert driver.scheduler.pools["A100"].occupancy.held == 0
    assert not driver.scheduler.pools["A100"].outage.pinned
    check(driver.scheduler)


def test_the_largest_part_of_a_placement() -> None:
    placement = NodeShare("n1", (2, 3)), NodeShare("n2", (0, 1, 2, 3))
    assert largest((5,), placement) == (NodeShare("n2", (0, 1, 2, 3)), NodeShare("n1", (2,)))
    for counts, gpus in (((1, 2, 4, 8), 4), ((5,), 5), ((1, 6), 6), ((7, 8), 0), ((), 0)):
        assert sum(len(share.gpus) for share in largest(counts, placement)) == gpus


def new_node(name: str = "new", gpus: int = 4, gpu_type: str = "A100", rack: str = "r9") -> Node:
    return Node(9, name, gpu_type, gpus, rack)


def test_a_node_joins_and_jobs_get_its_gpus() -> None:
    driver = told()
    driver.tell({0: (8, FULL)})
    driver.at(0, submitted("a"))
    before = driver.scheduler.pools["A100"].occupancy.placement(0)
    driver.at(30, GpuFailed(nodes(driver)[0], 9), NodeAdded(new_node()))
    driver.tell({0: (8, FULL), 1: (4, FULL)})
    plan = driver.at(60, submitted("b"))
    assert [(change.job_id, change.gpus) for change in plan.changes] == [("b", 4)]
    assert driver.scheduler.pools["A100"].occupancy.placement(0) == before
    assert places(driver, 1) == {"new": 4}
    assert not driver.at(70, NodeAdded(new_node())).changes  # it is told again
    check(driver.scheduler)


def test_a_node_leaves_and_comes_back_with_more_gpus() -> None:
    driver = told()
    driver.tell({0: (4, FULL)})
    driver.at(0, NodeAdded(new_node()), submitted("a"))
    (home,) = places(driver, 0)
    driver.tell({0: (0, FULL)})
    driver.at(60, NodeGone(home))
    assert home not in nodes(driver)
    assert places(driver, 0) == {}
    assert driver.at(120, NodeDrained(home)).ignored == [f"node {home} is unknown"]
    driver.at(180, NodeAdded(new_node(home, gpus=8)))
    assert driver.scheduler.pools["A100"].occupancy.up == 16
    for number, name in enumerate(list(nodes(driver))):
        driver.at(240 + 60 * number, NodeGone(name))
    assert driver.scheduler.pools["A100"].occupancy.up == 0  # the last one only fails
    driver.at(600, NodeAdded(new_node(nodes(driver)[0], gpus=2)))
    assert driver.scheduler.pools["A100"].occupancy.up == 2
    check(driver.scheduler)


def test_a_node_of_a_type_that_nobody_knows_is_ignored() -> None:
    (why,) = told().at(0, NodeAdded(new_node(gpu_type="H100"))).ignored
    assert why == "node new has GPUs of type H100: this cluster had none when it began"


def test_what_is_known_of_the_other_nodes_stays_when_one_joins() -> None:
    driver = told()
    driver.tell({0: (2, FULL)})
    driver.at(0, submitted("a"))
    first, second = nodes(driver)
    driver.at(30, GpuFailed(first, 3), NodeDrained(second), NodeAdded(new_node(rack="rack-0")))
    occupancy = driver.scheduler.pools["A100"].occupancy
    assert occupancy.out_of_service() == [(first, 3)]
    assert occupancy.up == 7
    driver.at(60, NodeRecovered(second))
    assert driver.scheduler.pools["A100"].occupancy.up == 11
