"""Name what can start the ranks of a live cluster. This module imports nothing, so that ``--help`` stays fast."""

from __future__ import annotations

from enum import StrEnum


class EngineKind(StrEnum):
    """What starts the ranks of a live cluster."""

    LOCAL = "local"  # this machine alone
    AGENTS = "agents"  # agents of other machines, which dial in
    RAY = "ray"  # agents that are reached through Ray
