"""``powerflow top``: show the present state of the cluster."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.api import operations as ops
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Watch, asks
from powerflow.cli.options import Json
from powerflow.cli.show import show
from powerflow.cli.terminal import has_terminal
from powerflow.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from powerflow.api.records import Top

#: Seconds between two looks of the live view, unless --watch names another number; and of one job, at least.
_EVERY_S, _JOB_EVERY_S = 2.0, 4.0


@asks
def top(
    controller: ControllerClient,
    once: Annotated[bool, typer.Option("--once", help="Print a table once, also on a terminal.")] = False,
    json: Json = False,
    watch: Watch = None,
) -> None:
    """Show the cluster: GPUs and nodes, power, energy, budgets, and the jobs that run and wait.

    On a terminal, the view is live: s sorts, / filters, Enter opens a job (why, details, log), n shows nodes and GPUs,
    q ends. In a pipe, or with --once, print a table once.
    """
    if once and watch is not None:
        raise InputError("--once prints one table, --watch many", where="--watch", fix="give one of them")
    if not (once or json) and has_terminal() and os.environ.get("TERM", "dumb") != "dumb":
        _live(controller, watch or _EVERY_S)
    else:
        show("top", lambda: controller.ask(ops.TOP), draw, lambda found: found, json=json, every_s=watch)


def _live(controller: ControllerClient, every_s: float) -> None:
    """Show the live view until the user ends it.

    Raises:
        InputError: The controller does not answer at first, or answers with an error later.
    """
    # Textual takes 0.3 s of CPU to import: no other command pays for it
    from powerflow.cli.cluster.live_top.app import TopApp
    from powerflow.cli.cluster.live_top.cluster_look import ClusterLook, look
    from powerflow.cli.cluster.live_top.job_screen import JobLook, look_at_job
    from powerflow.cli.cluster.live_top.repeated import RepeatedQuestion

    def of_job(job_id: str) -> RepeatedQuestion[JobLook]:
        job_s = max(every_s, _JOB_EVERY_S)
        asked: RepeatedQuestion[JobLook] = RepeatedQuestion(lambda: look_at_job(following, job_id), job_s)
        following = controller.following(asked.note)
        return asked

    cluster: RepeatedQuestion[ClusterLook] = RepeatedQuestion(lambda: look(lasting), every_s)
    lasting = controller.following(cluster.note)
    cluster.first()
    app = TopApp(cluster, every_s, of_job)
    app.run()
    if app.failed is not None:
        raise app.failed
    if app.return_code:  # it was ended by a signal
        raise typer.Exit(app.return_code)


def draw(found: Top, width: int) -> RenderableType:
    """Draw the state of the cluster for a terminal of ``width`` characters."""
    from rich.console import Group
    from rich.text import Text

    from powerflow.cli.cluster.cluster_head import head_lines, notice_lines
    from powerflow.cli.cluster.job_table import job_table, noted

    lines = [*head_lines(found), *notice_lines(found)]
    if not found.jobs:
        return noted(Group(*lines), found.emulated)
    return Group(*lines, Text(), job_table(found.jobs, width, found.time_s))
