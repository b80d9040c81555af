"""Read and write the files of the embedded engine; no other module knows their layout.

::

    agent.sock  agent.lock  start.lock  agent.log
    agent.json                       nodes and modules to preload as last given, and the owner of the ranks
    fences/GANG                      lowest epoch that may still be launched
    ranks/GANG.EPOCH.NUMBER/
        spec.json                    the spec, without its environment, which may hold secrets
        lock                         held by the rank's shim as long as the shim lives
        process.json                 pid and start time of shim and rank, control groups; written before the rank runs
        status.json                  how the rank ended; written when all its descendants are gone
        log-OFFSET                   its output from this offset on

Each file is replaced as a whole and has one writer. The fork server writes ``spec.json``, fences, and the status of
each rank whose shim was killed. The shim writes the other files.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from powerflow.engine.protocol import EngineError, RankName, RankSpec, RankState, RankStatus
from powerflow.osutil.files import read_json, replace_json

# the fork server of an earlier version, which called it the agent, is found by these names, and replaced
SOCKET = "agent.sock"
SERVER_LOCK = "agent.lock"
START_LOCK = "start.lock"
SERVER_LOG = "agent.log"
SETTINGS = "agent.json"

#: Gangs become file names, so they are letters, digits, dots, underscores and hyphens, and do not begin with a dot.
_GANG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_MOST = 10**12


def check_gang(gang: str) -> str:
    """Return a gang's name unchanged if it can be the name of a file.

    Raises:
        EngineError: The name cannot be the name of a file.
    """
    if not isinstance(gang, str) or not _GANG.fullmatch(gang):
        raise EngineError(
            f"{gang!r} cannot name a gang: use up to 128 characters A-Z a-z 0-9 . _ -, beginning with none of . -"
        )
    return gang


def check_epoch(epoch: int) -> int:
    """Return an epoch or a rank's number unchanged if it is a whole number ≥ 0.

    Raises:
        EngineError: The epoch is not a whole number ≥ 0.
    """
    if type(epoch) is not int or not 0 <= epoch < _MOST:
        raise EngineError(f"{epoch!r} is no epoch or rank number: use whole numbers from 0 on")
    return epoch


def file_name(name: RankName) -> str:
    """Return the name of a rank's directory, such as ``gang.3.0`` (gang, epoch, number).

    Raises:
        EngineError: The rank's name cannot be the name of a file.
    """
    return str(RankName(check_gang(name.gang), check_epoch(name.epoch), check_epoch(name.number)))


def check_spec(spec: RankSpec) -> RankSpec:
    """Return a checked copy of a rank's spec, in which the working directory is an absolute path.

    Raises:
        EngineError: No process can be started from the spec. Examples: its command is empty, or a limit is negative.
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
    """Return a rank's spec as a JSON object, without the environment variables, which may hold secrets."""
    return _fields(spec) | {"env": {}, "name": str(spec.name)}


def spec_from_row(row: Mapping[str, Any]) -> RankSpec:
    """Return the spec that a JSON object from `spec_row` describes. It has no environment variables."""
    known = {"name": RankName.parse(row["name"]), "command": tuple(row["command"]), "gpus": tuple(row.get("gpus", ()))}
    return RankSpec(**{**row, **known})


def status_row(status: RankStatus) -> list[Any]:
    """Return a rank's status as a JSON list. A list is shorter than an object, and there are many statuses."""
    ended_s = status.ended_s if status.ended_s == status.ended_s else None
    row = [str(status.name), status.node, status.state, status.pid, status.code, status.started_s, ended_s]
    if status.out_of_memory is not None:
        return [*row, status.rebooted, status.out_of_memory]
    return [*row, True] if status.rebooted else row


def status_from_row(row: list[Any]) -> RankStatus:
    """Return the status that a JSON list from `status_row` describes."""
    name, node, state, pid, code, started_s, ended_s, *more = row
    rebooted, out_of_memory = [*more, False, None][:2] if len(more) != 1 else [more[0], None]
    ended = math.nan if ended_s is None else ended_s
    status = RankStatus(RankName.parse(name), node, RankState(state), pid, code, started_s, ended, rebooted)
    return replace(status, out_of_memory=out_of_memory)


def remember(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Save settings for later fork servers in the current directory. Return all saved settings, old and new."""
    path = Path(SETTINGS)
    known = (read_json(path) or {}) | dict(settings)
    replace_json(path, known)
    return known
