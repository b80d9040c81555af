"""Runs the agent of a machine in a process of a test. It listens on a socket in its folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from powerflow.agent import clock_keeper, devices
from powerflow.agent.process import AgentSettings, run_agent
from powerflow.cluster.spec import Node
from powerflow.device.emulated.gpu import create
from powerflow.engine.cluster.sealed import JoinToken


def run_here(directory: Path, token: JoinToken, nodes: Sequence[Node], lease_s: float = math.nan) -> None:
    """Run an agent with emulated GPUs; with ``lease_s``, it holds clocks for so long only."""
    if not math.isnan(lease_s):
        devices.LEASE_S = clock_keeper.LEASE_S = lease_s  # type: ignore[attr-defined]
    run_agent(AgentSettings(directory, token, (), create(directory / "devices" / "emulated", nodes), "here"))
