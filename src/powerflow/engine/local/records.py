"""What the embedded engine keeps on disk, and nothing else knows where.

::

    agent.sock  agent.lock  start.lock  agent.log
    agent.json                       nodes and modules to preload as they were last given, and whose ranks these are
    fences/GANG                      lowest epoch that may still be launched
    ranks/GANG.EPOCH.NUMBER/
        spec.json                    what was asked for (its environment left out: it may hold secrets)
        lock                         held by the rank's shim for as long as the shim lives
        process.json                 shim and rank: pid and start time, control groups; written before the rank runs
        status.json                  how it ended, and whether its machine went down; once all it started is gone
        log-OFFSET                   what it wrote, from this offset on

Each file is replaced as a whole and has one writer: the shim, but for ``spec.json``, fences and the status of ranks
whose shim was killed, which the agent writes.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from powerflow.engine.protocol import EngineError, RankName, RankSpec, RankState, RankStatus
from powerflow.osutil.files import read_json, replace_json

SOCKET = "agent.sock"
AGENT_LOCK = "agent.lock"
START_LOCK = "start.lock"
AGENT_LOG = "agent.log"
SETTINGS = "agent.json"

#: Gangs become file names, so they are letters, digits, dots, underscores and hyphens, and do not begin with a dot.
_GANG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_MOST = 10**12


def check_gang(gang: str) -> str:
    """The gang's name, if it can name a file.

    Raises:
        EngineError: If it cannot.
    """
    if not isinstance(gang, str) or not _GANG.fullmatch(gang):
        raise EngineError(f"{gang!r} cannot name a gang: use up to 128 of A-Z a-z 0-9 . _ -, not a dot or - first")
    return gang


def check_epoch(epoch: int) -> int:
    """The epoch, if it is one.

    Raises:
        EngineError: If it is not a whole number from 0 on.
    """
    if type(epoch) is not int or not 0 <= epoch < _MOST:
        raise EngineError(f"{epoch!r} is no epoch or rank number: use whole numbers from 0 on")
    return epoch


def file_name(name: RankName) -> str:
    """Name of a rank's directory.

    Raises:
        EngineError: If the name cannot be one.
    """
    return str(RankName(check_gang(name.gang), check_epoch(name.epoch), check_epoch(name.number)))


def check_spec(spec: RankSpec) -> RankSpec:
    """The spec, with an absolute directory, if a process can be made of it.

    Raises:
        EngineError: If it cannot.
    """
    file_name(spec.name)
    if not spec.command or not spec.command[0]:
        raise EngineError(f"{spec.name}: the command is empty")
    words = [*spec.command, *spec.env.keys(), *spec.env.values(), spec.directory]
    if any("\0" in word for word in words):
        raise EngineError(f"{spec.name}: command, environment and directory cannot hold a NUL character")
    if any("=" in key or not key for key in spec.env):
        raise EngineError(f"{spec.name}: an environment variable needs a name without '='")
    if spec.memory_bytes < 0 or not 0 <= spec.cpus < _MOST:
        raise EngineError(f"{spec.name}: limits are numbers from 0 on")
    return RankSpec(**{**_fields(spec), "directory": os.path.abspath(spec.directory)})


def _fields(spec: RankSpec) -> dict[str, Any]:
    return {field: getattr(spec, field) for field in RankSpec.__dataclass_fields__}


def spec_row(spec: RankSpec) -> dict[str, Any]:
    """A spec as JSON can hold it, without its environment, which may hold secrets."""
    return _fields(spec) | {"env": {}, "name": str(spec.name)}


def spec_from_row(row: Mapping[str, Any]) -> RankSpec:
    """Undoes `spec_row`."""
    return RankSpec(**{**row, "name": RankName.parse(row["name"]), "command": tuple(row["command"])})


def status_row(status: RankStatus) -> list[Any]:
    """A status as JSON can hold it; short, for there are many."""
    ended_s = status.ended_s if status.ended_s == status.ended_s else None
    row = [str(status.name), status.node, status.state, status.pid, status.code, status.started_s, ended_s]
    return [*row, True] if status.rebooted else row


def status_from_row(row: list[Any]) -> RankStatus:
    """Undoes `status_row`."""
    name, node, state, pid, code, started_s, ended_s, *rebooted = row
    ended = math.nan if ended_s is None else ended_s
    return RankStatus(RankName.parse(name), node, RankState(state), pid, code, started_s, ended, bool(rebooted))


def remember(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Keep these settings for agents to come; all settings as they then are. The agent stands in its home."""
    path = Path(SETTINGS)
    known = (read_json(path) or {}) | dict(settings)
    replace_json(path, known)
    return known
