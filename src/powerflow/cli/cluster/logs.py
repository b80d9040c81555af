"""``powerflow logs``: print the log of a job."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from powerflow.api import operations as ops
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Job, asks
from powerflow.cli.options import Json
from powerflow.cli.output import json_line
from powerflow.cli.sanitize import LogText

#: Seconds between two reads of a log with --follow.
_LOOK_S = 0.5


@asks
def logs(
    controller: ControllerClient,
    job: Job,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue to print until the job ends.")] = False,
    rank: Annotated[
        str | None, typer.Option(help="Name of a rank, as powerflow describe shows it. Default: the first rank.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print the log unchanged, with colours and all other control sequences.")
    ] = False,
    json: Json = False,
) -> None:
    """Print the log of a job: its stdout and stderr. Control characters appear as text, unless --raw is given.

    With --json, print the log in parts: one JSON object per line, with the part's offset.
    """
    offset, shown = 0, LogText()
    while True:
        chunk = controller.ask(ops.LOG, job_id=job, rank=rank, offset=offset, limit=1 << 20)
        if not json:
            sys.stdout.write(chunk.text if raw else shown.piece(chunk.text, last=chunk.ended))
        elif chunk.text or chunk.ended:
            print(json_line("log", chunk))
        sys.stdout.flush()
        moved = chunk.offset > offset
        offset = chunk.offset
        if chunk.ended or not (moved or follow):
            return
        if not moved:
            time.sleep(_LOOK_S)
