"""Find options for ``sbatch`` in a script that is submitted: PowerFlow does not read them, and must say so."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from powerflow.api.command import is_shell
from powerflow.api.output_path import USUAL, USUAL_TASK

if TYPE_CHECKING:
    from powerflow.api.job_spec import JobSpec

#: Options of ``sbatch``, by the option of ``powerflow submit`` that says the same.
_SAME = {
    "--name": ("--job-name", "-J"),
    "--gpus": ("--gpus", "-G", "--gres", "--gpus-per-node", "--gpus-per-task"),
    "--time": ("--time", "-t"),
    "--project": ("--account", "-A"),
    "--array": ("--array", "-a"),
    "--dependency": ("--dependency", "-d"),
    "--output": ("--output", "-o", "--error", "-e"),
    "--directory": ("--chdir", "-D"),
    "--memory": ("--mem", "--mem-per-gpu", "--mem-per-cpu"),
    "--cpus": ("--cpus-per-task", "-c", "--cpus-per-gpu"),
    "--env": ("--export",),
    "--retries": ("--requeue", "--no-requeue"),
}
_OURS = {theirs: ours for ours, names in _SAME.items() for theirs in names}
#: How much of a script is read: the lines stand at its beginning.
_HEAD_BYTES = 1 << 16


class SbatchOption(NamedTuple):
    """An option for ``sbatch`` in a script: the number of its line, and its name as written there."""

    line: int
    name: str


def sbatch_note(spec: JobSpec) -> str:
    """Return a line that names the options for ``sbatch`` in the script of a job; "" if there are none.

    Options that the job has already, from its file or the command line, are left out.
    """
    words = [] if is_shell(spec.run) else shlex.split(spec.run)
    for word in words[:3]:  # bash -e script
        if options := sbatch_options(Path(spec.directory or os.curdir) / word):
            return _note(word, options, _given(spec))
    return ""


def sbatch_options(script: Path) -> list[SbatchOption]:
    """Return the options for ``sbatch`` at the beginning of a script; none if it is no file, or cannot be read."""
    if not script.is_file():  # to open a pipe would wait for who writes into it
        return []
    try:
        with script.open("rb") as file:
            head = file.read(_HEAD_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    return [SbatchOption(line, name) for line, text in _directives(head) for name in _names(text)]


def _directives(head: str) -> Iterator[tuple[int, str]]:
    """Yield the lines ``#SBATCH …`` before the first command, as ``sbatch`` does, with their numbers."""
    for number, text in enumerate(head.splitlines(), start=1):
        if text.startswith("#SBATCH"):
            yield number, text.removeprefix("#SBATCH")
        elif text.strip() and not text.lstrip().startswith("#"):
            return


def _names(text: str) -> list[str]:
    """Return the names of the options in a line, such as ``--time`` and ``-J``."""
    try:
        words = shlex.split(text, comments=True)
    except ValueError:  # a quote is not closed
        words = text.split()
    return [word.partition("=")[0] if word.startswith("--") else word[:2] for word in words if word.startswith("-")]


def _given(spec: JobSpec) -> set[str]:
    """Return the options of ``powerflow submit`` whose values a job has from its owner."""
    values = {
        "--name": spec.name,
        "--gpus": "gpus" in spec.model_fields_set,
        "--time": spec.time_limit,
        "--project": spec.project,
        "--array": spec.array,
        "--dependency": spec.dependency,
        "--output": spec.output not in (USUAL, USUAL_TASK),
        "--directory": spec.directory != os.getcwd(),
        "--memory": spec.limits.memory,
        "--cpus": spec.limits.cpus,
        "--env": spec.env,
        "--retries": "retries" in spec.model_fields_set,
    }
    return {option for option, value in values.items() if value}


def _note(script: str, options: Sequence[SbatchOption], given: set[str]) -> str:
    left = [option for option in options if _OURS.get(option.name) not in given]
    same = [f"{_OURS[each.name]} for {each.name} (line {each.line})" for each in left if each.name in _OURS]
    other = [f"{each.name} (line {each.line})" for each in left if each.name not in _OURS]
    said = [f"give {', '.join(same)}"] if same else []
    said += [f"no option is like {', '.join(other)}"] if other else []
    return f"{script}: lines with #SBATCH are not read: {'; '.join(said)}" if said else ""
