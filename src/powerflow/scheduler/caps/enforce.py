"""Make decisions under power caps:

1. Ask the policy of each pool.
2. Reduce the answers to what power caps on whole pools allow (usually caps on the whole cluster). So no job moves to
   GPUs that it must give up at once.
3. Place the answers on nodes.
4. Reduce the jobs on nodes that have other power caps: caps on racks, on rows of racks and on lists of nodes.

Steps 2 and 4 give a job fewer GPUs or a lower clock than the policy does, never more GPUs or a higher clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from powerflow.arrays import IntArray
from powerflow.cluster.packed_pool import UP
from powerflow.policy.protocol import Allocation
from powerflow.scheduler.cap import CLUSTER, STEP_S, Scope
from powerflow.scheduler.caps.book import CapBook
from powerflow.scheduler.caps.fit import CapFit, Menu, fit, menu_of
from powerflow.scheduler.differences import Decision
from powerflow.scheduler.ledger import Ledger
from powerflow.scheduler.pool import Pool

HOLD_BACK_S = 900.0  # time in which a job that a cap on some nodes has shrunk may not grow again
Asked = list[tuple[Pool, Decision]]


@dataclass(slots=True)
class Capped:
    """The effect of power caps on a plan.

    Attributes:
        power_w: Watts that the cluster should draw under the plan; nan without a power cap.
        cap_w: Watts that power caps on the whole cluster allow until the next decision; ``inf`` without a limit.
        watt_price: Price of a watt, seconds per joule like the energy price λ_E; 0 if no job gets fewer GPUs or a lower
            clock because of a power cap.
        notices: Which power caps cannot be met, in words.
    """

    power_w: float = math.nan
    cap_w: float = math.inf
    watt_price: float = 0.0
    notices: list[str] = field(default_factory=list)


class Enforcer:
    """Make decisions that keep all power caps.

    Args:
        caps: The power caps.
        ledger: The active jobs.
    """

    def __init__(self, caps: CapBook, ledger: Ledger) -> None:
        self._caps = caps
        self._ledger = ledger
        self._held_back: dict[str, dict[int, tuple[str, int, float]]] = {}  # by pool, slot: job, GPUs, until when

    def forget(self) -> None:
        """Allow jobs that a power cap has shrunk to grow again, because the power caps have changed."""
        self._held_back.clear()

    def most(self, pool: Pool, now_s: float) -> dict[int, int]:
        """Return the jobs of a pool that may not get more GPUs for now, because a power cap has shrunk them.

        Returns:
            By slot (row of the ledger), the most GPUs that the job may get.
        """
        held_back = self._held_back.get(pool.gpu_type, {})
        slot_of = self._ledger.slot_of
        return {
            slot: gpus
            for slot, (name, gpus, until_s) in held_back.items()
            if until_s > now_s and slot_of.get(name) == slot and self._ledger.rows["gpus"][slot] <= gpus
        }

    def decide(self, pools: Sequence[Pool], ask: Callable[[Pool, int], Decision], now_s: float) -> tuple[Asked, Capped]:
        """Make a decision for some pools that keeps all power caps, and place it on nodes.

        Args:
            pools: The pools that have jobs, or nodes that can sleep.
            ask: A function that asks the policy of a pool. Its second argument is how many GPUs must not be used.
            now_s: The time.

        Returns:
            Each pool with its decision, and what the plan says about power caps.
        """
        self._caps.begin(now_s)
        capped = Capped(cap_w=self._caps.limit_w(CLUSTER, now_s, now_s + STEP_S))
        asked = self._ask(pools, ask, now_s, capped)
        for pool, decision in asked:
            pool.place(decision, self._ledger, now_s)
        self._fit_placed(asked, now_s, capped)
        for pool, decision in asked:
            pool.conclude(decision, now_s)
        capped.power_w = self._caps.drawn_w(CLUSTER)
        return asked, capped

    # -- before placement -----------------------------------------------------------------------------------------

    def _ask(self, pools: Sequence[Pool], ask: Callable[[Pool, int], Decision], now_s: float, capped: Capped) -> Asked:
        """Ask the policy of each pool, and reduce the answers to what power caps on whole pools allow.

        A node that is switched on draws watts. If jobs would have to give up GPUs while nodes are switched on, the
        policies are asked again with half as many GPUs of sleeping nodes, and so on.
        """
        asleep = [pool.occupancy.asleep for pool in pools]
        shift = 0
        while True:
            left_out = [gpus - (gpus >> shift) for gpus in asleep]
            asked = [(pool, ask(pool, without)) for pool, without in zip(pools, left_out, strict=True)]
            waking = [self._needed(pool, decision) for pool, decision in asked]
            result = self._fit_asked(asked, waking, now_s)
            stopped = any((gpus < d.wish.gpus).any() for (_, d), gpus in zip(asked, result.gpus, strict=True))
            if not (stopped and any(gpus >> shift for gpus in asleep) and any(w > 0 for w in waking)):
                break
            shift += 1
        for (_, decision), gpus, clock in zip(asked, result.gpus, result.clock, strict=True):
            wish = decision.wish
            decision.answer = Allocation(gpus, clock, wish.gpu_price, wish.worth)
        capped.watt_price = result.watt_price
        return asked

    @staticmethod
    def _needed(pool: Pool, decision: Decision) -> int:
        """Return how many more GPUs a decision needs than are free or given up by jobs."""
        had = decision.view.jobs["gpus"]
        leaving = int(had[np.isin(decision.slots, list(pool.evicted))].sum()) if pool.evicted else 0
        return int(decision.wish.gpus.sum()) - (int(had.sum()) - leaving) - pool.occupancy.free

    def _fit_asked(self, asked: Asked, waking: Sequence[int], now_s: float) -> CapFit:
        """Return the answers reduced to what power caps on whole pools allow.

        If jobs must give up GPUs for a power cap, they do so some time before the cap must be met, because a job needs
        time to stop.
        """
        gpus = [decision.wish.gpus for _, decision in asked]
        now = self._fit_whole(asked, waking, now_s, now_s + STEP_S)
        ahead_s = now_s + STEP_S + self._caps.lead_s()
        whole = self._whole()
        if all(self._caps.limit_w(s, now_s, ahead_s) == self._caps.limit_w(s, now_s, now_s + STEP_S) for s in whole):
            return now
        ahead = self._fit_whole(asked, waking, now_s, ahead_s)
        stops = any((less < had).any() for less, had in zip(ahead.gpus, gpus, strict=True))
        return ahead if stops else now

    def _fit_whole(self, asked: Asked, waking: Sequence[int], from_s: float, to_s: float) -> CapFit:
        gpus, clock = [d.wish.gpus for _, d in asked], [d.wish.clock for _, d in asked]
        price, met = 0.0, True
        drawn_w = 0.0
        for scope in self._whole():
            limit_w = self._caps.limit_w(scope, from_s, to_s)
            within = [i for i, (pool, _) in enumerate(asked) if self._caps.inside(pool, scope).all()]
            if limit_w == math.inf:
                continue
            menus = []
            for i in within:
                pool, decision = asked[i]
                outside = np.zeros(len(decision.slots), np.int64)
                menus.append(self._menu(pool, decision, Allocation(gpus[i], clock[i]), outside))
            idle_w = self._caps.idle_w(scope) + sum(self._caps.wake_w(asked[i][0], waking[i]) for i in within)
            unmanaged_w = sum(self._unmanaged_w(*asked[i], Allocation(gpus[i], clock[i])) for i in within)
            result = fit(menus, max(0.0, limit_w - idle_w - unmanaged_w))
            for i, had, at in zip(within, result.gpus, result.clock, strict=True):
                gpus[i], clock[i] = had, at
            price, met, drawn_w = max(price, result.watt_price), met and result.met, result.drawn_w
        return CapFit(gpus, clock, drawn_w, price, met)

    def _menu(self, pool: Pool, decision: Decision, now: Allocation, outside: IntArray) -> Menu:
        guarded = np.isin(decision.slots, list(pool.guarded))
        outside = np.where(decision.view.jobs["unmanaged"], now.gpus, outside)  # nothing can be taken from these jobs
        watts = self._caps.watts(pool)
        return menu_of(decision.view, decision.wish, now, watts, pool.gpu_idle_w, outside, guarded)

    def _unmanaged_w(self, pool: Pool, decision: Decision, now: Allocation, outside: IntArray | None = None) -> float:
        """Return the watts above idle that unmanaged jobs add to a set of nodes; a power cap cannot reduce these watts.

        ``outside``, ``[J]``, is how many GPUs each of J jobs has outside the set of nodes; None: none.
        """
        who = np.flatnonzero(decision.view.jobs["unmanaged"] & (now.gpus > 0))
        gpus = now.gpus[who]
        configurations = decision.view.jobs["cost"][who], decision.view.count_index[gpus], now.clock[who]
        inside = 1.0 if outside is None else (gpus - outside[who]) / gpus
        watts = np.nan_to_num(self._caps.watts(pool)[configurations])  # 0 where it is believed that it cannot run
        return float(np.sum(inside * np.maximum(0.0, watts - gpus * pool.gpu_idle_w)))

    def _whole(self) -> list[Scope]:
        """Return the sets of nodes with a power cap that have all nodes or no node of each pool."""
        return [scope for scope in self._caps.scopes() if self._caps.is_whole(scope)]

    # -- after placement ------------------------------------------------------------------------------------------

    def _fit_placed(self, asked: Asked, now_s: float, capped: Capped) -> None:
        """Reduce placed jobs on nodes that draw more than a power cap allows, until no nodes do or nothing helps."""
        scopes = self._caps.scopes()
        to_s = {s.name: now_s + STEP_S + (0.0 if self._caps.is_whole(s) else self._caps.lead_s()) for s in scopes}
        stuck: set[str] = set()
        again = True
        while again:
            again = False
            for scope in scopes:
                limit_w = self._caps.limit_w(scope, now_s, to_s[scope.name])
                if scope.name in stuck or limit_w == math.inf or self._caps.drawn_w(scope) <= limit_w + 1e-3:
                    continue
                if not self._lessen(asked, scope, limit_w, now_s, capped):
                    stuck.add(scope.name)
                again = True
        for scope in scopes:
            limit_w, drawn_w = self._caps.limit_w(scope, now_s, now_s + STEP_S), self._caps.drawn_w(scope)
            if drawn_w > limit_w + 1e-3:
                unmanaged = any((d.view.jobs["unmanaged"] & (d.answer.gpus > 0)).any() for _, d in asked)
                given = any((d.view.jobs["given"] & (d.answer.gpus > 0)).any() for _, d in asked)
                why = "jobs of unmanaged projects run" if unmanaged else "all jobs are paused"
                if given and not unmanaged:
                    why = "jobs of another scheduler run, which cannot be stopped"
                capped.notices.append(
                    f"power cap on {scope.name}: {limit_w:.0f} W are allowed, "
                    f"{drawn_w:.0f} W are believed to be drawn: {why}"
                )

    def _lessen(self, asked: Asked, scope: Scope, limit_w: float, now_s: float, capped: Capped) -> bool:
        """Reduce the jobs on one set of nodes (``scope``) to ``limit_w``; return False if no job could be reduced."""
        self._unwake(asked, scope, limit_w)
        menus, unmanaged_w = [], 0.0
        for pool, decision in asked:
            outside = self._caps.outside(pool, decision.slots, scope)
            menus.append(self._menu(pool, decision, decision.answer, outside))
            unmanaged_w += self._unmanaged_w(pool, decision, decision.answer, outside)
        result = fit(menus, max(0.0, limit_w - self._caps.idle_w(scope) - unmanaged_w))
        capped.watt_price = max(capped.watt_price, result.watt_price)
        lessened = False
        for (pool, decision), gpus, clock in zip(asked, result.gpus, result.clock, strict=True):
            answer = decision.answer
            lessened |= bool((gpus != answer.gpus).any() or (clock != answer.clock).any())
            held_back = self._held_back.setdefault(pool.gpu_type, {})
            for j in np.flatnonzero((gpus < answer.gpus) & (gpus > 0)).tolist():
                slot = int(decision.slots[j])
                held_back[slot] = self._ledger.job(slot).id, int(gpus[j]), now_s + HOLD_BACK_S
            pool.lessen(decision, self._ledger, Allocation(gpus, clock, answer.gpu_price, answer.worth), scope, now_s)
        return lessened

    def _unwake(self, asked: Asked, scope: Scope, limit_w: float) -> None:
        """Keep nodes of ``scope`` asleep that decisions would switch on, if they would draw too much even when idle."""
        for pool, decision in asked:
            nodes = [name for name in decision.woken if scope.nodes is None or name in scope.nodes]
            if not nodes or self._caps.idle_w(scope) <= limit_w:
                continue
            owners = {slot for name in nodes for slot in pool.occupancy.owners_on(name).tolist()}
            gone = np.isin(decision.slots, list(owners))
            answer = decision.answer
            less = Allocation(np.where(gone, 0, answer.gpus), answer.clock, answer.gpu_price, answer.worth)
            pool.lessen(decision, self._ledger, less, scope, decision.view.now_s)
            for name in nodes:
                if pool.occupancy.status_of(name) == UP and not len(pool.occupancy.owners_on(name)):
                    pool.occupancy.sleep(name)
                    decision.woken.remove(name)
