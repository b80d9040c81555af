"""Run time goes one way: a job is changed through its table, and the loop hears of the API by typed commands."""

from __future__ import annotations

import ast
import dataclasses
import sys
from pathlib import Path
from typing import Any, cast

import pytest

import powerflow.live
from powerflow.api.governance import DrainOrder
from powerflow.live.commands import ApiCommand, JobEnded, JobHeld, JobReleased, JobSubmitted
from powerflow.live.jobs.active_job import ActiveJob, StepWindow
from powerflow.live.jobs.job_table import JobTable
from tests.live.controller_bench import ADA, ROOT, Bench

ROOM = Path(powerflow.live.__file__).parent
FIELDS = {field.name for kind in (ActiveJob, StepWindow) for field in dataclasses.fields(kind)}


def written(tree: ast.AST) -> list[str]:
    """Attributes of others than ``self`` that a module assigns to, with their lines."""
    targets: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets.append(node.target)
        elif isinstance(node, ast.Delete):
            targets += node.targets
    flat = [each for target in targets for each in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [
        f"line {each.lineno}: {ast.unparse(each)}"
        for each in flat
        if isinstance(each, ast.Attribute) and not (isinstance(each.value, ast.Name) and each.value.id == "self")
        if each.attr in FIELDS
    ]


def test_no_module_outside_its_room_writes_to_a_job() -> None:
    paths = [path for path in ROOM.rglob("*.py") if path.parent.name not in ("jobs", "gpus")]  # `gpus` lies below jobs
    assert ROOM / "plan_executor.py" in paths
    assert {str(path): lines for path in paths if (lines := written(ast.parse(path.read_text())))} == {}
    assert written(ast.parse("job.steps, x = 1, 2\ndel job.window\njob.energy_j += 1.0")), "the test sees them"


def test_no_public_container_of_the_table_can_be_changed(bench: Bench) -> None:
    public = {name: value for name, value in vars(bench.controller._table).items() if not name.startswith("_")}
    assert public.keys() == {"jobs", "completing", "pending"}
    for view in public.values():
        with pytest.raises(TypeError):
            view["1"] = None
    properties = [name for name, value in vars(JobTable).items() if isinstance(value, property)]
    assert properties == ["has_events"]


def test_in_a_whole_life_a_job_is_written_by_its_own_room_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    writers: set[str] = set()
    real = ActiveJob.__setattr__

    def watched(job: ActiveJob, name: str, value: Any) -> None:
        writers.add(sys._getframe(1).f_globals["__name__"])
        real(job, name, value)

    monkeypatch.setattr(ActiveJob, "__setattr__", watched)
    bench.steps_total = 200
    job = bench.submit(gpus="1..4", batch={"global": 64})
    bench.until_trains(job)
    bench.service.hold(job, ADA)
    bench.until(lambda: not bench.engine.running())
    bench.restart()
    bench.service.release(job, ADA)
    bench.until(lambda: bool(bench.controller.jobs[job].training))
    bench.service.drain(bench.controller.jobs[job].placement[0][0], DrainOrder("", sure=True), ROOT)
    bench.until(lambda: not bench.controller.jobs)
    assert {name for name in writers if not name.startswith("powerflow.live.jobs.")} <= {"copy"}
    assert "powerflow.live.jobs.active_job" in writers


def test_an_unknown_command_is_an_error(bench: Bench) -> None:
    with pytest.raises(AssertionError, match="unreachable"):
        bench.controller._commands.carry_out(cast(ApiCommand, "ended"), 0.0)


@pytest.mark.parametrize("command", [JobEnded("7"), JobHeld("7"), JobReleased("7")])
def test_a_command_about_a_job_that_is_not_active_changes_nothing(bench: Bench, command: ApiCommand) -> None:
    bench.controller.tell(command)
    bench.turn()
    assert not bench.controller._commands
    assert not bench.controller.jobs


def test_a_command_that_cannot_be_carried_out_now_waits_with_those_after_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from powerflow.store.database import StoreError

    real = bench.store.job

    def fails(job_id: str) -> Any:
        raise StoreError("disk is full", retry=True)

    bench.steps_total = 10_000
    job = bench.submit(gpus=1)
    monkeypatch.setattr(bench.store, "job", fails)
    bench.controller.tell(JobSubmitted(job))
    bench.turn()
    assert not bench.controller.jobs
    assert bench.controller.notices.shown()["commands"] == "disk is full"
    monkeypatch.setattr(bench.store, "job", real)
    bench.turn()
    assert job in bench.controller.jobs
    assert "commands" not in bench.controller.notices.shown()
