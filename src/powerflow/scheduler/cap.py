"""Define power caps: a limit in watts on a set of nodes for some time, and how fast their power may change.

The limit of a cap falls along a ramp until the cap must be met, and is then constant until the end of the cap.
Afterwards it rises along a ramp. In the first hour (`CALM_S`) after the end, it rises at most to the power before the
cap. A decision of the scheduler must keep the lowest limit that occurs before the next decision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from powerflow.cluster.spec import Node
from powerflow.errors import InputError
from powerflow.units import HOUR_S

STEP_S = 5.0  # time between decisions on a ramp
CALM_S = HOUR_S  # time after a cap in which power stays at or below the power before the cap


@dataclass(frozen=True, slots=True)
class Scope:
    """A set of nodes to which a power cap applies, and the name of the set.

    Attributes:
        name: The set as text: ``cluster``, ``rack:rack-0``, ``row:rack-0,rack-1`` or ``nodes:gpu001,gpu002``.
        nodes: Names of the nodes in the set; None for all nodes of the cluster.
        racks: Racks that belong to the set as a whole. Nodes that join these racks later belong to the set, too.
    """

    name: str
    nodes: frozenset[str] | None = None
    racks: frozenset[str] = frozenset()

    def within(self, nodes: Iterable[Node]) -> Scope:
        """Return this set with the nodes that its racks have now.

        Args:
            nodes: All nodes of the cluster.
        """
        if not self.racks:
            return self
        return replace(self, nodes=frozenset(node.name for node in nodes if node.rack in self.racks))


CLUSTER = Scope("cluster")


def parse_scope(text: str, nodes: Sequence[Node], where: str = "--scope") -> Scope:
    """Return the set of nodes that a text names.

    Args:
        text: ``cluster``, ``rack:NAME``, ``row:RACK,RACK,…`` (a row is a set of racks) or ``nodes:NODE,NODE,…``.
        nodes: The nodes of the cluster.
        where: Where the text comes from, for the error message.

    Raises:
        InputError: The text has none of these forms, or the cluster has no rack or node with a name in the text.
    """
    kind, names = _words(text, where)
    known = {node.name if kind == "nodes" else node.rack for node in nodes}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"there is no {'node' if kind == 'nodes' else 'rack'} {unknown[0]!r}", where=where)
    return named_scope(text, nodes, where)


def named_scope(text: str, nodes: Sequence[Node], where: str = "--scope") -> Scope:
    """Return the set of nodes that a text names, as `parse_scope` does, even if nodes or racks are not there now.

    They may have left the cluster after the cap was set, and may come back.

    Raises:
        InputError: The text has none of the forms that `parse_scope` reads.
    """
    kind, names = _words(text, where)
    if kind == "cluster":
        return CLUSTER
    name = f"{kind}:{','.join(sorted(names))}"
    if kind == "nodes":
        return Scope(name, frozenset(names))
    return Scope(name, racks=frozenset(names)).within(nodes)


def _words(text: str, where: str) -> tuple[str, list[str]]:
    """Return the kind of a set of nodes, and the names of its racks or nodes."""
    kind, _, rest = text.strip().partition(":")
    names = [name.strip() for name in rest.split(",") if name.strip()]
    if kind == "cluster" and not rest:
        return kind, []
    if kind not in ("rack", "row", "nodes") or not names or (kind == "rack" and len(names) != 1):
        raise InputError(
            f"{text!r} is not a part of a cluster",
            where=where,
            fix="write cluster, rack:NAME, row:RACK,RACK or nodes:NODE",
        )
    return kind, names


@dataclass(frozen=True, slots=True)
class PowerCap:
    """A power cap: a limit on the watts of some nodes. No plan of the scheduler exceeds this limit.

    Attributes:
        watts: The watts that the nodes may draw together, including idle GPUs and the nodes themselves.
        scope: The nodes.
        start_s, end_s: When the cap starts and ends. Without an end (``inf``), the cap holds until an operator lifts
            it.
        deadline_s: When the cap must be met, if this is later than ``start_s``; power falls between ``start_s`` and
            ``deadline_s``. If None, the cap must be met at ``start_s``, and a ramp lets power fall before ``start_s``.
        ramp_w_per_s: How fast power may fall and rise, W/s; ``inf`` means at once. If a cap is set too late for its
            ramp, power falls faster, so that the cap is still met in time.

    Raises:
        InputError: The watts or the ramp are not positive, the end is not after the start, or the deadline is not
            between start and end.
    """

    watts: float
    scope: Scope = CLUSTER
    start_s: float = -math.inf
    end_s: float = math.inf
    deadline_s: float | None = None
    ramp_w_per_s: float = math.inf

    def __post_init__(self) -> None:
        if not (self.watts > 0 and math.isfinite(self.watts)):
            raise InputError(f"it allows {self.watts:g} W", where="power cap", fix="give watts > 0")
        if not self.end_s > self.start_s:
            raise InputError("it ends before it starts", where="power cap")
        if self.deadline_s is not None and not self.start_s <= self.deadline_s < self.end_s:
            raise InputError("its deadline is not between its start and its end", where="power cap")
        if not self.ramp_w_per_s > 0:
            raise InputError(f"its ramp is {self.ramp_w_per_s:g} W/s", where="power cap", fix="give W/s > 0")

    @property
    def due_s(self) -> float:
        """Return when the power cap must be met: at its deadline, or at its start if it has no deadline."""
        return self.start_s if self.deadline_s is None else self.deadline_s

    def allowed_w(self, at_s: float, baseline_w: float) -> float:
        """Return the watts that the cap allows at one moment; ``inf`` if it sets no limit at that moment.

        Args:
            at_s: The moment.
            baseline_w: The power before the cap took effect, watts; nan if unknown. In the first hour (`CALM_S`) after
                the end of the cap, the limit is at most this power.
        """
        if at_s < self.due_s:
            if math.isinf(self.ramp_w_per_s) or (self.deadline_s is not None and at_s < self.start_s):
                return math.inf
            return self.watts + self.ramp_w_per_s * (self.due_s - at_s)
        if at_s < self.end_s:
            return self.watts
        if at_s >= self.over_s(baseline_w):
            return math.inf
        up_w = math.inf if math.isinf(self.ramp_w_per_s) else self.ramp_w_per_s * (at_s - self.end_s)
        ceiling_w = math.inf if math.isnan(baseline_w) else max(baseline_w, self.watts)
        return min(self.watts + up_w, ceiling_w)

    def least_w(self, from_s: float, to_s: float, baseline_w: float) -> float:
        """Return the fewest watts that the cap allows between two times, both included.

        Args:
            from_s, to_s: The two times.
            baseline_w: The power before the cap took effect, watts; nan if unknown.
        """
        # the limit is piecewise linear: it is lowest at one of its corners or at one of the two times
        corners = (self.start_s, self.due_s)
        moments = [from_s, to_s, *(s for s in corners if from_s < s < to_s)]
        return min(self.allowed_w(s, baseline_w) for s in moments)

    def later(self, by_s: float) -> PowerCap:
        """Return a copy of the cap whose start, deadline and end are ``by_s`` seconds later."""
        deadline_s = None if self.deadline_s is None else self.deadline_s + by_s
        return replace(self, start_s=self.start_s + by_s, end_s=self.end_s + by_s, deadline_s=deadline_s)

    def over_s(self, baseline_w: float) -> float:
        """Return when the cap stops having any effect: at least an hour (`CALM_S`) after its end.

        Args:
            baseline_w: The power before the cap took effect, watts; nan if unknown.
        """
        climb_w = 0.0 if math.isnan(baseline_w) else max(0.0, baseline_w - self.watts)
        return self.end_s + max(CALM_S, climb_w / self.ramp_w_per_s)

    def next_s(self, now_s: float, baseline_w: float, reach_w: float, lead_s: float) -> float:
        """Return when the scheduler must decide next because of this cap; ``inf`` if never.

        Args:
            now_s: The present time.
            baseline_w: The power before the cap took effect, watts; nan if unknown.
            reach_w: The most watts that the nodes of the cap can draw. No decision is needed while the limit is higher.
            lead_s: Jobs begin to stop this many seconds before the cap must be met.
        """
        over_s = self.over_s(baseline_w)
        moments = [self.due_s - lead_s, self.due_s, self.end_s, over_s]
        if math.isfinite(self.ramp_w_per_s):
            fall_s = self.due_s - max(0.0, reach_w - self.watts) / self.ramp_w_per_s
            fall_s = max(fall_s, self.start_s) if self.deadline_s is not None else fall_s
            top_w = reach_w if math.isnan(baseline_w) else min(reach_w, baseline_w)
            risen_s = self.end_s + max(0.0, top_w - self.watts) / self.ramp_w_per_s
            moments += [fall_s - STEP_S, risen_s]
            if fall_s - STEP_S <= now_s < self.due_s or self.end_s <= now_s < risen_s:
                moments.append(now_s + STEP_S)
        return min((s for s in moments if s > now_s), default=math.inf)


def least_allowed_w(caps: Sequence[tuple[PowerCap, float]], from_s: float, to_s: float) -> float:
    """Return the fewest watts that several caps on the same nodes allow between two times; ``inf`` without caps.

    Args:
        caps: Each cap, with the watts that its nodes drew before it took effect (nan if unknown).
        from_s, to_s: The two times, both included.
    """
    return min((cap.least_w(from_s, to_s, baseline_w) for cap, baseline_w in caps), default=math.inf)
