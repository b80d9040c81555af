"""Make the path of a job's output file from a pattern, as ``sbatch --output`` does."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: What ``%`` and a letter stand for in a pattern.
CODES = {
    "j": "number of the job",
    "A": "number of the array (of the job, if it is in no array)",
    "a": "number of the task in its array (0 without an array)",
    "x": "name of the job",
    "u": "login of the job's user",
    "N": "name of the node",
    "t": "number of the rank, from 0",
}
#: The file that `powerflow submit` asks for unless the user says otherwise.
USUAL, USUAL_TASK = "powerflow-%j.out", "powerflow-%A_%a.out"


def check_pattern(pattern: str) -> None:
    """Check a pattern.

    Raises:
        ValueError: The pattern has an unknown code, or names no file. The message says why.
    """
    for code in re.findall(r"%(.?)", pattern.replace("%%", ""), re.DOTALL):
        if code not in CODES:
            raise ValueError(f"%{code} stands for nothing")
    if pattern.endswith("/"):
        raise ValueError(f"{pattern!r} names a folder")


def output_path(pattern: str, values: Mapping[str, str]) -> str:
    """Return the path that a pattern stands for.

    Args:
        pattern: A pattern that `check_pattern` has accepted.
        values: What each code of `CODES` stands for. A ``/`` in a value becomes ``_``, so that it names no folder.
    """
    return re.sub(
        r"%(.)", lambda found: "%" if found[1] == "%" else values[found[1]].replace("/", "_"), pattern, flags=re.DOTALL
    )
