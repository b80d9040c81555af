"""``powerflow elastic``: check training scripts for elastic jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from powerflow.cli.options import Json
from powerflow.cli.output import console, print_json

app = typer.Typer(no_args_is_help=True)


@app.callback()
def elastic() -> None:
    """Check training scripts for elastic jobs (rescale: in-place)."""


@app.command("check")
def check(
    script: Annotated[
        Path, typer.Argument(metavar="SCRIPT", help="Training script. Files beside it that it imports are read, too.")
    ],
    json: Json = False,
) -> None:
    """Say, line by line, what in a script breaks or goes wrong when its GPUs change in place.

    The script is read, not run. The exit code is 0 if nothing was found, and 1 otherwise.
    """
    from powerflow.elastic.check.report import check as check_script

    report = check_script(script)
    if json:
        print_json("elastic_check", {**report._asdict(), "findings": [one._asdict() for one in report.findings]})
    else:
        out = console()
        for one in report.findings:
            out.print(f"{one.file}:{one.line}: {one.what} [{one.rule}]\n    better: {one.fix}", soft_wrap=True)
        count = len(report.findings)
        out.print(f"{script}: {count or 'nothing'} found. Not seen by this check:", soft_wrap=True)
        for what in report.not_seen:
            out.print(f"    {what}", soft_wrap=True)
    if report.findings:
        raise typer.Exit(1)
