"""``powerflow logs``: print the log of a job."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Job, asks, note
from powerflow.cli.cluster.log_reader import LogPiece, LogReader
from powerflow.cli.options import Json
from powerflow.cli.output import json_line
from powerflow.cli.sanitize import LogText
from powerflow.cli.when import past
from powerflow.errors import InputError


@asks
def logs(
    controller: ControllerClient,
    job: Job,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue to print until the job ends.")] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", metavar="LINES", min=0, help="Print only the last lines.")
    ] = None,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="Print only the log of the start before the last one.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Print only what was written since then: 10m (ago), or 2026-11-28T10:00."),
    ] = None,
    rank: Annotated[
        str | None,
        typer.Option(help="Name of a rank, as powerflow describe shows it. Default: the first rank of each start."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print the log unchanged, with colours and all other control sequences.")
    ] = False,
    json: Json = False,
) -> None:
    """Print the log of a job: its stdout and stderr. Control characters appear as text, unless --raw is given.

    The logs of all starts of the job are printed, the earliest first. A line on stderr says where each of them begins.

    With --json, print the log in parts: one JSON object per line, with the part's offset.
    """
    if previous and rank is not None:
        raise InputError("--rank names one log, so --previous says nothing", fix="give one of them")
    since_s = None if since is None else past(since, "--since", time.time())
    asked = controller.following(note) if follow else controller
    reader = LogReader(asked, job, follow=follow, tail=tail, since_s=since_s, note=note)
    printer = _Printer(raw=raw, json=json)
    piece = None
    for piece in reader.of_rank(rank) if rank else reader.of_previous() if previous else reader.of_job():
        printer.show(piece)
    if piece is None:
        note(f"job {job} has no log: it has not started, or its logs are not kept any more")
    if reader.left_out is not None:
        raise reader.left_out


class _Printer:
    """Prints pieces of logs on stdout, and what is to be said of them on stderr."""

    def __init__(self, *, raw: bool, json: bool) -> None:
        self._raw, self._json = raw, json
        self._rank = ""  # of the log that is being printed
        self._shown = LogText()
        self._at_start = True  # of a line

    def show(self, piece: LogPiece) -> None:
        """Print a piece of a log; before the first output of each log, its heading."""
        chunk = piece.chunk
        if chunk.rank != self._rank and (chunk.text or chunk.dropped):
            self._begin(piece)
        if chunk.dropped:
            note(f"output of rank {chunk.rank} before this is not kept any more")
        if not self._json:
            self._write(chunk.text if self._raw else self._shown.piece(chunk.text, last=chunk.ended))
        elif chunk.text or chunk.ended or chunk.dropped:
            print(json_line("log", chunk))
        sys.stdout.flush()

    def _begin(self, piece: LogPiece) -> None:
        if not (self._json or self._raw):
            self._write(self._shown.piece("", last=True))
            if not self._at_start:
                self._write("\n")
            self._shown = LogText()
        self._rank = piece.chunk.rank
        sys.stdout.flush()
        if piece.heading:
            note(piece.heading)

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        self._at_start = text.endswith("\n") if text else self._at_start
