"""``powerflow queue``: list jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.api.records import JobState
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Watch, asks
from powerflow.cli.cluster.state_word import state_word
from powerflow.cli.options import Json
from powerflow.cli.show import show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from powerflow.api.records import JobRecord

_ACTIVE = [state for state in JobState if not state.ended]


class ShownState(StrEnum):
    """State of a job as ``queue`` shows it, in the order in which it shows them."""

    RUNNING = "running"
    COMPLETING = "completing"
    QUEUED = "queued"
    HELD = "held"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@asks
def queue(
    controller: ControllerClient,
    state: Annotated[
        list[ShownState] | None, typer.Option("--state", help="Show only jobs in this state; may be repeated.")
    ] = None,
    all: Annotated[bool, typer.Option("--all", "-a", help="Show also jobs that have ended.")] = False,
    user: Annotated[str | None, typer.Option(help="Show only jobs of this user.")] = None,
    project: Annotated[str | None, typer.Option(help="Show only jobs of this project.")] = None,
    limit: Annotated[int | None, typer.Option(help="Show at most this number of jobs, the newest ones.", min=1)] = None,
    json: Json = False,
    watch: Watch = None,
) -> None:
    """List jobs with their GPUs, clock, progress and expected end, and the reason for this state."""
    shown = state or ([] if all else [ShownState(each) for each in _ACTIVE] + [ShownState.COMPLETING])

    def read() -> list[JobRecord]:
        states, completing = _asked(shown)
        found = controller.jobs(states=states, completing=completing, limit=limit, user=user, project=project)
        of = {job.id: ShownState(state_word(job)) for job in found}
        order = list(ShownState)
        return sorted((job for job in found if of[job.id] in (shown or order)), key=lambda job: order.index(of[job.id]))

    show("jobs", read, _draw, json=json, every_s=watch)


def _draw(jobs: list[JobRecord], width: int) -> RenderableType:
    from powerflow.cli.cluster.array_rows import collapsed
    from powerflow.cli.cluster.job_table import job_table

    return job_table(collapsed(jobs), width, time.time()) if jobs else "no jobs"


def _asked(shown: Sequence[ShownState]) -> tuple[list[JobState], bool]:
    """Return the states of the jobs to ask for, and True to ask for jobs that are completing, too.

    A job that is completing has another state: its final one, or held or queued.
    """
    states = [state for state in JobState if state.value in shown]
    completing = ShownState.COMPLETING in shown
    return [*dict.fromkeys([*states, *(_ACTIVE if completing else [])])], completing
