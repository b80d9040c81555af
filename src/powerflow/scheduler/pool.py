"""One pool of equal GPUs: asks the policy, and turns its answer into placed changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from powerflow.arrays import BoolArray, IntArray
from powerflow.cluster.consolidate import Spread, consolidate
from powerflow.cluster.evacuation import empty_nodes
from powerflow.cluster.occupancy import NodeShare, Occupancy, Placement
from powerflow.cluster.packing import DRAINED, FAILED
from powerflow.cluster.spec import Node
from powerflow.cost.table import Axes
from powerflow.energy.terms import EnergyTerms
from powerflow.policy.protocol import Allocation, Policy, View
from powerflow.scheduler.cap import Scope
from powerflow.scheduler.check import check_answer
from powerflow.scheduler.cost_tables import CostTables
from powerflow.scheduler.differences import MOVED, SAME, compare, list_changed
from powerflow.scheduler.history import History
from powerflow.scheduler.ledger import Ledger
from powerflow.scheduler.sleep import Sleepers, baseline_watts

RETRY_S = 300.0  # where no node could be had for a spread job, none is looked for again for so long
LEAST_SPEEDUP = 0.02  # a job that would gain less of its time on one node is left where it is


@dataclass(slots=True, eq=False)
class Decision:
    """What a policy was shown and what came of it.

    Attributes:
        view: What the policy saw.
        answer: What it said, or what a power cap left of that.
        wish: What it said.
        slots: ``[J]`` slots of the view's jobs.
        how: ``[J]`` whether each job stays the `SAME`, is `RECLOCKED` or `MOVED`.
        changed: Of each job whose allocation changes: slot, GPUs before and after, clocks before and after, and whether
            it is `RECLOCKED` or `MOVED`.
        woken: Nodes switched on.
        asleep: Nodes switched off.
    """

    view: View
    answer: Allocation
    wish: Allocation
    slots: IntArray
    how: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    changed: list[list[int]] = field(default_factory=list)
    woken: list[str] = field(default_factory=list)
    asleep: list[str] = field(default_factory=list)


class Pool:
    """The nodes of one GPU type, what jobs cost on them, and which jobs are there.

    Attributes:
        gpu_type: Name of the GPU type.
        axes: Counts and clocks to choose from.
        clocks_mhz: The clocks as plain numbers.
        baseline_w: Watts that a GPU in use does not add (`powerflow.scheduler.sleep.baseline_watts`).
        sleepers: The nodes that can be switched off.
        book: Cost tables.
        occupancy: Who owns which GPU.
        evicted: Slots that must leave their GPUs at the next decision (their node drains).
        guarded: Slots of protected jobs: a power cap touches them last, and to tidy up they are never moved.
        untouched: Slots of jobs that nobody acts on: neither does a power cap, and they are never moved either.
    """

    def __init__(self, nodes: tuple[Node, ...], axes: Axes, gpu_idle_w: float) -> None:
        self.gpu_type = axes.gpu_type
        self.axes = axes
        self.clocks_mhz: list[float] = axes.clocks_mhz.tolist()
        self.book = CostTables(axes)
        self.occupancy = Occupancy(nodes)
        self.gpu_idle_w = gpu_idle_w
        self.baseline_w = baseline_watts(nodes, gpu_idle_w)
        self.sleepers = Sleepers(self.occupancy.nodes, gpu_idle_w)
        self.history = History()
        self.evicted: set[int] = set()
        self.guarded: set[int] = set()
        self.untouched: set[int] = set()
        self.count_index = np.full(int(axes.gpu_counts[-1]) + 1, -1, np.int64)
        self.count_index[axes.gpu_counts] = np.arange(len(axes.gpu_counts))
        self._active: list[int] = []
        self._unpacked: set[int] = set()  # jobs on more nodes than they need
        # those of them that would gain on one node: GPUs, share of time gained, step time now
        self._spread: dict[int, tuple[int, float, float]] = {}
        self._retry_s: dict[int, float] = {}  # when to look again for one node for each of these

    @property
    def active(self) -> list[int]:
        """Slots of the pool's jobs in order of submission."""
        return self._active

    def add(self, slot: int, guarded: bool, untouched: bool = False) -> None:
        """Take a job in."""
        self.touch(slot, not untouched)
        self._active.append(slot)
        if guarded:
            self.guarded.add(slot)

    def touch(self, slot: int, may: bool) -> None:
        """Whether a job may be acted on."""
        if may:
            self.untouched.discard(slot)
        else:
            self.untouched.add(slot)

    def remove(self, slot: int) -> None:
        """Let a job go; its GPUs are free at once."""
        self._active.remove(slot)
        self.guarded.discard(slot)
        self.untouched.discard(slot)
        self.vacate(slot)

    def adopt(self, ledger: Ledger, slot: int, placement: Placement, clock_mhz: float, now_s: float) -> None:
        """A job is found running on these GPUs.

        Raises:
            ValueError: They are not free, not there, on a failed node, or so many that no cost
                table knows. Nothing has changed then.
        """
        gpus = sum(len(share.gpus) for share in placement)
        if gpus >= len(self.count_index) or self.count_index[gpus] < 0:
            raise ValueError(f"{gpus} GPUs are no count of the cost tables")
        unknown = {share.node for share in placement} - {node.name for node in self.occupancy.nodes}
        if unknown:
            raise ValueError(f"there is no node {min(unknown)}")
        if any(self.occupancy.status_of(share.node) == FAILED for share in placement):
            raise ValueError("a node of it has failed")
        self.occupancy.put(slot, placement)
        if any(self.occupancy.status_of(share.node) == DRAINED for share in placement):
            self.evicted.add(slot)
        clock = int(np.abs(self.axes.clocks_mhz - clock_mhz).argmin())
        ledger.give(np.array([slot]), np.array([gpus]), np.array([clock]), now_s)
        ledger.started[slot] = True
        self._note_spread(ledger, np.array([slot]), self.occupancy.packed_many([slot]))

    def saw(self, cost_row: int, gpus_min: int, iterations: float) -> None:
        """A job of this class has completed so many iterations: remember its size, as `View.seen_gpu_s` counts it."""
        step_s = self.book.arrays()[0][cost_row, :, -1]
        runs = np.flatnonzero(np.isfinite(step_s) & (self.axes.gpu_counts >= gpus_min))
        if len(runs):
            self.history.add(iterations * float(step_s[runs[0]]) * int(self.axes.gpu_counts[runs[0]]))

    def vacate(self, slot: int) -> None:
        """Take a job's GPUs back."""
        self.evicted.discard(slot)
        self._unpacked.discard(slot)
        self._spread.pop(slot, None)
        self._retry_s.pop(slot, None)
        self.occupancy.release(slot)

    def recover(self, node: str) -> None:
        """A node is up again; whoever was to leave it may stay, unless another of his nodes still drains."""
        self.occupancy.recover(node)
        statuses = zip(self.occupancy.nodes, self.occupancy.status(), strict=True)
        draining = [each.name for each, status in statuses if status == DRAINED]
        self.evicted = {slot for name in draining for slot in self.occupancy.owners_on(name).tolist()}

    def view(self, ledger: Ledger, slots: IntArray, now_s: float, energy: EnergyTerms, sizes_known: bool) -> View:
        """What a policy is shown of this pool."""
        step_time_s, power_w = self.book.arrays()
        added = [energy.by_project.get(name, 0.0) for name in ledger.projects] if energy.by_project else None
        project_price = None if added is None else np.array(added)
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
            energy_price=energy.price,
            project_price=project_price,
            limit_w=energy.limit_w,
            sizes_known=sizes_known,
            seen_gpu_s=self.history.sizes_gpu_s,
            projects=ledger.projects,
        )

    def decide(self, policy: Policy, ledger: Ledger, now_s: float, energy: EnergyTerms, sizes_known: bool) -> Decision:
        """Ask the policy, check its answer, and place what changes.

        Raises:
            PolicyError: If the answer cannot be carried out.
        """
        decision = self.ask(policy, ledger, now_s, energy, sizes_known)
        self.place(decision, ledger, now_s)
        self.conclude(decision, now_s)
        return decision

    def ask(
        self,
        policy: Policy,
        ledger: Ledger,
        now_s: float,
        energy: EnergyTerms,
        sizes_known: bool,
        without_gpus: int = 0,
        most: Mapping[int, int] | None = None,
    ) -> Decision:
        """What the policy says; nothing has changed yet.

        Args:
            policy, ledger, now_s, energy, sizes_known: See `view`.
            without_gpus: So many GPUs of those that are up are not to be had.
            most: By slot, jobs that may not have more GPUs than this for now.

        Raises:
            PolicyError: If the answer cannot be carried out.
        """
        slots = np.array(self._active, np.int64)
        view = self.view(ledger, slots, now_s, energy, sizes_known)
        if without_gpus:
            view = dataclasses.replace(view, capacity=max(0, view.capacity - without_gpus))
        if most:
            rows = view.jobs.copy()
            for j, slot in enumerate(self._active):
                if slot in most:
                    rows["gpus_max"][j] = max(min(rows["gpus_max"][j], most[slot]), rows["gpus_min"][j])
            rows.flags.writeable = False
            view = dataclasses.replace(view, jobs=rows)
        answer = policy.decide(view)
        check_answer(policy.name, view, answer)
        return Decision(view, answer, answer, slots)

    def place(self, decision: Decision, ledger: Ledger, now_s: float) -> None:
        """Give every job its GPUs, on nodes."""
        view, answer, slots = decision.view, decision.answer, decision.slots
        had, had_clock = view.jobs["gpus"], view.jobs["clock"]
        evicted = np.isin(slots, list(self.evicted)) if self.evicted else np.zeros(len(slots), np.bool_)
        decision.how = how = np.zeros(len(slots), np.int64)
        compare(had, had_clock, answer.gpus, answer.clock, evicted, how)
        ledger.give(slots, answer.gpus, answer.clock, now_s)
        moves = (how == MOVED).nonzero()[0]
        moving = slots[moves]
        if len(moving):
            freed = int(had[moves][~evicted[moves]].sum()) if self.sleepers else 0
            self.evicted.clear()
            decision.woken = self._fill(ledger, moving, answer.gpus[moves], freed, now_s)
        tidied = self._consolidate(ledger, moving, now_s) if self._spread else []
        if self.sleepers and view.energy_price > 0.0 and self.occupancy.spare_nodes():
            tidied += self._empty(ledger, [*moving.tolist(), *tidied], view.energy_price, now_s)
        if tidied:
            position = {slot: j for j, slot in enumerate(self._active)}
            how[[position[slot] for slot in tidied]] = MOVED

    def start(self, decision: Decision, ledger: Ledger, now_s: float) -> None:
        """Give free GPUs to jobs that have none; nobody else is moved, not even off a node that drains.

        Left out of the answer is who could only stand spread, and would pause later to be brought together.
        """
        answer, had = decision.answer, decision.view.jobs["gpus"]
        starts = np.flatnonzero(answer.gpus != had)
        slots, gpus, since_s = decision.slots[starts], answer.gpus[starts], ledger.rows["since_s"].copy()
        ledger.give(slots, gpus, answer.clock[starts], now_s)
        decision.woken = self._fill(ledger, slots, gpus, 0, now_s)
        for row, slot in zip(starts.tolist(), slots.tolist(), strict=True):
            if slot in self._spread and not decision.woken:
                self.vacate(slot)
                answer.gpus[row] = ledger.rows["gpus"][slot] = 0
                ledger.rows["since_s"][slot] = since_s[slot]
        decision.how = np.where(answer.gpus != had, MOVED, SAME)
        self.conclude(decision, now_s)

    def lessen(self, decision: Decision, ledger: Ledger, less: Allocation, leave: Scope, now_s: float) -> None:
        """Give placed jobs less, where they stand: other clocks, fewer of their GPUs, or none.

        Args:
            decision: As placed; its answer is replaced.
            less: What each job is to have: no more GPUs than it has.
            leave: The nodes that jobs with fewer GPUs leave first.
            ledger, now_s: See `place`.
        """
        view, slots = decision.view, decision.slots
        for j in (less.gpus < decision.answer.gpus).nonzero()[0].tolist():
            self._give_up(int(slots[j]), int(less.gpus[j]), leave)
        kept = less.gpus == decision.answer.gpus
        how = np.zeros(len(slots), np.int64)
        nobody = np.zeros(len(slots), np.bool_)
        compare(view.jobs["gpus"], view.jobs["clock"], less.gpus, less.clock, nobody, how)
        moved_anyway = kept & (decision.how == MOVED)  # also those that were moved without another count
        decision.how = np.where(moved_anyway | ((decision.how == MOVED) & (less.gpus > 0)), MOVED, how)
        ledger.give(slots, less.gpus, less.clock, now_s)
        fewer = slots[(less.gpus < decision.answer.gpus) & (less.gpus > 0)]
        if len(fewer):
            self._note_spread(ledger, fewer, self.occupancy.packed_many(fewer))
        decision.answer = less

    def _give_up(self, slot: int, gpus: int, leave: Scope) -> None:
        """Let a job keep so many of the GPUs that it holds, on as few nodes as that takes."""
        shares = sorted(
            self.occupancy.placement(slot),
            key=lambda share: (leave.nodes is None or share.node in leave.nodes, -len(share.gpus)),
        )
        self.vacate(slot)
        kept = []
        for share in shares:
            if gpus:
                kept.append(NodeShare(share.node, share.gpus[:gpus]))
                gpus -= len(kept[-1].gpus)
        if kept:
            self.occupancy.put(slot, tuple(kept))

    def conclude(self, decision: Decision, now_s: float) -> None:
        """List what has changed, and put to sleep what stands empty."""
        view, answer, how = decision.view, decision.answer, decision.how
        rows = np.empty((len(how), 6), np.int64)
        count = list_changed(
            decision.slots, view.jobs["gpus"], answer.gpus, view.jobs["clock"], answer.clock, how, rows
        )
        decision.changed = rows[:count].tolist()
        decision.asleep += self.sleepers.sleep(self.occupancy, now_s) if self.sleepers else []

    def is_packed(self, slot: int) -> bool:
        """Whether a job stands on as few nodes as its count needs."""
        return slot not in self._unpacked

    def wait_s(self, slot: int, now_s: float) -> float:
        """Seconds until nodes that were woken for a job are up."""
        return self.sleepers.wait_s(self.occupancy, slot, now_s) if self.sleepers else 0.0

    def _fill(self, ledger: Ledger, who: IntArray, gpus: IntArray, freed: int, now_s: float) -> list[str]:
        """Take these jobs off their GPUs, of which ``freed`` can be used again, and give them as many others.

        Returns:
            The nodes that had to be woken.
        """
        woken = self.sleepers.wake(self.occupancy, int(gpus.sum()) - freed, now_s) if self.sleepers else []
        self._note_spread(ledger, who, self.occupancy.rearrange(who, gpus))
        return woken

    def _note_spread(self, ledger: Ledger, who: IntArray, packed: BoolArray) -> None:
        """Note which of these jobs, just placed, are unpacked, and which of them would gain on one node."""
        for slot, whole in zip(who.tolist(), packed.tolist(), strict=True):
            self._unpacked.discard(slot)
            self._spread.pop(slot, None)
            self._retry_s.pop(slot, None)
            if whole:
                continue
            self._unpacked.add(slot)
            row = ledger.rows[slot]
            gpus = int(row["gpus"])
            cell = row["cost"], self.count_index[gpus], row["clock"]
            spread_s = float(self.book.spread_step_time_s()[cell])
            speedup = 1.0 - float(self.book.arrays()[0][cell]) / spread_s
            if gpus <= self.axes.gpus_per_node and speedup > LEAST_SPEEDUP:
                self._spread[slot] = gpus, speedup, spread_s

    def _consolidate(self, ledger: Ledger, moving: IntArray, now_s: float) -> list[int]:
        """Bring spread jobs together where that pays; returns all that move for it, besides those that move anyway."""
        fixed = self.guarded | self.untouched
        due = [slot for slot in self._spread if self._retry_s.get(slot, 0.0) <= now_s and slot not in fixed]
        if not due:
            return []
        pause_gpu_s = ledger.rows["gpus"] * ledger.rows["pause_s"]
        pause_gpu_s[moving] = 0.0
        pause_gpu_s[list(fixed - set(moving.tolist()))] = np.inf
        spread = []
        for slot in due:
            gpus, speedup, step_s = self._spread[slot]
            spread.append(Spread(slot, gpus, speedup, ledger.remaining(slot) * step_s))
            self._retry_s[slot] = now_s + RETRY_S
        moved = consolidate(self.occupancy, spread, pause_gpu_s)
        if moved:
            self._note_spread(ledger, np.array(moved), self.occupancy.packed_many(moved))
        return moved

    def _empty(self, ledger: Ledger, moving: list[int], energy_price: float, now_s: float) -> list[int]:
        """Empty nodes that are worth more asleep; returns all that move for it, besides those that move anyway."""
        gain = self.sleepers.gains(energy_price, now_s)
        if gain.max() <= 0.0:
            return []
        rows = ledger.rows
        # a pause is time lost, and the joules that its GPUs draw meanwhile
        pause = (rows["weight"] + energy_price * self.gpu_idle_w * rows["gpus"]) * rows["pause_s"]
        pause[moving] = 0.0
        pause[list((self.guarded | self.untouched).difference(moving))] = np.inf
        return empty_nodes(self.occupancy, gain, pause)

    def most_w(self) -> float:
        """Watts above idle that its GPUs can draw, as believed: at full clock, each with the class that draws most."""
        _, power_w = self.book.arrays()
        each_w = power_w[:, :, -1] / self.axes.gpu_counts - self.baseline_w
        return self.occupancy.up * float(each_w[np.isfinite(each_w)].max(initial=0.0))

    def demand(self, ledger: Ledger) -> int:
        """GPUs that the pool's jobs hold, or asked for if that is more."""
        rows = ledger.rows[self._active]
        return int(np.maximum(rows["requested"], rows["gpus"]).sum()) if self._active else 0
