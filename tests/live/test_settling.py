"""A controller that ends in order leaves no job between two placements."""

from __future__ import annotations

import threading

import pytest

from powerflow.api.governance import DrainOrder
from powerflow.engine.protocol import EngineError
from tests.live.controller_bench import ROOT, Bench
from tests.live.kinds import MODES, script


class Ticking(threading.Event):
    """Nobody is in a hurry, and time passes whenever somebody asks."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self._bench = bench

    def is_set(self) -> bool:
        self._bench.engine.tick()
        self._bench.controller._bell.set()  # nobody waits for real time
        return super().is_set()


def moving(bench: Bench, mode: str) -> tuple[str, str]:
    """A job that has just been told to leave its node, and the node."""
    bench.steps_total = 100_000
    if mode == "restart":
        script(bench, lasts=100_000)
    job = bench.submit(rescale=mode, **MODES[mode])
    bench.until_trains(job)
    assert bench.controller.settle(0.0, threading.Event()) == []
    bench.controller._draining = False
    (node,) = {bench.engine.statuses[name].node for name in bench.engine.running(job)}
    bench.service.drain(node, DrainOrder("a fan", sure=True), ROOT)
    bench.until(lambda: bench.gangs.on_their_way() == [job])
    return job, node


def nodes(bench: Bench, job: str) -> set[str]:
    return {bench.engine.statuses[name].node for name in bench.engine.running(job)}


@pytest.mark.parametrize("mode", ["in-place", "restart"])
def test_what_has_begun_is_finished_even_if_the_engine_fails_in_between(bench: Bench, mode: str) -> None:
    job, node = moving(bench, mode)
    bench.engine.refusals = [EngineError("the agent is away", retry=True) for _ in range(3)]
    assert bench.controller.settle(600.0, Ticking(bench)) == []
    assert not bench.engine.refusals, "it failed three times"
    arrived = bench.engine.running(job)
    assert node not in nodes(bench, job)
    assert len(arrived) == bench.controller.jobs[job].gpus
    assert not [place for place in bench.gangs.holding() if place[0] == node]
    bench.controller.finish()
    bench.restart()
    steps = bench.controller.jobs[job].steps
    bench.until(lambda: bench.controller.jobs[job].steps > steps)
    assert bench.engine.running(job) == arrived, "the next controller disturbs nobody"


def test_nothing_new_is_decided_meanwhile(bench: Bench) -> None:
    job, _ = moving(bench, "restart")
    late = bench.submit(run="sleep 1000", rescale="none", gpus=1)
    assert bench.controller.settle(600.0, Ticking(bench)) == []
    assert nodes(bench, job)
    assert not nodes(bench, late), "the next controller starts it"


def test_who_is_in_a_hurry_is_told_what_is_left_and_the_next_controller_goes_on(bench: Bench) -> None:
    job, node = moving(bench, "restart")
    hurry = threading.Event()
    hurry.set()
    assert bench.controller.settle(600.0, hurry) == [job]
    bench.controller.finish()
    bench.restart()
    bench.until(lambda: bool(nodes(bench, job) - {node}) and node not in nodes(bench, job))


def test_a_node_that_does_not_answer_is_not_waited_for(bench: Bench) -> None:
    bench.steps_total = 100_000
    job = bench.submit(gpus=1)
    bench.until_trains(job)
    (node,) = nodes(bench, job)
    bench.engine.cut(node)
    bench.turn(3)
    assert bench.controller.settle(0.0, threading.Event()) == []
