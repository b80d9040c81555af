"""Find the Python interpreter that a job means."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

#: Stands in the command of a rank for the first Python in its PATH, which only its machine knows.
PYTHON_IN_PATH = "python in PATH"


def python_in(path: str) -> str:
    """Return the first ``python`` or ``python3`` of a search path; this process's own interpreter if there is none.

    If it is this process's own interpreter, its path is returned as ``sys.executable`` has it.
    """
    for folder in path.split(":"):
        for name in ("python", "python3"):
            found = os.path.join(folder, name)
            if folder and os.path.isfile(found) and os.access(found, os.X_OK):
                return sys.executable if _is_own(found) else found
    return sys.executable


def is_own_script(command: Sequence[str]) -> bool:
    """Return True if a command runs a script with this process's interpreter, so that a preloaded one can run it."""
    return len(command) > 1 and command[0] == sys.executable and not command[1].startswith("-")


def _is_own(found: str) -> bool:
    """Return True if a program is this process's interpreter.

    The folder must be the same, too: the interpreters of two virtual environments may be links to one file.
    """
    own_folder, folder = (os.path.realpath(os.path.dirname(program)) for program in (sys.executable, found))
    return own_folder == folder and os.path.samefile(sys.executable, found)
