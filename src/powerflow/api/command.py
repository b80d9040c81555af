"""Turn a job's ``run`` line into an argument vector.

The line is its owner's, and runs as its owner, who could have typed it into a shell. So a line with shell syntax goes
to that owner's ``/bin/sh -c``; a plain one is executed as it stands, without a shell between the engine and the
process. A bare ``python`` or ``python3`` is the interpreter PowerFlow runs on, unless the job brings a PATH of its
own; a script for it (not ``-c``, ``-m`` or any other option) may run inside a preloaded one.
"""

from __future__ import annotations

import shlex
from typing import NamedTuple

#: What means something to a shell even if `shlex` reads it as part of a word.
_SHELL_SIGNS = frozenset("|&;<>()$`*?[]{}~#!\n\r")
#: Words that are commands only inside a shell.
_SHELL_WORDS = frozenset(
    {".", ":", "alias", "break", "case", "cd", "command", "continue", "eval", "exec", "exit", "export", "for", "if"}
    | {"local", "read", "readonly", "return", "set", "shift", "source", "times", "trap", "type", "ulimit", "umask"}
    | {"unalias", "unset", "until", "wait", "while"}
)


class RunCommand(NamedTuple):
    """Argument vector, and whether it is ``[python, script, …]`` for the preloaded interpreter."""

    argv: tuple[str, ...]
    python: bool


def command(run: str, interpreter: str, *, own_path: bool = False) -> RunCommand:
    """Return the argument vector of a ``run`` line.

    Args:
        run: As the owner wrote it.
        interpreter: What a bare ``python`` means.
        own_path: The job brings its own PATH: there a bare ``python`` is looked up like any other program.
    """
    if is_shell(run):
        return RunCommand(("/bin/sh", "-c", run), False)
    words = _split(run)
    if words[0] in ("python", "python3") and not own_path:
        words[0] = interpreter
    script = words[0] == interpreter and len(words) > 1 and not words[1].startswith("-")
    return RunCommand(tuple(words), script)


def is_shell(run: str) -> bool:
    """Return whether a line has shell syntax, so that only a shell can run it."""
    words = [] if _SHELL_SIGNS.intersection(run) else _split(run)
    return not words or "=" in words[0] or words[0] in _SHELL_WORDS


def _split(run: str) -> list[str]:
    try:
        return shlex.split(run)
    except ValueError:  # a quote that is never closed: let the shell say so in the job's log
        return []
