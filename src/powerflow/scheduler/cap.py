"""Power caps: so many watts for a set of nodes, from when to when, and how steeply power may change.

What a cap allows over time is a line: down to the cap before it is due, flat while it holds, and up again after its
end, to what was drawn before it and no higher until it has been forgotten. A decision is held to the least that is
allowed until the next one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from powerflow.cluster.spec import ClusterSpec
from powerflow.errors import InputError
from powerflow.units import HOUR_S

STEP_S = 5.0  # on a ramp, decisions are so far apart
CALM_S = HOUR_S  # so long after a cap ends, power stays at or below what it was before


@dataclass(frozen=True, slots=True)
class Scope:
    """A set of nodes.

    Attributes:
        name: For people: ``cluster``, ``rack:rack-0``, ``row:rack-0,rack-1``, ``nodes:gpu001,gpu002``.
        nodes: Names of its nodes; None: every node there is.
    """

    name: str
    nodes: frozenset[str] | None = None


CLUSTER = Scope("cluster")


def parse_scope(text: str, cluster: ClusterSpec, where: str = "--scope") -> Scope:
    """Read ``cluster``, ``rack:NAME``, ``row:RACK,RACK,…`` (a row is a set of racks) or ``nodes:NODE,NODE,…``.

    Raises:
        InputError: It is none of these, or the cluster has no such rack or node.
    """
    kind, _, rest = text.strip().partition(":")
    names = [name.strip() for name in rest.split(",") if name.strip()]
    if kind == "cluster" and not rest:
        return CLUSTER
    if kind not in ("rack", "row", "nodes") or not names or (kind == "rack" and len(names) != 1):
        raise InputError(
            f"{text!r} is no part of a cluster",
            where=where,
            fix="write cluster, rack:NAME, row:RACK,RACK or nodes:NODE",
        )
    known = {node.name if kind == "nodes" else node.rack for node in cluster.nodes}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"there is no {'node' if kind == 'nodes' else 'rack'} {unknown[0]!r}", where=where)
    inside = (node.name for node in cluster.nodes if (node.name if kind == "nodes" else node.rack) in names)
    return Scope(f"{kind}:{','.join(sorted(names))}", frozenset(inside))


@dataclass(frozen=True, slots=True)
class PowerCap:
    """A bound on power that no plan exceeds.

    Attributes:
        watts: What the nodes of the scope may draw together: their GPUs, used or not, and the nodes' own watts.
        scope: Which nodes.
        start_s: From when on.
        end_s: Until when; ``inf``: until it is lifted.
        deadline_s: By when it must be met, if later than ``start_s``: between the two, power goes down as gently as
            the ramp asks for. None: it is met at ``start_s``; if there is a ramp, and it is known early enough, power
            goes down before.
        ramp_w_per_s: How fast power may be made to change, down and up; ``inf``: at once. A cap that is known
            too late to be met on its ramp is met all the same.

    Raises:
        InputError: Something in it cannot be.
    """

    watts: float
    scope: Scope = CLUSTER
    start_s: float = -math.inf
    end_s: float = math.inf
    deadline_s: float | None = None
    ramp_w_per_s: float = math.inf

    def __post_init__(self) -> None:
        if not (self.watts > 0 and math.isfinite(self.watts)):
            raise InputError(f"a cap of {self.watts:g} W", where="power cap", fix="give watts > 0")
        if not self.end_s > self.start_s:
            raise InputError("it ends before it starts", where="power cap")
        if self.deadline_s is not None and not self.start_s <= self.deadline_s < self.end_s:
            raise InputError("its deadline is not between its start and its end", where="power cap")
        if not self.ramp_w_per_s > 0:
            raise InputError(f"a ramp of {self.ramp_w_per_s:g} W/s", where="power cap", fix="give W/s > 0")

    @property
    def due_s(self) -> float:
        """When it must be met."""
        return self.start_s if self.deadline_s is None else self.deadline_s

    def allowed_w(self, at_s: float, baseline_w: float) -> float:
        """Watts allowed at a moment; ``inf`` where the cap says nothing.

        Args:
            at_s: The moment.
            baseline_w: What was drawn before it began to hold: power stays below that for `CALM_S` after its end.
                nan if nobody knows.
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
        """The least that is allowed from one moment to (and with) another."""
        # allowed power falls until the cap is due and rises after its end: ends and corners are enough
        corners = (self.start_s, self.due_s)
        moments = [from_s, to_s, *(s for s in corners if from_s < s < to_s)]
        return min(self.allowed_w(s, baseline_w) for s in moments)

    def later(self, by_s: float) -> PowerCap:
        """The same cap, so many seconds later."""
        deadline_s = None if self.deadline_s is None else self.deadline_s + by_s
        return replace(self, start_s=self.start_s + by_s, end_s=self.end_s + by_s, deadline_s=deadline_s)

    def over_s(self, baseline_w: float) -> float:
        """When it has been forgotten."""
        climb_w = 0.0 if math.isnan(baseline_w) else max(0.0, baseline_w - self.watts)
        return self.end_s + max(CALM_S, climb_w / self.ramp_w_per_s)

    def next_s(self, now_s: float, baseline_w: float, reach_w: float, lead_s: float) -> float:
        """When a decision is due next because of it; ``inf`` if never.

        Args:
            now_s: The present.
            baseline_w: See `allowed_w`.
            reach_w: Watts above which the scope does not get anyway: no need to walk down a ramp from the sky.
            lead_s: So long before it is due, jobs begin to stop that must.
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
    """The least that several caps (each with its baseline) of one scope allow together."""
    return min((cap.least_w(from_s, to_s, baseline_w) for cap, baseline_w in caps), default=math.inf)
