"""Turn a job's ``run`` line (its shell command) into the argument vector of a process.

A line with shell syntax is run by ``/bin/sh -c`` as the job's owner, who could have typed it into a shell. Any other
line is executed directly. A ``python`` or ``python3`` without a path becomes PowerFlow's own interpreter, which the
machine of the process replaces by the first one in the job's PATH. If the line runs a script with this interpreter and
without options such as ``-c`` or ``-m``, the script may run in an interpreter that has loaded libraries in advance.
"""

from __future__ import annotations

import shlex
from typing import NamedTuple

#: Characters with a meaning for a shell, even where `shlex` reads them as part of a word.
_SHELL_SIGNS = frozenset("|&;<>()$`*?[]{}~#!\n\r")
#: Words that are commands only inside a shell.
_SHELL_WORDS = frozenset(
    {".", ":", "alias", "break", "case", "cd", "command", "continue", "eval", "exec", "exit", "export", "for", "if"}
    | {"local", "read", "readonly", "return", "set", "shift", "source", "times", "trap", "type", "ulimit", "umask"}
    | {"unalias", "unset", "until", "wait", "while"}
)


class RunCommand(NamedTuple):
    """Argument vector of a ``run`` line.

    ``python`` is True if ``argv`` is ``[python, script, …]``, which a preloaded interpreter can run.
    """

    argv: tuple[str, ...]
    python: bool


def command(run: str, interpreter: str) -> RunCommand:
    """Return the argument vector of a ``run`` line.

    Args:
        run: The line as the owner wrote it.
        interpreter: Path of the program that replaces ``python`` without a path.
    """
    if is_shell(run):
        return RunCommand(("/bin/sh", "-c", run), False)
    words = _split(run)
    if words[0] in ("python", "python3"):
        words[0] = interpreter
    script = words[0] == interpreter and len(words) > 1 and not words[1].startswith("-")
    return RunCommand(tuple(words), script)


def is_shell(run: str) -> bool:
    """Return True if a ``run`` line has shell syntax, so that only a shell can run it."""
    words = [] if _SHELL_SIGNS.intersection(run) else _split(run)
    return not words or "=" in words[0] or words[0] in _SHELL_WORDS


def _split(run: str) -> list[str]:
    try:
        return shlex.split(run)
    except ValueError:  # a quote is not closed: the shell reports this in the job's log
        return []
