"""``powerflow queue``: list jobs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.api.records import JobState
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Watch, asks
from powerflow.cli.options import Json
from powerflow.cli.watch import show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from powerflow.api.records import JobRecord

_ORDER = list(JobState)
_ACTIVE = [state for state in JobState if not state.ended]


@asks
def queue(
    controller: ControllerClient,
    state: Annotated[
        list[JobState] | None, typer.Option("--state", help="Show only jobs in this state; may be repeated.")
    ] = None,
    all: Annotated[bool, typer.Option("--all", "-a", help="Show also jobs that have ended.")] = False,
    user: Annotated[str | None, typer.Option(help="Show only jobs of this user.")] = None,
    project: Annotated[str | None, typer.Option(help="Show only jobs of this project.")] = None,
    limit: Annotated[int | None, typer.Option(help="Show at most this number of jobs, the newest ones.", min=1)] = None,
    json: Json = False,
    watch: Watch = None,
) -> None:
    """List jobs with their GPUs, clock, progress and expected end, and the reason for this state."""
    states = state or ([] if all else _ACTIVE)

    def read() -> list[JobRecord]:
        found = controller.jobs(states=states, limit=limit, user=user, project=project)
        return sorted(found, key=lambda job: (job.state is not JobState.RUNNING, _ORDER.index(job.state)))

    show("jobs", read, _draw, json=json, every_s=watch)


def _draw(jobs: list[JobRecord], width: int) -> RenderableType:
    from powerflow.cli.cluster.array_rows import collapsed
    from powerflow.cli.cluster.job_table import job_table

    return job_table(collapsed(jobs), width, time.time()) if jobs else "no jobs"
