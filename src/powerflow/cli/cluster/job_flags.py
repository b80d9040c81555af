"""Define the options of commands that describe a job: one for each key of ``job.yaml``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import typer

from powerflow.api.dependency import numbered
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.options_instead import Command, options_instead_of
from powerflow.errors import InputError


class Flag(NamedTuple):
    """An option, the path of its key in ``job.yaml``, its type, and its help text."""

    names: tuple[str, ...]
    key: tuple[str, ...]
    kind: type
    help: str

    @property
    def parameter(self) -> str:
        """Name of the function parameter that gets the option's value."""
        return "_".join(self.key).replace("global", "global_batch")


FLAGS = (
    Flag(("--run",), ("run",), str, "Command to run, such as 'python train.py'; or write it after --."),
    Flag(("--name", "-J"), ("name",), str, "Name of the job."),
    Flag(
        ("--gpus", "-G"),
        ("gpus",),
        str,
        "GPU counts that the job can use: 4, 1..8, 1,2,4,8, '2..16 by 2' or H100:1..8.",
    ),
    Flag(("--rescale",), ("rescale",), str, "How the GPU count may change: in-place, restart or none (docs/job.md)."),
    Flag(("--batch",), ("batch", "global"), int, "Samples of one step over all GPUs."),
    Flag(("--local-max",), ("batch", "local_max"), int, "Most samples that one GPU can compute at once."),
    Flag(("--priority",), ("priority",), str, "Priority: protected, high, normal or low."),
    Flag(("--max-slowdown",), ("energy", "max_slowdown"), str, "How much slower it may become to save energy: 10%."),
    Flag(("--project", "-A"), ("project",), str, "Project to charge."),
    Flag(("--model",), ("model",), str, "Family of models, such as resnet50, for a first estimate of the costs."),
    Flag(("--iterations",), ("work", "iterations"), str, "Steps of the whole job, if known."),
    Flag(("--progress",), ("progress",), str, "Regular expression that finds the step in the log (docs/job.md)."),
    Flag(("--time", "-t"), ("time_limit",), str, "Longest run time: 90m, 12h or 1-12:00:00."),
    Flag(("--memory",), ("limits", "memory"), str, "Most memory of each process: 16GiB."),
    Flag(("--cpus",), ("limits", "cpus"), float, "Most CPUs of each process."),
    Flag(("--between-steps",), ("limits", "between_steps"), str, "Longest time without a step: 1h."),
    Flag(("--checkpoint-dir",), ("checkpoint", "dir"), str, "Folder in which the job saves its state."),
    Flag(("--checkpoint-every",), ("checkpoint", "every"), str, "Time between checkpoints of an in-place job: 10m."),
    Flag(("--grace",), ("checkpoint", "grace"), str, "Time between SIGTERM and SIGKILL: 30s."),
    Flag(
        ("--output", "-o"),
        ("output",),
        str,
        "File that gets the output, too, such as logs/%x-%j.out; none for no file. Default: powerflow-%j.out.",
    ),
    Flag(("--retries",), ("retries",), int, "How often the job is started again after a failure."),
    Flag(("--array", "-a"), ("array",), str, "Submit a job for each number: 0-9, 1,3,8 or 0-99%4 (at most 4 at once)."),
    Flag(
        ("--dependency", "-d"),
        ("dependency",),
        str,
        "Start when other jobs (numbers or names) have ended: afterok:12:prepare (docs/job.md).",
    ),
)

#: Keys that `powerflow update` can change (`powerflow.api.job_change.JobChange`).
CHANGEABLE = frozenset(
    {"name", "gpus", "priority", "energy", "project", "work", "limits", "time_limit", "output", "retries"}
    | {"dependency"}
)


def takes_job_flags(command: Command) -> Command:
    """Decorate a command: pass it the options of `FLAGS` as ``flags``, by key, with inner dictionaries for parts."""
    return _taking(FLAGS)(command)


def takes_changes(command: Command) -> Command:
    """Decorate a command as `takes_job_flags` does, with the options for keys that can be changed later."""
    return _taking([flag for flag in FLAGS if flag.key[0] in CHANGEABLE])(command)


def _taking(flags: Sequence[Flag]) -> Callable[[Command], Command]:
    keys = {flag.parameter: flag.key for flag in flags}
    options = {flag.parameter: Annotated[flag.kind | None, typer.Option(*flag.names, help=flag.help)] for flag in flags}

    def by_key(**values: Any) -> dict[str, Any]:
        return _nested({keys[parameter]: value for parameter, value in values.items()})

    return options_instead_of("flags", options, by_key)


def with_numbers(flags: dict[str, Any], controller: ControllerClient) -> dict[str, Any]:
    """Return flags with numbers of jobs where ``--dependency`` names jobs.

    Raises:
        InputError: No job or array has a name, or several have it.
    """
    if "dependency" not in flags:
        return flags
    return {**flags, "dependency": numbered(flags["dependency"], controller.number_to_wait_for)}


def variables(texts: list[str]) -> dict[str, str]:
    """Return environment variables, given as ``NAME=VALUE``.

    Raises:
        InputError: A text has another form.
    """
    found = {}
    for text in texts:
        name, given, value = text.partition("=")
        if not (name and given):
            raise InputError(f"{text!r} is not NAME=VALUE", where="--env")
        found[name] = value
    return found


def _nested(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for (*parts, last), value in values.items():
        if value is not None:
            inner = found
            for part in parts:
                inner = inner.setdefault(part, {})
            inner[last] = value
    return found
