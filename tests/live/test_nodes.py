"""Nodes that fail, are silent, declared off, drained, join and leave; GPUs that are of another type by now."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from powerflow.api.governance import DrainOrder
from powerflow.api.pages import RecordFilter
from powerflow.api.records import JobState, NotFound, Refused
from tests.live.controller_bench import ROOT, Bench
from tests.live.kinds import MODES, Q, R, script
from tests.slow import slow as on_demand

# --- nodes ---


def test_a_job_on_a_node_that_goes_runs_on_elsewhere_and_nobody_counts_it_as_a_failure(bench: Bench) -> None:
    bench.steps_total = 60
    job = bench.submit(gpus=2, retries=0)
    bench.until_trains(job)
    (node,) = {bench.engine.statuses[name].node for name in bench.engine.running()}
    bench.engine.lose(node)
    bench.until_trains(job)
    bench.until(lambda: len(bench.engine.running(job)) == 2)
    assert {bench.engine.statuses[name].node for name in bench.engine.running()} == set(bench.engine.gpus) - {node}
    assert bench.job(job).failures == 0
    assert bench.service.nodes()[list(bench.engine.gpus).index(node)].state == "unreachable"
    bench.until_state(job, JobState.COMPLETED)


def node_of(bench: Bench, job: str) -> str:
    (node,) = {bench.engine.statuses[name].node for name in bench.engine.really(job)}
    return node


def node_state(bench: Bench, node: str) -> str:
    return next(found.state for found in bench.service.nodes() if found.name == node)


def test_a_job_whose_node_does_not_answer_keeps_its_gpus_and_goes_on_there(bench: Bench) -> None:
    job = bench.submit(gpus=2, retries=0)
    bench.until_trains(job)
    ranks, node = bench.engine.running(job), node_of(bench, job)
    bench.engine.cut(node)
    bench.turn(5)
    others = [bench.submit(gpus=2) for _ in range(3)]
    bench.turn(100)
    assert node_state(bench, node) == "unreachable"
    assert bench.controller.jobs[job].gpus == 2
    assert bench.controller.jobs[job].reason == "keeps its GPUs: its node does not answer, and it may run there"
    assert bench.job(job).failures == 0
    assert {status.node for status in bench.engine.statuses.values() if status.name.gang in others} == (
        set(bench.engine.gpus) - {node}
    )
    bench.engine.mend(node)
    bench.until_state(job, JobState.COMPLETED)
    assert node_state(bench, node) == "up"
    assert [name for name in bench.engine.launches if name.gang == job] == ranks  # nothing was started a second time


def test_a_job_with_ranks_elsewhere_is_planned_without_the_node(bench: Bench) -> None:
    bench.steps_total = 10_000
    job = bench.submit(gpus="2..8", retries=0)
    bench.until_trains(job)
    bench.until(lambda: len(bench.engine.running(job)) == 8)
    first, second = bench.engine.gpus
    kept = [name for name in bench.engine.running(job) if bench.engine.statuses[name].node == first]
    bench.engine.cut(second)
    bench.until(lambda: [*dict(bench.controller.jobs[job].placement)] == [first])
    bench.turn(50)
    assert bench.engine.running(job) == kept
    assert not bench.engine.signals  # ranks that are healthy were not touched
    steps = bench.controller.jobs[job].steps
    bench.turn(20)
    assert bench.controller.jobs[job].steps > steps
    bench.engine.mend(second)
    bench.until(lambda: len(bench.engine.running(job)) == 8)
    assert set(kept) <= set(bench.engine.running(job))
    assert bench.job(job).failures == 0


def test_an_operator_declares_a_node_off_and_its_jobs_start_elsewhere(bench: Bench) -> None:
    bench.steps_total = 10_000
    job = bench.submit(gpus=2, retries=0)
    bench.until_trains(job)
    node = node_of(bench, job)
    with pytest.raises(Refused, match="answers, so it is not off"):
        bench.service.declare_off(node, ROOT, "")
    with pytest.raises(NotFound):
        bench.service.declare_off("n9", ROOT, "")
    bench.engine.cut(node)
    bench.turn(5)
    bench.service.declare_off(node, ROOT, "the power supply burns")
    entry = bench.service.audit().items[-1]
    assert (entry.action, entry.target, entry.fields) == (
        "node declare-off",
        node,
        {"reason": "the power supply burns"},
    )
    bench.until(lambda: bool(bench.engine.running(job)))
    assert node_state(bench, node) == "failed"
    assert bench.job(job).failures == 0
    bench.restart()  # the next controller knows it
    bench.turn(3)
    assert node_state(bench, node) == "failed"
    bench.engine.mend(node)
    bench.turn(3)
    assert node_state(bench, node) == "up"
    assert {bench.engine.statuses[name].node for name in bench.engine.really(job)} == set(bench.engine.gpus) - {node}
    bench.engine.cut(node)
    bench.turn(3)
    assert node_state(bench, node) == "unreachable"  # the old word does not count any more


def test_a_controller_that_starts_while_a_node_is_away_touches_nothing(bench: Bench) -> None:
    job = bench.submit(gpus=2, retries=0)
    bench.until_trains(job)
    ranks, node = bench.engine.running(job), node_of(bench, job)
    bench.engine.cut(node)
    bench.die()
    bench.start()
    bench.turn(50)
    assert bench.controller.jobs[job].gpus == 2
    assert len(bench.gangs.holding()) == 2
    bench.engine.mend(node)
    bench.until_state(job, JobState.COMPLETED)
    assert bench.engine.launches == ranks


def test_a_node_leaves_and_joins_while_the_controller_runs(bench: Bench) -> None:
    bench.steps_total = 10_000
    first, second = bench.engine.gpus
    bench.turn(3)
    gpus = bench.engine.gpus.pop(second)
    bench.turn(3)
    jobs = [bench.submit(gpus=2) for _ in range(4)]
    bench.turn(30)
    assert {bench.engine.statuses[name].node for name in bench.engine.running()} == {first}
    assert len(bench.engine.running()) == 4
    bench.engine.gpus[second] = gpus
    bench.until(lambda: len(bench.engine.running()) == 8)
    assert {job for job in jobs if bench.engine.running(job)} == set(jobs)
    bench.engine.gpus.pop(second)  # ranks run there: it has not left in order
    bench.turn(20)
    assert node_state(bench, second) == "unreachable"
    assert len(bench.gangs.holding()) == 8


def test_silent_nodes_keep_all_jobs_if_the_controller_was_cut_off_itself(bench: Bench) -> None:
    bench.steps_total = 10_000
    job = bench.submit(gpus="2..8", retries=0)
    bench.until(lambda: len(bench.engine.running(job)) == 8)
    bench.turn(20)
    launches = list(bench.engine.launches)
    for node in bench.engine.gpus:
        bench.engine.cut(node)
        bench.engine.seen_s |= dict.fromkeys(bench.engine.gpus, bench.engine.now_s)
        bench.turn(2)
    bench.turn(40)
    for node in bench.engine.gpus:
        bench.engine.mend(node)
        bench.engine.seen_s.clear()
        bench.turn(4)
    bench.turn(60)
    assert bench.engine.launches == launches
    assert not bench.engine.signals
    assert len(bench.engine.running(job)) == 8


def test_a_job_that_has_not_started_on_a_silent_node_starts_elsewhere(bench: Bench) -> None:
    bench.steps_total = 10_000
    first, second = bench.engine.gpus
    for node in (first, second):
        bench.engine.cut(node)
    job = bench.submit(gpus=2)
    bench.turn(3)
    (placed,) = {node for node, _ in bench.controller.jobs[job].placement}
    bench.engine.mend(second if placed == first else first)
    bench.until(lambda: len(bench.engine.running(job)) == 2)


def test_a_drained_node_stays_so_when_it_fails_and_comes_back(bench: Bench) -> None:
    bench.steps_total = 10_000
    first, second = bench.engine.gpus
    bench.service.drain(first, DrainOrder("a fan", sure=True), ROOT)
    bench.turn()
    bench.engine.lose(first)
    bench.turn(3)
    bench.engine.down.clear()
    bench.turn(3)
    jobs = [bench.submit(gpus=1) for _ in range(6)]
    bench.turn(30)
    assert {bench.engine.statuses[name].node for name in bench.engine.running()} == {second}
    bench.restart()
    bench.turn(10)
    assert {bench.engine.statuses[name].node for name in bench.engine.running()} == {second}
    bench.service.resume(first, ROOT)
    bench.until(lambda: len(bench.engine.running()) == len(jobs))


def test_what_runs_on_a_drained_node_moves(bench: Bench) -> None:
    bench.steps_total = 10_000
    job = bench.submit(gpus=2)
    bench.until_trains(job)
    (node,) = {bench.engine.statuses[name].node for name in bench.engine.running()}
    bench.service.drain(node, DrainOrder("a fan", sure=True), ROOT)
    shown = {at.name: at for at in bench.service.nodes()}
    assert (shown[node].state, shown[node].reason, shown[node].by) == ("draining", "a fan", "root")
    assert [at.since_s for at in shown.values() if at.name != node] == [None]

    def has_moved() -> bool:
        nodes = [bench.engine.statuses[name].node for name in bench.engine.running()]
        return len(nodes) == 2 and node not in nodes

    bench.until(has_moved)
    assert bench.job(job).failures == 0
    bench.until(lambda: node not in {at for at, _ in bench.gangs.holding()})
    assert {at.name: at.state for at in bench.service.nodes()}[node] == "drained"
    bench.turn()

    def told() -> list[str]:
        return [event.kind for event in bench.store.events(only=RecordFilter(node=node)).items]

    assert told() == ["node drained", "node empty"]
    bench.restart()
    bench.turn(3)
    assert told() == ["node drained", "node empty"], "once"


@pytest.mark.parametrize("mode", ["in-place", pytest.param("restart", marks=on_demand)])
def test_what_runs_beside_idle_gpus_of_a_faster_type_moves_there(tmp_path: Path, mode: str) -> None:
    bench = Bench(tmp_path, "1x4:A100+1x4:T4")
    bench.steps_total = 10_000
    if mode == "restart":
        script(bench, lasts=10_000)
    fast, slow = bench.engine.gpus
    bench.service.drain(fast, DrainOrder("", sure=True), ROOT)
    bench.turn()
    job = bench.submit(rescale=mode, **MODES[mode])
    bench.until_trains(job)
    assert {bench.engine.statuses[name].node for name in bench.engine.running()} == {slow}
    bench.service.resume(fast, ROOT)
    bench.until(lambda: {bench.engine.statuses[name].node for name in bench.engine.running()} == {fast})
    steps = bench.controller.jobs[job].steps
    bench.until(lambda: bench.controller.jobs[job].steps > steps)
    assert bench.service.job(job).record.gpu_type == "A100"
    assert bench.job(job).failures == 0
    bench.restart()  # the next controller finds it where it is
    bench.turn(5)
    assert bench.service.job(job).record.gpu_type == "A100"
    assert bench.job(job).failures == 0
    bench.close()


def test_gpus_that_are_no_longer_there_are_given_back(bench: Bench, tmp_path: Path) -> None:
    from powerflow.cluster.spec import parse_cluster

    bench.steps_total = 10_000
    jobs = [bench.submit(gpus=4), bench.submit(gpus=4)]
    bench.until(lambda: len(bench.engine.running()) == 8)
    bench.die()
    bench.spec = parse_cluster("1x4:A100")
    del bench.engine.gpus[list(bench.engine.gpus)[1]]
    bench.start()
    bench.until(lambda: sorted(bench.job(job).state for job in jobs) == [Q, R])
    bench.until(lambda: len(bench.engine.running()) == 4)
    assert {bench.engine.statuses[name].node for name in bench.engine.running()} == set(bench.engine.gpus)


def test_what_runs_on_cards_whose_type_has_another_name_by_now_runs_on(bench: Bench) -> None:
    """An earlier version took PCIe cards for those of the catalogue; a later one tells them apart."""
    from powerflow.cluster.spec import ClusterSpec

    bench.steps_total = 1_000_000
    job = bench.submit(gpus=4, model="resnet50")
    bench.until_trains(job)
    ranks = bench.engine.running()
    bench.die()
    shutil.rmtree(bench.directory / "emulated")
    nodes = tuple(dataclasses.replace(node, gpu_type="V100") for node in bench.spec.nodes)
    bench.spec = ClusterSpec(bench.spec.source, nodes)
    bench.start()
    bench.until_trains(job)
    bench.turn(20)
    assert bench.engine.running() == ranks, "nothing was started anew"
    assert (bench.job(job).state, bench.job(job).failures) == (R, 0)
    assert bench.controller.jobs[job].gpu_type == "V100"
    assert bench.service.explain(job).now is not None


def test_a_job_whose_gpus_are_of_a_type_that_is_gone_waits_and_can_be_explained(bench: Bench) -> None:
    from powerflow.cluster.spec import parse_cluster

    bench.steps_total = 1_000_000
    jobs = [bench.submit(gpus=4, model="resnet50"), bench.submit(gpus=4, model="resnet50")]
    bench.until(lambda: len(bench.engine.running()) == 8)
    bench.die()
    bench.spec = parse_cluster("1x4:V100")
    bench.engine.gpus.clear()
    bench.engine.gpus.update({node.name: node.gpus for node in bench.spec.nodes})
    bench.start()
    for job in jobs:
        assert bench.service.explain(job).now is None
    bench.until(lambda: sorted(bench.job(job).state for job in jobs) == [Q, R])
    for job in jobs:
        assert bench.service.explain(job).sentence
        assert bench.job(job).failures == 0
