"""Find what will not work as hoped with the script and the Python of a job, as far as they are seen from here."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from powerflow.api.command import is_shell
from powerflow.cli.cluster.sbatch_lines import sbatch_note

if TYPE_CHECKING:
    from powerflow.api.job_spec import JobSpec

#: Prints the modules that an in-place job needs and this Python has not.
_MISSING = """
import importlib.util as util
print(*(name for name in ("torch", "powerflow") if util.find_spec(name) is None))
"""
#: Longest time for a Python to answer, seconds.
_WAIT_S = 5.0


def hints(spec: JobSpec, variables: Mapping[str, str]) -> list[str]:
    """Return one line for each thing that will not work as the owner of a job hopes.

    Args:
        spec: The job. Of the script of an in-place job, only ``python SCRIPT`` is looked at.
        variables: Environment variables of the job.
    """
    from powerflow.elastic.check import never_joins

    found = []
    if note := sbatch_note(spec):
        found.append(note)
    words = [] if is_shell(spec.run) else shlex.split(spec.run)
    found += _no_program(words, variables, spec.directory or os.curdir)
    if spec.rescale != "in-place" or len(words) < 2 or words[0] not in ("python", "python3"):
        return found
    script = Path(spec.directory or os.curdir) / words[1]
    if script.suffix == ".py" and never_joins(script):
        found.append(
            f"{words[1]} never calls powerflow.elastic, which rescale: in-place needs; "
            f"powerflow elastic check {words[1]} says what to change"
        )
    if missing := _missing(words[0], variables):
        found.append(missing)
    return found


def _no_program(words: Sequence[str], variables: Mapping[str, str], directory: str) -> list[str]:
    """Return a line if the program of a command is not found; instead of ``python`` PowerFlow has its own."""
    if not words or words[0] in ("python", "python3"):
        return []
    program = os.path.join(directory, words[0]) if "/" in words[0] else words[0]
    if shutil.which(program, path=variables.get("PATH")) is not None:
        return []
    why = "it is not executable" if os.path.exists(program) else "there is no such program"
    return [f"{words[0]} cannot be started from here: {why}; the job fails if this is so on the cluster, too"]


def unwritable(spec: JobSpec) -> list[str]:
    """Return a line if the output file of a job cannot be written, as far as this is seen from here."""
    path = os.path.join(spec.directory or os.curdir, spec.output or "")
    folder = os.path.dirname(path)
    if spec.output is None or "%" in folder:
        return []
    if os.path.isdir(path):
        return [f"output: nothing will be written to {path}: it is a folder, not a file; powerflow logs has the output"]
    if os.access(folder, os.W_OK | os.X_OK):
        return []
    why = "you may not write there" if os.path.isdir(folder) else "there is no such folder"
    return [f"output: nothing will be written to {folder}: {why}; powerflow logs has the output"]


def _missing(program: str, variables: Mapping[str, str]) -> str:
    """Return which modules the job's Python has not; "" if it has all, or cannot be asked."""
    python = shutil.which(program, path=variables.get("PATH", ""))
    if python is None:  # then it is the Python of PowerFlow
        return ""
    try:
        asked = subprocess.run(
            [python, "-c", _MISSING], env=variables, capture_output=True, text=True, timeout=_WAIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    names = asked.stdout.split() if asked.returncode == 0 else []
    if not names:
        return ""
    return f"{python} has no {' and no '.join(names)}: activate the environment that has, or give --no-env"
