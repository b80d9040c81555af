"""Share code of the commands that ask a controller: find the controller, print its answer, complete job numbers."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from json import load
from typing import Annotated, Any, TypeVar

import typer

from powerflow.api.records import NotSure
from powerflow.cli import settings
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.options_instead import Command, options_instead_of
from powerflow.cli.output import print_json
from powerflow.cli.sanitize import line
from powerflow.errors import InputError

Answer = TypeVar("Answer")

_OPTIONS = {
    "url": Annotated[str | None, typer.Option("--url", help="URL of the controller.")],
    "token_file": Annotated[str | None, typer.Option("--token-file", help="File that holds your token.")],
    "state_dir": Annotated[str | None, typer.Option("--state-dir", help="State directory of the controller.")],
}

#: Name that a shell takes as one word, and that is no option.
_PLAIN = re.compile(r"(?!\d+$)[\w.,+@%][\w.,+@%/-]*")


def asks(command: Command) -> Command:
    """Decorate a command: pass it a `ControllerClient` as ``controller``, and add options that select the controller.

    The parameters ``job`` and ``jobs`` of the command get numbers of jobs, also where the user has written names.
    """

    @wraps(command)
    def asking(controller: ControllerClient, **given: Any) -> None:
        if given.get("job") is not None:
            given["job"] = controller.number_of(given["job"])
        if "jobs" in given:  # all of them before the first is changed
            given["jobs"] = [controller.number_of(job) for job in given["jobs"] or []]
        command(controller=controller, **given)

    return options_instead_of("controller", _OPTIONS, _controller)(asking)


def _controller(url: str | None, token_file: str | None, state_dir: str | None) -> ControllerClient:
    """Return a client of the controller that options, variables and files select.

    Raises:
        InputError: They select no controller, and no controller on this machine has written its address.
    """

    def find() -> tuple[str, str | None]:
        found = settings.load(url=url, token_file=token_file, state_dir=state_dir)
        if found.url is None:
            what = f"no controller has written its address to {found.state_dir}"
            raise InputError(what, fix="start a controller with powerflow serve, or give --url", exit_code=5)
        return found.url, found.token

    return ControllerClient(*find(), find)


def note(words: str) -> None:
    """Print a line on stderr that the user should see, although the command goes on."""
    print(f"powerflow: note: {line(words)}", file=sys.stderr, flush=True)


def say(kind: str, payload: Mapping[str, Any] | object, words: str, json: bool) -> None:
    """Print an answer: as JSON, or as the given text."""
    if json:
        print_json(kind, payload)
    else:
        print(words)


def confirmed(request: Callable[[bool], Answer], yes: bool) -> Answer:
    """Send a request that may stop jobs, and return its answer. On a terminal, ask the user before it stops any.

    Args:
        request: Sends the request; its argument is True if the user is sure.
        yes: True if the user has said so already (``--yes``).

    Raises:
        InputError: The change would stop jobs or cannot be kept, and the user is not sure. Nothing was changed.
    """
    try:
        return request(yes)
    except NotSure as error:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise InputError(error.what, fix="nothing was changed; --yes makes the change", exit_code=4) from None
        print(f"powerflow: {line(error.what)}\nDo it anyway? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise InputError("nothing was changed", exit_code=4) from None
        return request(True)


def note_unheard(controller: ControllerClient, projects: Iterable[str]) -> None:
    """Print a note for each project that has no job yet, because the name may be misspelt."""
    for project in projects:
        if project and not controller.jobs(project=project, limit=1):
            note(f"no job of project {project} has been submitted yet")


def job_numbers(incomplete: str) -> list[tuple[str, str]]:
    """Return numbers and names of active jobs, for the shell's completion; none if no controller answers quickly.

    Names are those that only one of the jobs has, and that the shell takes as they are.
    """
    from urllib.request import ProxyHandler, Request, build_opener

    try:
        found = settings.load()
        query = "state=running&state=queued&state=held&limit=200"
        request = Request(f"{found.url}/api/v1/jobs?{query}", headers={"Authorization": f"Bearer {found.token}"})
        with build_opener(ProxyHandler({})).open(request, timeout=0.5) as answer:
            jobs = load(answer)["items"]
        said = {job["id"]: line(f"{job['name'] or 'job'} of {job['user']}, {job['state']}") for job in jobs}
        numbers = [(number, text) for number, text in said.items() if number.startswith(incomplete)]
        times = Counter(job["name"] for job in jobs)
        names = [
            (job["name"], f"job {job['id']} of {line(job['user'])}, {job['state']}")
            for job in jobs
            if incomplete and times[job["name"]] == 1 and _PLAIN.fullmatch(job["name"])
        ]
        return numbers + [(name, text) for name, text in names if name.startswith(incomplete)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


Job = Annotated[
    str, typer.Argument(metavar="JOB", help="Number of a job, or a name that only it has.", autocompletion=job_numbers)
]
Jobs = Annotated[
    list[str], typer.Argument(metavar="JOB…", help="Numbers or names of jobs.", autocompletion=job_numbers)
]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Make the change even if it stops jobs or cannot be kept; do not ask.")
]
Watch = Annotated[
    float | None,
    typer.Option("--watch", metavar="[SECONDS]", min=0.1, help="Repeat the output, by default every 2 seconds."),
]
