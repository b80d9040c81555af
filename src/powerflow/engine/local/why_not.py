"""Find out, on the node itself, why a rank cannot run there as its spec says."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from pathlib import Path

from powerflow.engine.protocol import RankSpec


def why_not(spec: RankSpec) -> str:
    """Return why a rank cannot run on this machine as its spec says, in one line; "" if nothing is known against it.

    Args:
        spec: Spec of the rank. Its name and its GPUs are not looked at.
    """
    own = os.geteuid()
    try:
        login = pwd.getpwnam(spec.user) if spec.user else None
    except KeyError:
        return f"there is no login {spec.user}"
    uid = own if login is None else login.pw_uid
    if own not in (0, uid):
        return f"only root can run ranks as {spec.user}"
    if spec.directory and is_missing(spec.directory, uid):
        return f"there is no directory {spec.directory}"
    program = spec.command[0] if spec.command else ""
    if program and own == uid and shutil.which(program, path=spec.env.get("PATH", os.defpath)) is None:
        return f"there is no program {program}"
    return ""


def is_missing(directory: str, uid: int) -> bool:
    """Return True if a directory is missing. If the user may not look into a folder above it, the answer is False.

    This process may be root, and root must not tell a user what other users hide.
    """
    path = Path("/")
    try:
        for part in Path(directory).parts[1:]:
            found = path.stat()
            if not found.st_mode & stat.S_IXOTH and found.st_uid != uid:
                return False
            path /= part
        return not path.is_dir()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
