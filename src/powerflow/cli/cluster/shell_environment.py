"""Choose which environment variables of the shell a job gets."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence

#: Variables of the terminal, the desktop and the session, which mean nothing elsewhere.
SESSION = frozenset(
    {"_", "COLUMNS", "DBUS_*", "DESKTOP_*", "DISPLAY", "GPG_*", "INVOCATION_ID", "JOURNAL_STREAM", "LINES", "LS_COLORS"}
    | {"OLDPWD", "PS1", "PS2", "PWD", "SHLVL", "SSH_*", "STY", "TERM", "TERM_*", "TMUX*", "WAYLAND_*", "WINDOWID"}
    | {"XAUTHORITY", "XDG_RUNTIME_DIR", "XDG_SEAT*", "XDG_SESSION_*", "XDG_VTNR"}
)
#: Variables of a login, which the job's machine sets.
LOGIN = frozenset({"HOME", "LOGNAME", "MAIL", "SHELL", "USER", "USERNAME"})
#: Variables that PowerFlow, a launcher or another scheduler sets for each process.
OURS = frozenset(
    {"CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "GROUP_RANK", "GROUP_WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}
    | {"MASTER_ADDR", "MASTER_PORT", "NVIDIA_VISIBLE_DEVICES", "OMPI_*", "PMI*", "POWERFLOW_*", "RANK", "SLURM_*"}
    | {"TORCHELASTIC_*", "WORLD_SIZE"}
)
#: What a job can have as a name; shells also keep functions in their environment.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
#: Most characters of one value that a job can have.
_LONGEST = 32_768


def of_shell(variables: Mapping[str, str], secret: Sequence[str] = ()) -> tuple[dict[str, str], list[str]]:
    """Return the variables of a shell that a job gets, and the names of those that no job can have.

    Args:
        variables: All variables of the shell.
        secret: Names that the site keeps from jobs; ``*`` stands for any characters.
    """
    kept_back = (*SESSION, *LOGIN, *OURS, *secret)
    wanted = {
        name: value
        for name, value in variables.items()
        if _NAME.fullmatch(name) and not any(fnmatch.fnmatchcase(name, pattern) for pattern in kept_back)
    }
    impossible = [name for name, value in wanted.items() if len(value) > _LONGEST or not _is_text(value)]
    return {name: value for name, value in wanted.items() if name not in impossible}, impossible


def _is_text(value: str) -> bool:
    """Return True if a variable's bytes are UTF-8."""
    return not any("\udc80" <= sign <= "\udcff" for sign in value)
