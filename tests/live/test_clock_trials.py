"""Clocks that a live cluster tries, to learn what jobs cost there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from powerflow.api.pages import RecordFilter
from powerflow.api.records import JobState
from powerflow.cluster.occupancy import NodeShare
from powerflow.cost.clock_choice import three_clocks
from powerflow.cost.learn import Learner
from powerflow.gangs.types import Progressed
from powerflow.live.jobs.step_timing import clocks_to_try
from tests.gangs.fake_engine import Script
from tests.gangs.fake_rank import Habits
from tests.live.controller_bench import Bench
from tests.live.kinds import Q, script


def test_nobody_tries_clocks_who_says_nothing_of_its_steps(bench: Bench) -> None:
    bench.engine.play = lambda spec: Script(10_000)
    job = bench.submit(rescale="none", gpus=1)
    bench.turn(50)
    active = bench.controller.jobs[job]
    assert active.explore_mhz
    assert set(bench.clocks.set_mhz.values()) == {active.clock_mhz}


@pytest.mark.parametrize(
    ("keys", "most"),
    [({"priority": "protected"}, 0.0), ({"priority": "protected", "energy": {"max_slowdown": "60%"}}, 0.6),
     ({"energy": {"max_slowdown": "10%"}}, 0.1), ({}, None)],
)  # fmt: skip
def test_no_clock_is_tried_that_could_slow_a_job_beyond_its_bound(bench: Bench, keys: Any, most: float | None) -> None:
    bench.steps_total = 10_000
    top = float(bench.axes["A100"].clocks_mhz[-1])
    job = bench.submit(gpus=1, **keys)
    bench.until_trains(job)
    active = bench.controller.jobs[job]
    tried: set[float] = set()
    planned = set(clocks_to_try(active, bench.controller.learning, bench.axes["A100"], 20))
    for _ in range(200):
        bench.turn()
        if not active.explore_mhz:
            break
        if active.window is not None:
            tried |= set(bench.clocks.set_mhz.values())
    assert not active.explore_mhz or most  # with a limit the same clocks are measured again
    for clock in planned:
        assert most is None or top / clock <= 1.0 + most + 1e-9
    if most is None:
        assert len(tried) >= 3
    learned = bench.controller.learning._measured[active.kind.name, "A100"]
    assert {clock for gpus, clock in learned if gpus == 1} >= planned


def test_a_trial_is_worth_the_steps_that_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs: set[float] = set()

    def tried(self: Learner, cost_class: str, gpu_type: str, gpus: int, steps: float, **_: Any) -> list[float]:
        costs.add(steps)
        return []

    monkeypatch.setattr(Learner, "clocks_to_try", tried)
    bench = Bench(tmp_path, explore_steps=7)
    bench.until_trains(bench.submit(gpus=1))
    assert costs == {7}


def test_ranks_that_report_another_batch_try_all_clocks_at_it(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    job = bench.submit(gpus=1)
    bench.until_trains(job)
    bench.until(lambda: not bench.controller.jobs[job].explore_mhz)
    active = bench.controller.jobs[job]
    report = Progressed(job, 50, None, 1, 1, 1, 50, 5.0, local_batch=32, global_batch=32)  # so far it was 64
    bench.controller._gang_events._step_learning._learn_batch(report, active, bench.controller.clock())
    mhz = bench.axes["A100"].clocks_mhz
    assert set(active.explore_mhz) == {float(mhz[k]) for k in three_clocks(len(mhz))}


def test_what_one_has_tried_others_of_its_class_need_not(bench: Bench) -> None:
    bench.steps_total = 10_000
    jobs = [bench.submit(name=f"run-{n}", gpus=1) for n in range(4)]
    for job in jobs:
        bench.until_trains(job)
    bench.until(lambda: not any(active.explore_mhz for active in bench.controller.jobs.values()))
    seen = bench.store.observations.all()
    assert len({row.observation.clock_mhz for row in seen}) >= 1


def test_a_rank_that_crashes_is_replaced(bench: Bench) -> None:
    bench.steps_total = 60
    habits = iter([Habits(crashes_at=20)])
    bench.engine.play = lambda spec: bench.engine.fake_rank(spec, bench.steps_total, next(habits, None))
    job = bench.submit(gpus=2)
    bench.until_state(job, JobState.COMPLETED)
    kinds = [event.kind for event in bench.store.events(limit=1000, only=RecordFilter(job_id=job)).items]
    assert "rank lost" in kinds
    assert bench.job(job).failures == 0


def test_draining_lets_all_save_and_leave_without_spinning(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.steps_total = 10_000
    job = bench.submit(gpus=2)
    bench.until_trains(job)
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        bench.engine.tick()
        return True

    monkeypatch.setattr(bench.controller._bell, "wait", wait)
    assert bench.controller.drain(60.0)
    assert not bench.engine.running()
    assert bench.job(job).state is Q
    assert min(waits) > 0.0
    bench.controller.finish()
    bench.close()
    bench.start()
    bench.until(lambda: bool(bench.engine.running(job)))


def test_one_process_waits_until_a_node_has_all_its_gpus(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    script(bench)
    pool = bench.controller.scheduler.pools["A100"]
    nodes = [node.name for node in pool.occupancy.nodes]
    real, spread = pool.occupancy.placement, [(NodeShare(nodes[0], (0,)), NodeShare(nodes[1], (0,)))]
    monkeypatch.setattr(pool.occupancy, "placement", lambda owner: spread.pop() if spread else real(owner))
    job = bench.submit(rescale="none", gpus=2)
    bench.until_state(job, JobState.COMPLETED)
    assert not spread
    assert bench.job(job).failures == 0
