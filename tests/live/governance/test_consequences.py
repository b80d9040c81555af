"""What would stop work, or cannot be kept, is said before it is done, and is done only for who is sure."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from powerflow.api.governance import BudgetOrder, CapOrder, DrainOrder
from powerflow.api.records import NotSure
from powerflow.api.stages import Stage, StageOrder
from powerflow.live.consequences import UNKNOWN
from powerflow.units import power
from tests.live.controller_bench import ROOT, Bench
from tests.live.governance.test_caps import JOB, busy, go

KWH = 3.6e6


def refusal(change: Callable[[], object]) -> str:
    """Why a change is not made."""
    with pytest.raises(NotSure) as error:
        change()
    return error.value.what


def budget(kwh: float, project: str = "", *, sure: bool = False) -> BudgetOrder:
    return BudgetOrder(kwh * KWH, "day", "UTC", project, sure)


def test_a_budget_below_what_idle_gpus_draw_is_said_with_the_figure(bench: Bench) -> None:
    idle_w = bench.controller.governance.budgets.idle_w
    said = refusal(lambda: bench.service.set_budget(budget(5.0), ROOT))
    assert said == f"idle GPUs alone draw {idle_w * 24 / 1000:.4g} kWh a day, so it cannot be kept"
    assert bench.service.budgets() == []
    assert bench.service.audit().items == []
    assert bench.service.set_budget(budget(5.0, sure=True), ROOT).amount_j == 5.0 * KWH
    idle_kwh = idle_w * 24 / 1000
    assert bench.service.set_budget(budget(1.1 * idle_kwh), ROOT).by == "root", "idle GPUs leave a tenth of it"


def test_a_budget_that_is_used_up_already_is_said(bench: Bench) -> None:
    job = bench.submit(project="vision", **JOB)
    bench.until_trains(job)
    busy(bench)
    used_kwh = bench.service.accounts(since_s=0.0, until_s=2e9, by="project").items[-3].energy_j / KWH
    bench.turn(30)  # until it is stored
    said = refusal(lambda: bench.service.set_budget(budget(0.001, "vision"), ROOT))
    assert "are used until 2001-09-10 00:00, so it cannot be kept before then" in said or "would be paused" in said
    assert used_kwh >= 0.0


def test_a_budget_that_pauses_jobs_now_names_them(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    jobs = [bench.submit(gpus="4", batch={"global": 64}) for _ in range(2)]
    for job in jobs:
        bench.until_trains(job)
    idle_kwh = bench.controller.governance.budgets.idle_w * 24 / 1000
    said = refusal(lambda: bench.service.set_budget(budget(1.01 * idle_kwh), ROOT))
    assert said.endswith(" would be paused")
    paused = [job for job in jobs if job in said.split()]
    bench.service.set_budget(budget(1.01 * idle_kwh, sure=True), ROOT)
    bench.turn(10)
    assert [job for job in jobs if not bench.controller.jobs[job].placement] == paused


def test_a_cap_below_what_idle_gpus_draw_or_that_pauses_jobs_is_said(bench: Bench) -> None:
    before_w = busy(bench)
    said = refusal(lambda: bench.service.set_cap(CapOrder(watts=100.0), ROOT))
    assert said.startswith("idle GPUs and nodes of cluster alone draw ")
    assert "so it cannot be kept; jobs 1, 2 and 3 would be paused" in said
    assert bench.service.caps() == []
    assert bench.service.set_cap(CapOrder(watts=0.7 * before_w), ROOT).number == 1, "jobs are only slowed"


def test_a_cap_to_come_is_said_now(bench: Bench) -> None:
    busy(bench)
    start_s = bench.controller.clock() + 3600.0
    said = refusal(lambda: bench.service.set_cap(CapOrder(watts=100.0, start_s=start_s), ROOT))
    assert "would be paused" in said


def test_a_stage_that_keeps_no_cap_and_no_budget_any_more_is_said(bench: Bench) -> None:
    bench.service.set_cap(CapOrder(watts=6000.0), ROOT)
    bench.service.set_budget(budget(100.0, sure=True), ROOT)
    bench.service.set_budget(budget(40.0, "vision", sure=True), ROOT)
    assert refusal(lambda: bench.service.set_stage(StageOrder(Stage.OBSERVE), ROOT)) == (
        "the power cap of 6 kW on cluster would not be kept;"
        " the budget of the cluster (100 kWh a day) would not be kept;"
        " the budget of project vision (40 kWh a day) would not be kept"
    )
    assert refusal(lambda: bench.service.set_stage(StageOrder(Stage.SHADOW, ["vision"]), ROOT)) == (
        "the budget of project vision (40 kWh a day) would not be kept"
    )
    assert bench.service.stages()[0].stage is Stage.ENFORCE
    bench.service.set_stage(StageOrder(Stage.SHADOW, ["speech"]), ROOT)
    bench.service.set_stage(StageOrder(Stage.OBSERVE, sure=True), ROOT)
    bench.service.set_stage(StageOrder(Stage.SHADOW), ROOT)  # nothing is kept now, and nothing less then


def test_a_stage_that_lets_running_jobs_go_is_said_with_the_watts(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    job = bench.submit(project="vision", gpus="2", batch={"global": 64})
    bench.until_trains(job)
    off = StageOrder(Stage.OBSERVE)
    assert refusal(lambda: bench.service.set_stage(off, ROOT)) == "1 running job would not be managed any more"
    go(bench, 40)
    bench.service.set_cap(CapOrder(share=0.85), ROOT)  # it runs slower, and less is drawn
    go(bench, 10)
    said = refusal(lambda: bench.service.set_stage(off, ROOT)).partition("; ")[2]
    watts = bench.controller.learning.table(bench.controller.jobs[job].kind.name, "A100").power_w
    axes = bench.axes["A100"]
    count = axes.gpu_counts.tolist().index(2)
    clock = axes.clocks_mhz.tolist().index(bench.controller.jobs[job].clock_mhz)
    more_w = watts[count, -1] - watts[count, clock]
    assert more_w > 10.0
    assert said == f"1 running job would not be managed any more, and would draw {power(more_w)} more"
    bench.service.set_stage(StageOrder(Stage.SHADOW, ["speech"]), ROOT)  # it has no job
    bench.service.set_stage(StageOrder(Stage.CANARY, ["vision"]), ROOT)  # it is managed still


def test_a_drain_that_nobody_feels_is_done_and_any_other_is_said(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    first, second = bench.engine.gpus
    job = bench.submit(gpus="1", rescale="none", run="sleep 1000")
    bench.until(lambda: bool(bench.engine.running()))
    (node,) = {bench.engine.statuses[name].node for name in bench.engine.running()}
    said = refusal(lambda: bench.service.drain(node, DrainOrder("a fan"), ROOT))
    assert said == f"job {job} cannot resume and would begin anew"
    bench.service.drain(second if node == first else first, DrainOrder("a fan"), ROOT)
    assert {at.name: at.state for at in bench.service.nodes()}[node] == "up"


def test_a_loop_that_does_not_answer_is_said_not_to(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.controller, "inquire", lambda question: None)
    assert refusal(lambda: bench.service.drain(next(iter(bench.engine.gpus)), DrainOrder(), ROOT)) == UNKNOWN
