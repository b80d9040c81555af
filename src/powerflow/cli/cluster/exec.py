"""``powerflow exec``: open a shell beside a rank of a job, or run a command there."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from typing import Annotated

import typer

from powerflow.api import operations as ops
from powerflow.api.shells import MOST_WORDS, ShellOrder, ShellPiece, ShellTerminal
from powerflow.cli import terminal
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Job, asks
from powerflow.cli.cluster.shell_client import ShellClient
from powerflow.errors import InputError

#: How a command ended that was killed with its rank.
_KILLED = -signal.SIGKILL


@asks
def execute(
    controller: ControllerClient,
    job: Job,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND…]", help="Command to run; by default your shell.")
    ] = None,
    rank: Annotated[
        str, typer.Option(metavar="N", help="Number of the rank, or its name, as powerflow describe shows it.")
    ] = "0",
) -> None:
    """Open a shell beside a rank of a job, or run a command there.

    It runs on the node of the rank, as the user of the job, in the rank's directory and with its environment and GPUs.
    It counts as a part of the rank, and ends with it. Ctrl-C goes to the command; the exit code is that of the command.

    powerflow exec 12 · powerflow exec 12 -- nvidia-smi · powerflow exec 12 --rank 3 -- py-spy dump --pid 4242
    """
    words = tuple(command or ())
    if len(words) > MOST_WORDS:
        raise InputError(f"a command has at most {MOST_WORDS} words", where="exec")
    with ExitStack() as undo:
        undo.enter_context(terminal.ending_in_order())
        ours = _terminal() if terminal.has_terminal() else None
        shell = controller.ask(ops.OPEN_SHELL, ShellOrder(words, rank, ours), job_id=job)
        client = ShellClient(controller, shell, is_terminal=ours is not None)
        if ours is not None:
            undo.enter_context(terminal.resizing(client.size_changed))
            undo.enter_context(terminal.raw())
            if terminal.size() != (ours.rows, ours.columns):
                client.size_changed()
        last = _run(client, on_terminal=ours is not None)
    code = _KILLED if last.code is None else last.code
    code = code if code >= 0 else 128 - code
    if last.why:
        raise InputError(last.why, exit_code=code)
    raise typer.Exit(code)


def _run(client: ShellClient, *, on_terminal: bool) -> ShellPiece:
    """Run a shell, and return its last piece; let a message about another end begin on a line of its own."""
    last = None
    try:
        last = client.run()
        return last
    finally:
        if on_terminal and (last is None or last.why):
            sys.stderr.write("\r\n")
            sys.stderr.flush()


def _terminal() -> ShellTerminal:
    sys.stdout.flush()
    rows, columns = terminal.size()
    kind = os.environ.get("TERM", "")
    return ShellTerminal(kind if kind.isascii() and kind.isprintable() and " " not in kind else "", rows, columns)
