"""Say why the program of a rank could not be executed, from the error and from what is on the disk.

The kernel says "No such file or directory" if the program is missing, and also if the program is a script whose first
line names a missing interpreter. Here the missing file is named.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from powerflow.engine.protocol import RankSpec

#: Errors that stay until somebody changes the program, the directory or the command line.
_PERMANENT = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC, errno.ELOOP, errno.ENAMETOOLONG, errno.E2BIG}
)
#: Bytes of a program's first line that the kernel reads.
_FIRST_LINE_BYTES = 256


def is_permanent(error: Exception) -> bool:
    """Return True if each further try to execute the program would fail in the same way."""
    return isinstance(error, OSError) and error.errno in _PERMANENT


def why_not_entered(error: Exception, directory: str) -> str:
    """Return in one line why a rank's process could not be prepared, or could not enter the rank's directory."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    said = {
        errno.ENOENT: f"there is no directory {directory}",
        errno.ENOTDIR: f"{directory} is no directory",
        errno.EACCES: f"the job's user may not enter the directory {directory}",
    }
    known = said.get(error.errno or 0) if error.filename == directory else None
    return known or f"{error.strerror} ({error.filename or directory})"


def why_not_executed(error: Exception, spec: RankSpec, env: Mapping[str, str]) -> str:
    """Return in one line why a rank's program could not be executed.

    Call this in the process and the directory in which it should have been executed.

    Args:
        error: What was raised.
        spec: Spec of the rank.
        env: Environment of the rank, for its PATH.
    """
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    if error.errno == errno.E2BIG:
        return "its command line and environment are too long"
    return _of_program(error, spec, env)


def script_of(spec: RankSpec) -> str:
    """Return the path of the script that a rank's Python shall run; "" if this is not known."""
    has_script = spec.python and len(spec.command) > 1 and not spec.command[1].startswith("-")
    return spec.command[1] if has_script else ""


def _of_program(error: OSError, spec: RankSpec, env: Mapping[str, str]) -> str:
    if error.filename == script_of(spec):
        program, kind = script_of(spec), "script"
    else:
        program, kind = spec.command[0], "program"
    searched = "/" not in program and kind == "program"
    found = (shutil.which(program, os.F_OK, env.get("PATH", os.defpath)) or program) if searched else program
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        where = "" if os.path.isabs(program) else " in the job's PATH" if searched else f" in {spec.directory}"
        return _of_missing(found, program) or f"there is no {kind} {program}{where}"
    if error.errno == errno.EACCES:
        return _of_forbidden(found, program)
    if error.errno == errno.ENOEXEC:
        return f"{program} is no program for this machine; a script must begin with a line such as #!/bin/sh"
    return f"{program} cannot be executed: {error.strerror}"


def _of_missing(found: str, program: str) -> str:
    """Return what else is missing if the program itself is there; "" if it is not."""
    if os.path.islink(found) and not os.path.exists(found):
        return f"{program} is a link to {os.readlink(found)}, which does not exist"
    if not os.path.exists(found):
        return ""
    interpreter = _interpreter(found)
    if interpreter.endswith("\r"):
        return f"the first line of {program} ends with a Windows line break, so its interpreter is not found"
    if interpreter:
        return f"there is no interpreter {interpreter}, which the first line of {program} names"
    return f"the loader (dynamic linker) that {program} needs is missing"


def _of_forbidden(found: str, program: str) -> str:
    interpreter = _interpreter(found)
    if os.path.isdir(found):
        return f"{program} is a directory, not a program"
    if os.path.exists(found) and not os.access(found, os.X_OK):
        return f"the job's user may not execute {program}; chmod +x would allow it"
    if interpreter and not os.access(interpreter, os.X_OK):
        return f"the job's user may not execute {interpreter}, the interpreter that the first line of {program} names"
    return f"the job's user may not execute {program}"


def _interpreter(path: str) -> str:
    """Return the interpreter that the first line of a script names; "" if there is none, or it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            first = file.read(_FIRST_LINE_BYTES).split(b"\n")[0]
    except OSError:
        return ""
    words = first[2:].lstrip(b" \t").replace(b"\t", b" ").split(b" ") if first.startswith(b"#!") else [b""]
    return words[0].decode(errors="replace")
