"""Keep all known power caps, and estimate the power that the cluster draws."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.cluster.packed_pool import ASLEEP, FAILED
from powerflow.scheduler.cap import CALM_S, CLUSTER, STEP_S, PowerCap, Scope, least_allowed_w
from powerflow.scheduler.caps.meter import Meters
from powerflow.scheduler.events import Ignored, PowerMetered
from powerflow.scheduler.ledger import Ledger
from powerflow.scheduler.pool import Pool
from powerflow.scheduler.sleep import awake_watts

MOST_LEAD_S = 120.0  # longest time before a cap is due at which jobs begin to stop for it
PATIENCE_S = 3.0  # time after a decision for which the meters may still show the power before the decision
RISE_REST, FALL_REST = 1.0, 0.1  # share of a rise or fall in unexplained power that one reading adopts
MOST_TRIM = 0.1  # largest correction of a cap, as a share of it
TRIM_FALL = 0.02  # share of the correction of a cap that each reading takes back


@dataclass(slots=True)
class Held:
    """A power cap as the present nodes have it.

    Attributes:
        cap: The cap. Its scope has no names if it covers all present nodes.
        scope: The scope as it was set.
        baseline_w: The watts that its nodes drew before the cap took effect; nan if it has no effect yet.
    """

    cap: PowerCap
    scope: Scope
    baseline_w: float = math.nan


class CapBook:
    """Keep all power caps, the power before each cap, and corrections of believed power by metered power.

    The set of nodes to which a cap applies is called its *scope*. The object is true if there is any cap.
    """

    def __init__(self, pools: Mapping[str, Pool], ledger: Ledger) -> None:
        self._pools = pools
        self._ledger = ledger
        self._held: dict[tuple[str, float], Held] = {}
        self._meters = {name: Meters() for name in pools}
        self._awake_w: dict[str, FloatArray] = {}
        self._sleep_w: dict[str, FloatArray] = {}
        self._gpus: dict[str, IntArray] = {}
        for pool in pools.values():
            self.see_nodes(pool)
        self._rest_w = 0.0  # metered power that neither jobs nor the believed idle power explain
        self._trim_w = 0.0  # extra power to reserve because the meters still show more than a cap allows
        self._metered_s = -math.inf  # time of the last reading
        self._drawn: deque[tuple[float, float]] = deque()  # (time, watts of the cluster): peaks of the last `CALM_S`

    def see_nodes(self, pool: Pool) -> None:
        """Take in the nodes of a pool, after nodes have joined or left."""
        name, nodes = pool.gpu_type, pool.occupancy.nodes
        self._awake_w[name] = np.array([awake_watts(node, pool.gpu_idle_w) for node in nodes])
        self._sleep_w[name] = np.array([node.sleep_w for node in nodes])
        self._gpus[name] = np.array([node.gpus for node in nodes])
        for held in self._held.values():
            held.cap = dataclasses.replace(held.cap, scope=self._present(held.scope))

    def _present(self, scope: Scope) -> Scope:
        """Return a scope as the present nodes have it, without names if it has all of them."""
        nodes = [node for pool in self._pools.values() for node in pool.occupancy.nodes]
        scope = scope.within(nodes)
        return Scope(scope.name) if scope.nodes is not None and scope.nodes >= {n.name for n in nodes} else scope

    def __bool__(self) -> bool:
        return bool(self._held)

    # -- caps -----------------------------------------------------------------------------------------------------

    def set(self, cap: PowerCap) -> None:
        """Add a power cap, or replace the power cap that has the same set of nodes and the same start.

        Nodes of the set that are not there have no effect until they join.
        """
        before = self._held.get((cap.scope.name, cap.start_s))
        here = dataclasses.replace(cap, scope=self._present(cap.scope))
        self._held[cap.scope.name, cap.start_s] = Held(here, cap.scope, before.baseline_w if before else math.nan)

    def lift(self, scope: str, now_s: float) -> None:
        """End all power caps on the set of nodes with this name (``scope``).

        A cap that need not be met yet, or that has no ramp, is deleted. Otherwise the cap ends now, and the limit rises
        on the ramp of the cap; it may rise above the power before the cap.

        Raises:
            Ignored: There is no power cap on this set of nodes.
        """
        keys = [key for key in self._held if key[0] == scope]
        if not keys:
            raise Ignored(f"there is no power cap on {scope}")
        for key in keys:
            held = self._held[key]
            if now_s <= held.cap.start_s or now_s < held.cap.due_s or math.isinf(held.cap.ramp_w_per_s):
                del self._held[key]
            else:
                held.cap = dataclasses.replace(held.cap, end_s=min(now_s, held.cap.end_s))
                held.baseline_w = math.nan

    def move(self, by_s: float) -> None:
        """Move all power caps to a time that is ``by_s`` seconds later (earlier if negative)."""
        for held in self._held.values():
            held.cap = held.cap.later(by_s)
        self._held = {(held.cap.scope.name, held.cap.start_s): held for held in self._held.values()}

    def forget(self, now_s: float) -> None:
        """Delete power caps that have no effect any more at time ``now_s``."""
        self._held = {k: h for k, h in self._held.items() if now_s < h.cap.over_s(h.baseline_w)}

    def scopes(self) -> list[Scope]:
        """Return all sets of nodes that have a power cap, sets with the fewest nodes first."""
        found = {held.cap.scope.name: held.cap.scope for held in self._held.values()}
        return sorted(found.values(), key=lambda s: (math.inf if s.nodes is None else len(s.nodes), s.name))

    def limit_w(self, scope: Scope, from_s: float, to_s: float) -> float:
        """Return the fewest watts that all power caps on a set of nodes allow between two times; ``inf``: no limit."""
        return least_allowed_w(
            [(held.cap, held.baseline_w) for held in self._held.values() if held.cap.scope.name == scope.name],
            from_s,
            to_s,
        )

    def next_s(self, now_s: float) -> float:
        """Return when the scheduler must decide next because of any power cap; ``inf`` if never."""
        lead_s = self.lead_s()
        return min(
            (h.cap.next_s(now_s, h.baseline_w, self._reach_w(h.cap.scope), lead_s) for h in self._held.values()),
            default=math.inf,
        )

    def lead_s(self) -> float:
        """Return the lead time: how many seconds before a power cap must be met the jobs must begin to stop.

        This is the longest pause of a running job, in seconds, but at most 120 s (`MOST_LEAD_S`).
        """
        gpus, pause_s = self._ledger.rows["gpus"], self._ledger.rows["pause_s"]
        longest_s = 0.0
        for pool in self._pools.values():
            slots = np.array(pool.active, np.int64)
            longest_s = max(longest_s, float(pause_s[slots[gpus[slots] > 0]].max(initial=0.0)))
        return min(longest_s, MOST_LEAD_S)

    def begin(self, now_s: float) -> None:
        """Record the power before a decision, for each power cap that takes effect with this decision."""
        if now_s - self._metered_s > CALM_S:  # there is no meter, or it has stopped
            self._note(now_s, self._expected_w(CLUSTER))
        for held in self._held.values():
            cap = held.cap
            if math.isnan(held.baseline_w) and now_s < cap.end_s:  # not after a lift
                whole = cap.scope.nodes is None
                before_w = max(w for _, w in self._drawn) if whole else self._expected_w(cap.scope)
                if now_s >= cap.due_s or cap.least_w(now_s, now_s + STEP_S, math.nan) < before_w:
                    held.baseline_w = before_w

    def _note(self, now_s: float, watts: float) -> None:
        while self._drawn and self._drawn[0][0] < now_s - CALM_S:
            self._drawn.popleft()
        while self._drawn and self._drawn[-1][1] <= watts:  # lower values are never the maximum of an hour any more
            self._drawn.pop()
        self._drawn.append((now_s, watts))

    # -- watts ----------------------------------------------------------------------------------------------------

    def watts(self, pool: Pool) -> FloatArray:
        """Return the watts to plan with, including a margin for error: ``[K, N, F]``, classes × GPU counts × clocks.

        They are the watts of all GPUs of a job together, corrected by metered power.
        """
        watts, margin = self._meters[pool.gpu_type].expected(pool.costs.arrays()[1])
        return watts * margin

    def inside(self, pool: Pool, scope: Scope) -> BoolArray:
        """Return for each of the N nodes of a pool if it is in a set of nodes (``scope``), ``[N]``."""
        nodes = pool.occupancy.nodes
        if scope.nodes is None:
            return np.ones(len(nodes), np.bool_)
        return np.array([node.name in scope.nodes for node in nodes])

    def is_whole(self, scope: Scope) -> bool:
        """Return True if a set of nodes consists of whole pools: it has all nodes or no node of each pool."""
        inside = [self.inside(pool, scope) for pool in self._pools.values()]
        return all(nodes.all() or not nodes.any() for nodes in inside)

    def idle_w(self, scope: Scope) -> float:
        """Return the watts that a set of nodes would draw if all its GPUs were idle.

        Sleeping nodes stay asleep, and failed nodes draw 0. Metered power that belongs to no known device is included,
        in proportion to the GPUs of the nodes.
        """
        total = all_gpus = gpus = 0.0
        for name, pool in self._pools.items():
            status, inside = pool.occupancy.status(), self.inside(pool, scope)
            watts = np.where(status == ASLEEP, self._sleep_w[name], self._awake_w[name])
            total += float(watts[inside & (status != FAILED)].sum())
            gpus += float(self._gpus[name][inside].sum())
            all_gpus += float(self._gpus[name].sum())
        return max(0.0, total + (self._rest_w + self._trim_w) * gpus / all_gpus)

    def wake_w(self, pool: Pool, gpus: int) -> float:
        """Return the watts that are added if sleeping nodes with at least ``gpus`` GPUs together are switched on."""
        extra = 0.0
        for i in np.flatnonzero(pool.occupancy.status() == ASLEEP).tolist():  # in the order of `Sleepers.wake`
            if gpus <= 0:
                break
            extra += float(self._awake_w[pool.gpu_type][i] - self._sleep_w[pool.gpu_type][i])
            gpus -= int(self._gpus[pool.gpu_type][i])
        return extra

    def outside(self, pool: Pool, slots: IntArray, scope: Scope) -> IntArray:
        """Return how many GPUs each of J jobs holds outside a set of nodes (``scope``), ``[J]``."""
        held = self._ledger.rows["gpus"][slots]
        if scope.nodes is None:
            return np.zeros(len(slots), np.int64)
        within = dict.fromkeys(slots.tolist(), 0)
        for node in pool.occupancy.nodes:
            if node.name in scope.nodes:
                for slot in pool.occupancy.owners_on(node.name).tolist():
                    shares = pool.occupancy.placement(slot)
                    within[slot] += sum(len(share.gpus) for share in shares if share.node == node.name)
        return held.astype(np.int64) - np.array([within[slot] for slot in slots.tolist()], np.int64)

    def drawn_w(self, scope: Scope) -> float:
        """Return the watts that a set of nodes draws with the present allocations, including a margin for error."""
        return self._drawn_w(scope, {name: self.watts(pool) for name, pool in self._pools.items()})

    def left_w(self, from_s: float, to_s: float) -> dict[str, float]:
        """Return the watts that may still be added between two times, by name of each set of nodes with a cap."""
        limits = ((scope, self.limit_w(scope, from_s, to_s)) for scope in self.scopes())
        return {scope.name: limit_w - self.drawn_w(scope) for scope, limit_w in limits if limit_w < math.inf}

    def _expected_w(self, scope: Scope) -> float:
        """Return the watts that a set of nodes draws with the present allocations, without a margin for error."""
        pools = self._pools.items()
        return self._drawn_w(scope, {name: self._meters[name].expected(p.costs.arrays()[1])[0] for name, p in pools})

    def _drawn_w(self, scope: Scope, tables: Mapping[str, FloatArray]) -> float:
        total, rows = self.idle_w(scope), self._ledger.rows
        for pool in self._pools.values():
            slots = np.array(pool.active, np.int64)
            slots = slots[rows["gpus"][slots] > 0]
            if len(slots):
                gpus = rows["gpus"][slots].astype(np.int64)
                watts = tables[pool.gpu_type][rows["cost"][slots], pool.count_index[gpus], rows["clock"][slots]]
                above_w = np.maximum(0.0, watts - gpus * pool.gpu_idle_w)
                if scope.nodes is not None:
                    above_w *= 1.0 - self.outside(pool, slots, scope) / gpus
                total += float(above_w.sum())
        return total

    def _reach_w(self, scope: Scope) -> float:
        """Return the most watts that a set of nodes can draw: all nodes on, each GPU with the class that draws most."""
        total = 0.0
        for name, pool in self._pools.items():
            inside = self.inside(pool, scope)
            per_gpu = self.watts(pool) / pool.axes.gpu_counts[None, :, None] - pool.gpu_idle_w
            total += float(self._awake_w[name][inside].sum())
            total += float(self._gpus[name][inside].sum()) * max(0.0, float(per_gpu.max(initial=0.0)))
        return total

    # -- the meter ------------------------------------------------------------------------------------------------

    def metered(self, event: PowerMetered, pool_of: Mapping[int, Pool], now_s: float, decided_s: float) -> bool:
        """Correct the believed power by a reading of the power meters.

        Args:
            event: The reading.
            pool_of: The pool of each job, by slot (row of the ledger).
            now_s: The time of the reading.
            decided_s: When the last decision was made.

        Returns:
            True if more power is drawn than power caps allow, so that the scheduler must decide at once.
        """
        rows = self._ledger.rows
        known = np.array([slot in pool_of for slot in event.slots.tolist()], np.bool_)
        slots, job_w, steady = event.slots[known], event.job_w[known], event.steady[known]
        idle_w = self.idle_w(CLUSTER) - self._rest_w - self._trim_w
        for name, pool in self._pools.items():
            here = np.array([pool_of[slot] is pool for slot in slots.tolist()], np.bool_)
            idle_w -= float(rows["gpus"][slots[here]].sum()) * pool.gpu_idle_w
            read = here & steady & (rows["gpus"][slots] > 0)
            if read.any():
                which = rows[slots[read]]
                level = pool.count_index[which["gpus"]]
                shape = pool.costs.arrays()[1].shape
                self._meters[name].read(shape, which["cost"], level, which["clock"], job_w[read])
        rest_w = event.watts - float(job_w.sum()) - idle_w
        self._rest_w += (RISE_REST if rest_w > self._rest_w else FALL_REST) * (rest_w - self._rest_w)
        self._metered_s = now_s
        self._note(now_s, event.watts)
        self._trim_w *= 1.0 - TRIM_FALL
        over_w = event.watts - self.limit_w(CLUSTER, now_s, now_s)
        if over_w > 0.0 and now_s >= decided_s + PATIENCE_S and self.drawn_w(CLUSTER) < event.watts:
            # the plan has been carried out, and known power does not explain what the meter shows
            self._trim_w = min(self._trim_w + over_w, MOST_TRIM * (event.watts - over_w))
        return over_w > 0.0 or self.breached(now_s)

    def breached(self, now_s: float) -> bool:
        """Return True if any set of nodes draws more power than its power caps allow at time ``now_s``."""
        limits = ((scope, self.limit_w(scope, now_s, now_s)) for scope in self.scopes())
        return any(limit_w < math.inf and self.drawn_w(scope) > limit_w + 1.0 for scope, limit_w in limits)
