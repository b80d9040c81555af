"""One pool of equal GPUs: asks the policy, and turns its answer into placed changes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerflow.cluster.consolidate import Spread, consolidate
from powerflow.cluster.occupancy import Occupancy
from powerflow.cluster.spec import Node
from powerflow.cost.table import Axes, IntArray
from powerflow.policy.protocol import Allocation, Policy, View
from powerflow.scheduler.book import CostBook
from powerflow.scheduler.check import MOVED, check_answer, differences
from powerflow.scheduler.ledger import Ledger
from powerflow.scheduler.sleep import Sleepers, baseline_watts

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What a policy was shown and what came of it.

    Attributes:
        view: What the policy saw.
        answer: What it said.
        slots: ``[J]`` slots of the view's jobs.
        changed: Positions of jobs whose allocation changes.
        moved: ``[len(changed)]`` whether each must stop and go on elsewhere or with another count.
        packed: ``[len(changed)]`` whether each stands on as few nodes as its count needs.
        wait_s: ``[len(changed)]`` seconds until nodes that were woken for it are up.
        woken: Nodes switched on.
        asleep: Nodes switched off.
    """

    view: View
    answer: Allocation
    slots: IntArray
    changed: IntArray
    moved: BoolArray
    packed: BoolArray
    wait_s: list[float]
    woken: list[str]
    asleep: list[str]


class Pool:
    """The nodes of one GPU type, what jobs cost on them, and which jobs are there.

    Attributes:
        gpu_type: Name of the GPU type.
        axes: Counts and clocks to choose from.
        baseline_w: Watts that a GPU in use does not add (`powerflow.scheduler.sleep.baseline_watts`).
        sleepers: The nodes that can be switched off.
        book: Cost tables.
        occupancy: Who owns which GPU.
        evicted: Slots that must leave their GPUs at the next decision (their node drains).
    """

    def __init__(self, nodes: tuple[Node, ...], axes: Axes, gpu_idle_w: float) -> None:
        self.gpu_type = axes.gpu_type
        self.axes = axes
        self.book = CostBook(axes)
        self.occupancy = Occupancy(nodes)
        self.baseline_w = baseline_watts(nodes, gpu_idle_w)
        self.sleepers = Sleepers(self.occupancy.nodes, gpu_idle_w)
        self.evicted: set[int] = set()
        self.count_index = np.full(int(axes.gpu_counts[-1]) + 1, -1, np.int64)
        self.count_index[axes.gpu_counts] = np.arange(len(axes.gpu_counts))
        self._active: list[int] = []
        self._spread: set[int] = set()  # jobs on more nodes than they need

    @property
    def active(self) -> list[int]:
        """Slots of the pool's jobs in order of submission."""
        return self._active

    def add(self, slot: int) -> None:
        """Take a job in."""
        self._active.append(slot)

    def remove(self, slot: int) -> None:
        """Let a job go; its GPUs are free at once."""
        self._active.remove(slot)
        self.vacate(slot)

    def vacate(self, slot: int) -> None:
        """Take a job's GPUs back."""
        self.evicted.discard(slot)
        self._spread.discard(slot)
        self.occupancy.release(slot)

    def view(self, ledger: Ledger, slots: IntArray, now_s: float, energy_price: float, sizes_known: bool) -> View:
        """What a policy is shown of this pool."""
        step_time_s, power_w = self.book.arrays()
        return View(
            now_s=now_s,
            capacity=self.occupancy.up,
            gpus_per_node=self.axes.gpus_per_node,
            gpu_counts=self.axes.gpu_counts,
            count_index=self.count_index,
            clocks_mhz=self.axes.clocks_mhz,
            step_time_s=step_time_s,
            power_w=power_w,
            idle_w=self.baseline_w,
            jobs=ledger.view_rows(slots, now_s),
            energy_price=energy_price,
            sizes_known=sizes_known,
        )

    def decide(self, policy: Policy, ledger: Ledger, now_s: float, energy_price: float, sizes_known: bool) -> Decision:
        """Ask the policy, check its answer, and place what changes.

        Raises:
            PolicyError: If the answer cannot be carried out.
        """
        slots = np.array(self._active, np.int64)
        view = self.view(ledger, slots, now_s, energy_price, sizes_known)
        answer = policy.decide(view)
        check_answer(policy.name, view, answer)
        evicted = np.isin(slots, list(self.evicted)) if self.evicted else np.zeros(len(slots), bool)
        changed, how = differences(view.jobs["gpus"], view.jobs["clock"], answer.gpus, answer.clock, evicted)
        moves = how == MOVED
        woken: list[str] = []
        if moves.any():
            who = slots[changed[moves]]
            woken = self._place(who, answer.gpus[changed[moves]], now_s)
            self._spread.difference_update(who.tolist())
            self._note_spread(who)
        if self._spread:
            changed, moves = self._consolidate(ledger, view, answer, slots, changed, moves)
        who = slots[changed]
        ledger.give(who, answer.gpus[changed], answer.clock[changed], now_s)
        packed = self.occupancy.packed_many(who)
        wait_s, asleep = [0.0] * len(who), []
        if self.sleepers:
            wait_s = [self.sleepers.wait_s(self.occupancy, owner, now_s) for owner in who.tolist()]
            asleep = self.sleepers.sleep(self.occupancy, now_s)
        return Decision(view, answer, slots, changed, moves, packed, wait_s, woken, asleep)

    def _place(self, who: IntArray, gpus: IntArray, now_s: float) -> list[str]:
        """Take these jobs off their GPUs and give them as many others; returns the nodes that had to be woken."""
        self.occupancy.release_many(who)
        placed = gpus > 0
        woken = self.sleepers.wake(self.occupancy, int(gpus.sum()), now_s) if self.sleepers else []
        self.occupancy.allocate_many(who[placed], gpus[placed])
        self.evicted.clear()
        return woken

    def _note_spread(self, who: IntArray) -> None:
        """Remember which of these jobs stand on more nodes than they need, though one would do."""
        for slot in who[~self.occupancy.packed_many(who)].tolist():
            if self.occupancy.gpus_of(slot) <= self.axes.gpus_per_node:
                self._spread.add(slot)

    def _consolidate(
        self,
        ledger: Ledger,
        view: View,
        answer: Allocation,
        slots: IntArray,
        changed: IntArray,
        moves: BoolArray,
    ) -> tuple[IntArray, BoolArray]:
        """Bring spread jobs together where that pays; returns what changes, and what moves, with what that moves."""
        jobs, spread_s = view.jobs, self.book.spread_step_time_s()
        pause_gpu_s = np.zeros(len(ledger.rows))
        pause_gpu_s[slots] = answer.gpus * jobs["pause_s"]
        pause_gpu_s[slots[changed[moves]]] = 0.0  # these stand still anyway
        position = {int(slot): j for j, slot in enumerate(slots)}
        spread = []
        for slot in sorted(self._spread):
            j = position[slot]
            cell = jobs["cost"][j], self.count_index[answer.gpus[j]], answer.clock[j]
            left_s = float(jobs["remaining"][j] * spread_s[cell]) if view.sizes_known else math.inf
            speedup = 1.0 - float(view.step_time_s[cell] / spread_s[cell])
            spread.append(Spread(slot, int(answer.gpus[j]), speedup, left_s))
        moved = consolidate(self.occupancy, spread, pause_gpu_s)
        if not moved:
            return changed, moves
        self._spread.difference_update(moved)
        self._note_spread(np.array(moved))
        moving = set(changed[moves].tolist()) | {position[slot] for slot in moved}
        changed = np.union1d(changed, np.array(sorted(moving), np.int64))
        return changed, np.isin(changed, sorted(moving))

    def demand(self, ledger: Ledger) -> int:
        """GPUs that the pool's jobs asked for."""
        return int(ledger.rows["requested"][self._active].sum()) if self._active else 0
