"""Describe a cluster of several nodes that tests can break and mend, and wait for what its engine reports."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from powerflow.engine.protocol import Engine, EngineNode, RankName, RankSpec, RankState, RankStatus
from powerflow.testing.engine_conformance import Place, status_of, until

#: Breaks or mends the node of this name.
Handle = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Bed:
    """A cluster of several nodes, with handles that break and mend one node by its name. None: it has no such handle.

    Attributes:
        place: Returns a new engine object for the cluster.
        processes: True if ranks are processes, so that they may run ``sh`` and ``env``.
        user: A login that exists on all nodes; "" if there is none, or if the engine cannot run ranks as other users.
        cut, mend: Cut a node off the network, and connect it again. Its ranks run on.
        crash, boot: Cut the power of a node, and boot it with an agent. Its ranks end.
        kill_agent, start_agent: Kill the agent of a node, and start it. ``start_agent`` is None if the site does that.
        delay: (node, seconds) Let a node take this long to answer a launch; 0: answer at once.
        fence_of: (node, gang) Return the fence that the node's agent has heard.
        add, leave: Let a node of this name join the cluster, and leave it in order.
    """

    place: Place
    processes: bool = False
    user: str = ""
    cut: Handle | None = None
    mend: Handle | None = None
    crash: Handle | None = None
    boot: Handle | None = None
    kill_agent: Handle | None = None
    start_agent: Handle | None = None
    delay: Callable[[str, float], Any] | None = None
    fence_of: Callable[[str, str], int] | None = None
    add: Handle | None = None
    leave: Handle | None = None

    def need(self, *handles: str) -> list[Any]:
        """Return these handles; skip the test if the bed lacks one of them."""
        lacking = [name for name in handles if getattr(self, name) in (None, False, "")]
        if lacking:
            pytest.skip(f"this engine's bed has no {', '.join(lacking)}")
        return [getattr(self, name) for name in handles]


_gangs = itertools.count()
_gang = ["gang"]


def gang() -> str:
    """Return the gang of the present test."""
    return _gang[0]


def fresh_gang() -> None:
    """Begin a new gang for the next test, because fences of a gang hold for ever."""
    _gang[0] = f"gang-{next(_gangs)}"


def rank(node: str, *command: str, epoch: int = 0, number: int = 0, **more: Any) -> RankSpec:
    """Return the spec of a rank that runs ``command`` on a node."""
    env = {"PATH": os.environ["PATH"]} | more.pop("env", {})
    return RankSpec(RankName(more.pop("gang", gang()), epoch, number), node, command, env, directory="/", **more)


def started(engine: Engine, specs: Sequence[RankSpec]) -> list[RankStatus]:
    """Launch ranks in one batch, wait until all run, and return their statuses."""
    engine.launch_all(specs)
    names = {spec.name for spec in specs}

    def over() -> bool:
        known = {status.name: status for status in engine.ranks()}
        bad = [known[name].why for name in names if name in known and known[name].state is RankState.NOT_STARTED]
        assert not bad, bad
        return all(name in known and known[name].state is RankState.RUNNING for name in names)

    until(engine, over)
    known = {status.name: status for status in engine.ranks()}
    return [known[spec.name] for spec in specs]


def reached(engine: Engine, name: RankName, *states: RankState, never: Collection[RankState] = ()) -> RankStatus:
    """Wait until a rank is in one of these states, and return its status. It must be in no state of ``never`` before.

    Without ``never``, it must not be lost before.
    """
    never = never or ({RankState.LOST} - set(states))

    def over() -> bool:
        status = status_of(engine, name)
        assert status is not None, f"{name} is not known"
        assert status.state not in never, f"{name} is {status.state}"
        return status.state in states

    until(engine, over)
    status = status_of(engine, name)
    assert status is not None
    return status


def node_of(engine: Engine, name: str) -> EngineNode | None:
    """Return a node of an engine; None if the engine does not list it."""
    return next((node for node in engine.nodes() if node.name == name), None)


def answers(engine: Engine, name: str, up: bool = True) -> EngineNode:
    """Wait until a node answers (or, if not ``up``, until the engine has noticed that it does not), and return it."""

    def over() -> bool:
        node = node_of(engine, name)
        return node is not None and node.up == up

    until(engine, over)
    node = node_of(engine, name)
    assert node is not None
    return node
