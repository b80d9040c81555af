"""The power caps that a scheduler knows of, and what it knows of the cluster's power."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.cluster.packing import ASLEEP, FAILED
from powerflow.scheduler.cap import CALM_S, CLUSTER, STEP_S, PowerCap, Scope, least_allowed_w
from powerflow.scheduler.caps.meter import Meters
from powerflow.scheduler.events import PowerMetered
from powerflow.scheduler.ledger import Ledger
from powerflow.scheduler.pool import Pool
from powerflow.scheduler.sleep import awake_watts

MOST_LEAD_S = 120.0  # jobs begin to stop at most so long before a cap is due
PATIENCE_S = 3.0  # a plan has so long to show on the meter
RISE_REST, FALL_REST = 1.0, 0.1  # a host that draws more counts at once, one that draws less by and by
MOST_TRIM = 0.1  # of a cap
TRIM_FALL = 0.02  # what was added because the meter stayed above a cap shrinks so much with every reading


@dataclass(slots=True)
class Held:
    """A cap, and what its scope drew before it began to hold (nan: it has not begun)."""

    cap: PowerCap
    baseline_w: float = math.nan


class CapBook:
    """Caps, their baselines, and watts as metered.

    Args:
        pools: The scheduler's.
        ledger: The scheduler's.
    """

    def __init__(self, pools: Mapping[str, Pool], ledger: Ledger) -> None:
        self._pools = pools
        self._ledger = ledger
        self._held: dict[tuple[str, float], Held] = {}
        self._meters = {name: Meters() for name in pools}
        self._awake_w = {
            name: np.array([awake_watts(node, pool.gpu_idle_w) for node in pool.occupancy.nodes])
            for name, pool in pools.items()
        }
        self._sleep_w = {
            name: np.array([node.sleep_w for node in pool.occupancy.nodes]) for name, pool in pools.items()
        }
        self._gpus = {name: np.array([node.gpus for node in pool.occupancy.nodes]) for name, pool in pools.items()}
        self._rest_w = 0.0  # metered beside all jobs, beyond what idle GPUs and nodes are believed to draw
        self._trim_w = 0.0  # what has to be kept free because the meter says more than all that is known
        self._metered_s = -math.inf  # when a meter was last read
        self._drawn: deque[tuple[float, float]] = deque()  # when, watts of the cluster: the peaks of the last `CALM_S`

    def __bool__(self) -> bool:
        return bool(self._held)

    # -- caps -----------------------------------------------------------------------------------------------------

    def set(self, cap: PowerCap) -> str:
        """Take a cap in; the answer says why it cannot be used, "" if it can."""
        known = {node.name for pool in self._pools.values() for node in pool.occupancy.nodes}
        if cap.scope.nodes is not None:
            if not cap.scope.nodes:
                return f"power cap on {cap.scope.name}: it has no nodes"
            if unknown := cap.scope.nodes - known:
                return f"power cap on {cap.scope.name}: node {min(unknown)} is unknown"
            if cap.scope.nodes == known:
                cap = dataclasses.replace(cap, scope=Scope(cap.scope.name))
        before = self._held.get((cap.scope.name, cap.start_s))
        self._held[cap.scope.name, cap.start_s] = Held(cap, before.baseline_w if before else math.nan)
        return ""

    def lift(self, scope: str, now_s: float) -> str:
        """End the caps of a scope; the answer says why that is not possible, "" if it is.

        Whoever lifts a cap wants it gone: power comes back on its ramp, and is not held at what it was before.
        """
        keys = [key for key in self._held if key[0] == scope]
        if not keys:
            return f"there is no power cap on {scope}"
        for key in keys:
            held = self._held[key]
            if now_s <= held.cap.start_s or now_s < held.cap.due_s or math.isinf(held.cap.ramp_w_per_s):
                del self._held[key]
            else:
                held.cap = dataclasses.replace(held.cap, end_s=min(now_s, held.cap.end_s))
                held.baseline_w = math.nan
        return ""

    def move(self, by_s: float) -> None:
        """All caps come so much later."""
        for held in self._held.values():
            held.cap = held.cap.later(by_s)
        self._held = {(held.cap.scope.name, held.cap.start_s): held for held in self._held.values()}

    def forget(self, now_s: float) -> None:
        """Drop what is over."""
        self._held = {k: h for k, h in self._held.items() if now_s < h.cap.over_s(h.baseline_w)}

    def scopes(self) -> list[Scope]:
        """The scopes with caps, those with the fewest nodes first."""
        found = {held.cap.scope.name: held.cap.scope for held in self._held.values()}
        return sorted(found.values(), key=lambda s: (math.inf if s.nodes is None else len(s.nodes), s.name))

    def limit_w(self, scope: Scope, from_s: float, to_s: float) -> float:
        """The least that is allowed to a scope from one moment to another."""
        return least_allowed_w(
            [(held.cap, held.baseline_w) for held in self._held.values() if held.cap.scope.name == scope.name],
            from_s,
            to_s,
        )

    def next_s(self, now_s: float) -> float:
        """When a decision is due next because of a cap."""
        lead_s = self.lead_s()
        return min(
            (h.cap.next_s(now_s, h.baseline_w, self._reach_w(h.cap.scope), lead_s) for h in self._held.values()),
            default=math.inf,
        )

    def lead_s(self) -> float:
        """So long before a cap is due, jobs begin to stop that must: the longest pause of a running one."""
        gpus, pause_s = self._ledger.rows["gpus"], self._ledger.rows["pause_s"]
        longest_s = 0.0
        for pool in self._pools.values():
            slots = np.array(pool.active, np.int64)
            longest_s = max(longest_s, float(pause_s[slots[gpus[slots] > 0]].max(initial=0.0)))
        return min(longest_s, MOST_LEAD_S)

    def begin(self, now_s: float) -> None:
        """Note what is drawn before a decision: the baseline of caps that begin to hold with it."""
        if now_s - self._metered_s > CALM_S:  # nobody meters, or not any more
            self._note(now_s, self._expected_w(CLUSTER))
        for held in self._held.values():
            cap = held.cap
            if math.isnan(held.baseline_w):
                whole = cap.scope.nodes is None
                before_w = max(w for _, w in self._drawn) if whole else self._expected_w(cap.scope)
                if now_s >= cap.due_s or cap.least_w(now_s, now_s + STEP_S, math.nan) < before_w:
                    held.baseline_w = before_w

    def _note(self, now_s: float, watts: float) -> None:
        while self._drawn and self._drawn[0][0] < now_s - CALM_S:
            self._drawn.popleft()
        while self._drawn and self._drawn[-1][1] <= watts:  # it can be the highest of no hour any more
            self._drawn.pop()
        self._drawn.append((now_s, watts))

    # -- watts ----------------------------------------------------------------------------------------------------

    def watts(self, pool: Pool) -> FloatArray:
        """``[K, N, F]`` watts of all n GPUs to reckon with in a pool."""
        watts, margin = self._meters[pool.gpu_type].expected(pool.book.arrays()[1])
        return watts * margin

    def inside(self, pool: Pool, scope: Scope) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """``[N]`` which nodes of a pool are in a scope."""
        nodes = pool.occupancy.nodes
        if scope.nodes is None:
            return np.ones(len(nodes), np.bool_)
        return np.array([node.name in scope.nodes for node in nodes])

    def is_whole(self, scope: Scope) -> bool:
        """Whether a scope holds all or nothing of every pool."""
        inside = [self.inside(pool, scope) for pool in self._pools.values()]
        return all(nodes.all() or not nodes.any() for nodes in inside)

    def idle_w(self, scope: Scope) -> float:
        """Watts of a scope when all its GPUs idle, nodes as they are: awake, asleep or failed (which draw nothing)."""
        total = all_gpus = gpus = 0.0
        for name, pool in self._pools.items():
            status, inside = pool.occupancy.status(), self.inside(pool, scope)
            watts = np.where(status == ASLEEP, self._sleep_w[name], self._awake_w[name])
            total += float(watts[inside & (status != FAILED)].sum())
            gpus += float(self._gpus[name][inside].sum())
            all_gpus += float(self._gpus[name].sum())
        return max(0.0, total + (self._rest_w + self._trim_w) * gpus / all_gpus)

    def wake_w(self, pool: Pool, gpus: int) -> float:
        """Watts that waking nodes adds if so many more GPUs are needed than are free."""
        extra = 0.0
        for i in np.flatnonzero(pool.occupancy.status() == ASLEEP).tolist():  # in the order of `Sleepers.wake`
            if gpus <= 0:
                break
            extra += float(self._awake_w[pool.gpu_type][i] - self._sleep_w[pool.gpu_type][i])
            gpus -= int(self._gpus[pool.gpu_type][i])
        return extra

    def outside(self, pool: Pool, slots: IntArray, scope: Scope) -> IntArray:
        """``[J]`` GPUs that jobs hold outside a scope."""
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
        """Watts that a scope is believed to draw as the ledger stands, with what is allowed for error."""
        return self._drawn_w(scope, {name: self.watts(pool) for name, pool in self._pools.items()})

    def left_w(self, from_s: float, to_s: float) -> dict[str, float]:
        """Watts that each scope with a limit may still draw from one moment to another, by its name."""
        limits = ((scope, self.limit_w(scope, from_s, to_s)) for scope in self.scopes())
        return {scope.name: limit_w - self.drawn_w(scope) for scope, limit_w in limits if limit_w < math.inf}

    def _expected_w(self, scope: Scope) -> float:
        """The same without allowing for error."""
        pools = self._pools.items()
        return self._drawn_w(scope, {name: self._meters[name].expected(p.book.arrays()[1])[0] for name, p in pools})

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
        """Watts that a scope cannot exceed: every node awake, every GPU as busy as anything known makes it."""
        total = 0.0
        for name, pool in self._pools.items():
            inside = self.inside(pool, scope)
            per_gpu = self.watts(pool) / pool.axes.gpu_counts[None, :, None] - pool.gpu_idle_w
            total += float(self._awake_w[name][inside].sum())
            total += float(self._gpus[name][inside].sum()) * max(0.0, float(per_gpu.max(initial=0.0)))
        return total

    # -- the meter ------------------------------------------------------------------------------------------------

    def metered(self, event: PowerMetered, pool_of: Mapping[int, Pool], now_s: float, decided_s: float) -> bool:
        """Take a reading in; whether it calls for a decision at once."""
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
                shape = pool.book.arrays()[1].shape
                self._meters[name].read(shape, which["cost"], level, which["clock"], job_w[read])
        rest_w = event.watts - float(job_w.sum()) - idle_w
        self._rest_w += (RISE_REST if rest_w > self._rest_w else FALL_REST) * (rest_w - self._rest_w)
        self._metered_s = now_s
        self._note(now_s, event.watts)
        self._trim_w *= 1.0 - TRIM_FALL
        over_w = event.watts - self.limit_w(CLUSTER, now_s, now_s)
        if over_w > 0.0 and now_s >= decided_s + PATIENCE_S and self.drawn_w(CLUSTER) < event.watts:
            # the plan has been carried out, and all that is known does not explain what the meter says
            self._trim_w = min(self._trim_w + over_w, MOST_TRIM * (event.watts - over_w))
        return over_w > 0.0 or self.breached(now_s)

    def breached(self, now_s: float) -> bool:
        """Whether a scope is believed to draw more than it is allowed now."""
        limits = ((scope, self.limit_w(scope, now_s, now_s)) for scope in self.scopes())
        return any(limit_w < math.inf and self.drawn_w(scope) > limit_w + 1.0 for scope, limit_w in limits)
