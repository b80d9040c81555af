"""Run the command line: find the requested command, run it, and return an exit code.

Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 not found, 4 refused, 5 unreachable, 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TextIO

from powerflow import __version__
from powerflow.cli.sanitize import visible
from powerflow.errors import InputError

if TYPE_CHECKING:
    import typer

FAILED, USAGE, NOT_FOUND, UNREACHABLE, INTERRUPTED = 1, 2, 3, 5, 130


@dataclass(frozen=True, slots=True)
class Command:
    """Name, summary and module of a command.

    ``attribute`` is the name of the command's function in its module, or of a `typer.Typer` with subcommands. ``home``
    is the module's name in `powerflow.cli`; "" if it is the command's name. ``group`` is the heading in the help text.
    """

    name: str
    attribute: str
    summary: str
    home: str = ""
    group: str = "Commands"

    @property
    def module(self) -> str:
        """Name of the module that defines the command. It is imported only if the user asks for this command."""
        return f"powerflow.cli.{self.home or self.name}"


LOGS = "On a log of jobs"
BESIDE = "Beside your own scheduler"
START = "Start"
JOBS = "Jobs"
STATE = "What the cluster does"
RULES = "What the cluster may do"

COMMANDS = (
    Command("simulate", "simulate", "Simulate a log of jobs under one policy.", group=LOGS),
    Command("compare", "compare", "Compare policies on the same jobs at equal energy.", group=LOGS),
    Command("replay", "replay", "Estimate what PowerFlow would have saved on your own log.", group=LOGS),
    Command("fit", "fit", "Fit cost models to measured points.", group=LOGS),
    Command("trace", "app", "Inspect, convert or generate a log of jobs.", group=LOGS),
    Command("watch", "watch", "Watch who draws what on GPUs that others give out.", "site.watch", BESIDE),
    Command("watched", "watched", "Sum up the energy of watched jobs and users.", "site.watched", BESIDE),
    Command("poc", "poc", "Say on one page what PowerFlow would save here.", "site.poc", BESIDE),
    Command("demo", "demo", "Train ten small jobs on an emulated cluster of this machine.", group=START),
    Command("serve", "serve", "Run the controller of a live cluster.", group=START),
    Command("agent", "agent", "Run the agent of this machine for a controller on another one.", group=START),
    Command("token", "app", "Make, list and revoke tokens for the controller.", group=START),
    Command("completion", "completion", "Make the shell complete commands and job numbers.", group=START),
    Command("submit", "submit", "Submit a job to the controller.", "cluster.submit", JOBS),
    Command("elastic", "app", "Check whether a script can be rescaled while it runs.", group=JOBS),
    Command("queue", "queue", "List jobs with their GPUs, clocks and progress.", "cluster.queue", JOBS),
    Command("history", "history", "List jobs that have ended, and what they used.", "cluster.history", JOBS),
    Command("describe", "describe", "Show everything that is known about a job.", "cluster.describe", JOBS),
    Command("explain", "explain", "Explain why a job has its GPUs and clock.", "cluster.explain", JOBS),
    Command("logs", "logs", "Print the log of a job.", "cluster.logs", JOBS),
    Command("exec", "execute", "Open a shell beside a job, or run a command there.", "cluster.exec", JOBS),
    Command("cancel", "cancel", "Cancel jobs.", "cluster.jobs", JOBS),
    Command("update", "update", "Change jobs that wait.", "cluster.update", JOBS),
    Command("hold", "hold", "Keep jobs from running.", "cluster.jobs", JOBS),
    Command("release", "release", "Let held jobs run again.", "cluster.jobs", JOBS),
    Command("top", "top", "Show the present state of the cluster.", "cluster.top", STATE),
    Command("acct", "acct", "Show energy charged to users, projects and jobs.", "cluster.acct", STATE),
    Command(
        "report", "report", "Sum up a month: energy, money, CO2 and jobs, as a page and CSV.", "cluster.report", STATE
    ),
    Command("events", "events", "List what happened.", "cluster.events", STATE),
    Command("audit", "audit", "List who changed what, when and from where.", "cluster.audit", STATE),
    Command("node", "app", "List, drain and resume nodes, or declare them off.", "cluster.node", STATE),
    Command("mode", "mode", "Show or set the rollout stage (observe … enforce).", "cluster.mode", RULES),
    Command("budget", "app", "Set and show energy budgets of the cluster or a project.", "cluster.budget", RULES),
    Command("cap", "app", "Set and show power caps of the cluster or a part of it.", "cluster.cap", RULES),
    Command("share", "app", "Set and show what projects are entitled to.", "cluster.share", RULES),
    Command("signal", "app", "Set and show the cost and the emissions of a kWh over time.", "cluster.signal", RULES),
)


def run() -> None:
    """Run the ``powerflow`` program with the arguments of this process."""
    sys.stdout, sys.stderr = map(_writable, (sys.stdout, sys.stderr))
    sys.exit(main(sys.argv[1:]))


def _writable(stream: TextIO | None) -> TextIO:
    """Return a stream that takes every character: "?" for those that the terminal has not, nothing if it is closed."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if isinstance(stream, TextIOWrapper):
        # in the C locale Python lets single bytes pass instead ("surrogateescape"), and takes no other character either
        stream.reconfigure(errors="replace" if stream.errors in ("strict", "surrogateescape") else stream.errors)
    return stream


def main(argv: Sequence[str]) -> int:
    """Run the command line ``argv`` (without the program's name) and return its exit code; never raise an exception."""
    try:
        code = _invoke(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader of the pipe has stopped. Python flushes stdout once more at its end, so stdout must lead somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except InputError as error:
        return _complain(str(error), error.exit_code)
    except OSError as error:
        return _complain(_system_error(error), _system_code(error))
    except MemoryError:
        return _complain("ran out of memory", FAILED)
    except Exception as error:
        if os.environ.get("POWERFLOW_DEBUG"):
            import traceback

            traceback.print_exc()
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return _complain(f"this is a bug in PowerFlow ({what}); POWERFLOW_DEBUG=1 shows where", FAILED)


def build_app(argv: Sequence[str]) -> typer.Typer:
    """Build the command line. Only the command that ``argv`` asks for is imported.

    The other commands have only a name and a summary, which is enough for ``powerflow --help`` and keeps it fast.
    """
    import typer

    from powerflow.cli.grouped import CommandGroups

    options = {"help_option_names": ["-h", "--help"]}
    app = typer.Typer(
        cls=CommandGroups, add_completion=False, rich_markup_mode=None, no_args_is_help=True, context_settings=options
    )

    @app.callback()
    def powerflow(
        version: bool = typer.Option(False, "--version", is_eager=True, callback=_version, help="Say which version."),
    ) -> None:
        """An energy-aware scheduler for clusters of GPUs that train deep-learning models."""

    asked = next((word for word in argv if not word.startswith("-")), None)
    for command in COMMANDS:
        found = _load(command) if command.name == asked else _elsewhere
        if isinstance(found, typer.Typer):
            app.add_typer(
                found, name=command.name, help=command.summary, no_args_is_help=True, rich_help_panel=command.group
            )
        else:
            app.command(command.name, short_help=command.summary, rich_help_panel=command.group)(found)
    return app


def _invoke(argv: Sequence[str]) -> int:
    """Parse the arguments, run the command, and return an exit code for usage errors. Other exceptions are raised."""
    import typer

    if "_POWERFLOW_COMPLETE" in os.environ:  # it is the shell that asks, not a person
        from powerflow.cli.completion import complete

        return complete(build_app)
    command = typer.main.get_command(build_app(argv))
    try:
        with command.make_context("powerflow", _with_run(_with_seconds(argv))) as context:
            command.invoke(context)
    except typer.Exit as ending:
        return ending.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.TyperException as error:
        message = error.format_message()
        if "\n" in message:  # no command was named: the message is the help page itself
            print(message, file=sys.stderr)
            return USAGE
        asked = getattr(getattr(error, "ctx", None), "command_path", "powerflow")
        end = " " if message.endswith("?") else "; "  # it asks which command was meant
        return _complain(f"{message.rstrip('.')}{end}see {asked} --help", error.exit_code)
    return 0


def _with_seconds(argv: Sequence[str]) -> list[str]:
    """Replace ``--watch`` without a number by ``--watch=2``, because the parser has no options with optional values."""
    words = list(argv)
    for i, word in enumerate(argv):
        following = argv[i + 1] if i + 1 < len(argv) else ""
        if word == "--watch" and not following.replace(".", "", 1).isdecimal():
            words[i] = "--watch=2"
    return words


def _with_run(argv: Sequence[str]) -> list[str]:
    """Replace ``submit … -- COMMAND`` by ``submit … --run COMMAND``, because the parser does not tell of the dashes."""
    words = list(argv)
    if words[:1] != ["submit"] or "--" not in words:
        return words
    at = words.index("--")
    if any(word.partition("=")[0] == "--run" for word in words[:at]):
        raise InputError("the command is given twice", where="submit", fix="give --run or --, not both")
    return [*words[:at], *(["--run", shlex.join(words[at + 1 :])] if words[at + 1 :] else [])]


def _load(command: Command) -> Any:
    return getattr(importlib.import_module(command.module), command.attribute)


def _elsewhere() -> None:
    """Stand in for a command that the user did not ask for, so that the help can list it."""


def _version(asked: bool) -> None:
    import typer

    if asked:
        print(f"powerflow {__version__}")
        raise typer.Exit


def _complain(line: str, code: int) -> int:
    """Print a message as one line on stderr, and return the exit code. Line breaks in the message become blanks."""
    print(f"powerflow: {visible(' '.join(line.split()))}", file=sys.stderr)
    return code


def _system_error(error: OSError) -> str:
    why = (error.strerror or str(error) or type(error).__name__).lower()
    return f"{error.filename}: {why}" if error.filename else why


def _system_code(error: OSError) -> int:
    if isinstance(error, ConnectionError | TimeoutError) or error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return UNREACHABLE
    return NOT_FOUND if isinstance(error, FileNotFoundError) else FAILED
