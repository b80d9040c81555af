"""Ask the policy about the jobs of a pool (the nodes of one GPU type), and place its answer on nodes."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Mapping, Sequence

import numpy as np

from powerflow.arrays import BoolArray, IntArray
from powerflow.cluster.consolidate import Spread, consolidate
from powerflow.cluster.evacuation import empty_nodes
from powerflow.cluster.occupancy import NodeShare, Occupancy, Placement
from powerflow.cluster.packed_pool import DRAINED, FAILED
from powerflow.cluster.spec import Node
from powerflow.cost.table import Axes
from powerflow.energy.terms import EnergyTerms
from powerflow.job import Job
from powerflow.policy.prices_kernel import gpu_seconds
from powerflow.policy.protocol import Allocation, Policy, View
from powerflow.scheduler.cap import Scope
from powerflow.scheduler.check import check_answer
from powerflow.scheduler.cost_tables import CostTables
from powerflow.scheduler.differences import MOVED, SAME, Decision, compare, list_changed
from powerflow.scheduler.history import ArrivalHistory
from powerflow.scheduler.ledger import Ledger
from powerflow.scheduler.pool_nodes import Outage
from powerflow.scheduler.sizes.learner import SizeLearner
from powerflow.scheduler.sleep import Sleepers, baseline_watts

RETRY_S = 300.0  # shortest time between two attempts to bring a job that is spread over nodes onto one
LEAST_SPEEDUP = 0.02  # smallest share of a step's time that must be gained to bring a job onto one node


class Pool:
    """Keep the nodes of one GPU type, the jobs on them and their costs. A job's row in the ledger is its *slot*.

    Attributes:
        gpu_type: Name of the GPU type.
        axes: GPU counts and clocks to choose from.
        clocks_mhz: The clocks as plain numbers.
        baseline_w: Watts of a used GPU that are drawn even if no job uses it (`sleep.baseline_watts`).
        sleepers: Decides which nodes are switched off.
        costs: Cost tables of all classes of jobs.
        occupancy: Which job holds which GPU.
        evicted: Slots of jobs that must leave their GPUs at the next decision, because their node is being emptied.
        guarded: Slots of jobs that power caps change last and that are never moved to save time or energy: protected
            jobs, and jobs that cannot resume after a stop.
        unmanaged: Slots of jobs of unmanaged projects. Power caps never change these jobs, and they are never moved.
        outage: The nodes that do not answer, and the jobs that keep GPUs on them (`powerflow.scheduler.pool_nodes`).
    """

    def __init__(self, nodes: tuple[Node, ...], axes: Axes, gpu_idle_w: float) -> None:
        self.gpu_type = axes.gpu_type
        self.axes = axes
        self.clocks_mhz: list[float] = axes.clocks_mhz.tolist()
        self.costs = CostTables(axes)
        self.occupancy = Occupancy(nodes)
        self.gpu_idle_w = gpu_idle_w
        self.baseline_w = baseline_watts(nodes, gpu_idle_w)
        self.sleepers = Sleepers(self.occupancy.nodes, gpu_idle_w)
        self.sizes = SizeLearner()
        self.arrivals = ArrivalHistory()
        self.evicted: set[int] = set()
        self.guarded, self.unmanaged = set[int](), set[int]()
        self.outage = Outage()
        self.count_index = np.full(int(axes.gpu_counts[-1]) + 1, -1, np.int64)
        self.count_index[axes.gpu_counts] = np.arange(len(axes.gpu_counts))
        # slots of the pool's jobs, in order of submission; an array, which numpy copies as a whole
        self.active = array("q")
        self._unpacked: set[int] = set()  # slots of jobs on more nodes than they need
        # slots of jobs that would be faster on one node: GPU count, share of the step time gained, step time now
        self._spread: dict[int, tuple[int, float, float]] = {}
        self._retry_s: dict[int, float] = {}  # by slot, when to try again to bring the job onto one node

    def add(self, slot: int, job: Job, unmanaged: bool) -> None:
        """Add a job, in a slot (row of the ledger), that was submitted after all other jobs of the pool."""
        self.manage(slot, not unmanaged)
        self.active.append(slot)
        self.sizes.enter(slot, job)
        if job.protected or job.keeps:
            self.guarded.add(slot)

    def manage(self, slot: int, managed: bool) -> None:
        """Set whether PowerFlow manages the job in this slot (row of the ledger)."""
        if managed:
            self.unmanaged.discard(slot)
        else:
            self.unmanaged.add(slot)

    def remove(self, slot: int) -> None:
        """Remove the job in this slot (row of the ledger) from the pool; its GPUs are free at once."""
        if slot not in self.outage.pinned:
            self.active.remove(slot)
        self.guarded.discard(slot)
        self.unmanaged.discard(slot)
        self.vacate(slot)

    def adopt(self, ledger: Ledger, slot: int, placement: Placement, clock_mhz: float, now_s: float) -> None:
        """Record that the job in a slot (row of the ledger) already runs on the GPUs of ``placement``.

        Raises:
            ValueError: The GPUs are not free, do not exist or are on a failed node, or the cost tables do not have
                their number. In this case nothing was changed.
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
        self.note_spread(ledger, slot)

    def vacate(self, slot: int) -> None:
        """Free all GPUs of the job in this slot (row of the ledger)."""
        self.evicted.discard(slot)
        self._unpacked.discard(slot)
        self._spread.pop(slot, None)
        self._retry_s.pop(slot, None)
        self.outage.forget(slot)
        self.occupancy.release(slot)

    def expect_more(self, ledger: Ledger, slot: int, now_s: float) -> None:
        """Record that a job was submitted into a slot (row of the ledger): more such jobs will probably come."""
        counts, step_time_s = self.axes.gpu_counts, self.costs.arrays()[0]
        job = ledger.job(slot)
        if ledger.uncertain[slot]:
            slots = np.array([slot])
            gpu_s, _ = self.sizes.expected(slots, ledger.view_rows(slots, now_s), counts, step_time_s)
        else:
            gpu_s, its = np.empty(1), slice(slot, slot + 1)
            believed, gpus_min, cost = ledger.believed[its], ledger.rows["gpus_min"][its], ledger.rows["cost"][its]
            gpu_seconds(believed, gpus_min, cost, counts, step_time_s, gpu_s, np.empty(1, np.int64))
        self.arrivals.add(job.submit_s, float(gpu_s[0]), job.weight)

    def rebuild(self, nodes: Sequence[Node]) -> None:
        """Replace the nodes of the pool. Nodes that stay keep their status, and jobs keep their GPUs.

        Raises:
            ValueError: A job holds GPUs on a node that does not stay.
        """
        self.occupancy = occupancy = self.occupancy.rebuilt(nodes)
        self.baseline_w = baseline_watts(occupancy.nodes, self.gpu_idle_w)
        self.sleepers = Sleepers(occupancy.nodes, self.gpu_idle_w)

    def note_spread(self, ledger: Ledger, slot: int) -> None:
        """Record how the job in a slot (row of the ledger) is spread over nodes, after its GPUs have changed."""
        self._note_spread(ledger, np.array([slot]), self.occupancy.packed_many([slot]))

    def view(self, ledger: Ledger, slots: IntArray, now_s: float, energy: EnergyTerms, sizes_known: bool) -> View:
        """Return the view of the jobs in ``slots`` (rows of the ledger) for a policy, with the prices of ``energy``."""
        step_time_s, power_w = self.costs.arrays()
        project_price = None
        if energy.by_project:
            project_price = np.array([energy.by_project.get(name, 0.0) for name in ledger.projects])
        view = View(
            now_s=now_s,
            capacity=self.occupancy.up - self.outage.pinned_up(self.occupancy),
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
            arrivals=self.arrivals.latest(),
            projects=ledger.projects,
            margin=self.costs.margin(),
        )
        return self.sizes.filled_in(view, slots, ledger.uncertain[slots])

    def decide(self, policy: Policy, ledger: Ledger, now_s: float, energy: EnergyTerms, sizes_known: bool) -> Decision:
        """Ask the policy about all jobs of the pool, and place its answer on nodes.

        Raises:
            PolicyError: The policy's answer cannot be carried out.
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
        """Ask the policy about all jobs of the pool, and check its answer; no allocation changes yet.

        Args:
            policy: The policy to ask.
            ledger, now_s, energy, sizes_known: The active jobs, the time, the energy prices and limits, and True if the
                remaining work of jobs is known.
            without_gpus: How many GPUs that are up must not be used.
            most: By slot (row of the ledger), the most GPUs that some jobs may get for now.

        Raises:
            PolicyError: The policy's answer cannot be carried out.
        """
        slots = np.array(self.active, np.int64)
        view = self.view(ledger, slots, now_s, energy, sizes_known)
        if without_gpus:
            view = dataclasses.replace(view, capacity=max(0, view.capacity - without_gpus))
        if most:
            gpus_max = view.jobs["gpus_max"].copy()
            for j, slot in enumerate(self.active):
                if slot in most:
                    gpus_max[j] = max(min(gpus_max[j], most[slot]), view.jobs["gpus_min"][j])
            view = view.with_jobs(gpus_max=gpus_max)
        answer = policy.decide(view)
        check_answer(policy.name, view, answer)
        return Decision(view, answer, answer, slots)

    def place(self, decision: Decision, ledger: Ledger, now_s: float) -> None:
        """Choose GPUs on nodes for the jobs whose GPUs change, and record the allocations of all jobs."""
        view, answer, slots = decision.view, decision.answer, decision.slots
        had, had_clock = view.jobs["gpus"], view.jobs["clock"]
        evicted = np.isin(slots, list(self.evicted)) if self.evicted else np.zeros(len(slots), np.bool_)
        decision.how = how = np.zeros(len(slots), np.int64)
        compare(had, had_clock, answer.gpus, answer.clock, evicted, how)
        ledger.give(slots, answer.gpus, answer.clock, now_s)
        moves = (how == MOVED).nonzero()[0]
        if self.outage.shrunk:
            decision.cut = self.outage.take_shrunk().difference(slots[moves].tolist())
            how[np.isin(slots, list(decision.cut)) & (answer.gpus > 0)] = MOVED
        moving = slots[moves]
        if len(moving):
            freed = int(had[moves][~evicted[moves]].sum()) if self.sleepers else 0
            decision.drained = {slot: self.occupancy.drained_nodes(slot) for slot in self.evicted}
            self.evicted.clear()
            decision.woken = self._fill(ledger, moving, answer.gpus[moves], freed, now_s)
        tidied = self._consolidate(ledger, moving, now_s) if self._spread else []
        if self.sleepers and view.energy_price > 0.0 and self.occupancy.spare_nodes():
            tidied += self._empty(ledger, [*moving.tolist(), *tidied], view.energy_price, now_s)
        if tidied:
            position = {slot: j for j, slot in enumerate(slots.tolist())}
            how[[position[slot] for slot in tidied]] = MOVED

    def start(self, decision: Decision, ledger: Ledger, now_s: float) -> None:
        """Start waiting jobs on free GPUs; all other jobs stay where they are, even on nodes that are being emptied.

        A job does not start, and gets 0 GPUs in the answer, if its GPUs would be on more nodes than it needs and this
        would slow it down. It would have to pause later to be brought onto fewer nodes.
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
        """Take GPUs from jobs that are placed already, or change their clocks, without moving the jobs.

        Args:
            decision: A decision that is placed on nodes; its answer is replaced.
            ledger: The active jobs; it records the allocations.
            less: The new allocation. No job gets more GPUs than it has.
            leave: The nodes on which jobs give up their GPUs first.
            now_s: The time.
        """
        view, slots = decision.view, decision.slots
        for j in (less.gpus < decision.answer.gpus).nonzero()[0].tolist():
            self._give_up(int(slots[j]), int(less.gpus[j]), leave)
        kept = less.gpus == decision.answer.gpus
        how = np.zeros(len(slots), np.int64)
        nobody = np.zeros(len(slots), np.bool_)
        compare(view.jobs["gpus"], view.jobs["clock"], less.gpus, less.clock, nobody, how)
        moved_anyway = kept & (decision.how == MOVED)  # includes jobs that were moved with the same GPU count
        decision.how = np.where(moved_anyway | ((decision.how == MOVED) & (less.gpus > 0)), MOVED, how)
        ledger.give(slots, less.gpus, less.clock, now_s)
        fewer = slots[(less.gpus < decision.answer.gpus) & (less.gpus > 0)]
        if len(fewer):
            self._note_spread(ledger, fewer, self.occupancy.packed_many(fewer))
        decision.answer = less

    def _give_up(self, slot: int, gpus: int, leave: Scope) -> None:
        """Let the job in a slot keep only ``gpus`` of its GPUs; it gives up those on nodes in ``leave`` first."""
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
        """List the jobs that change in ``decision.changed``, and switch off nodes that were empty for long enough."""
        view, answer, how = decision.view, decision.answer, decision.how
        rows = np.empty((len(how), 6), np.int64)
        count = list_changed(
            decision.slots, view.jobs["gpus"], answer.gpus, view.jobs["clock"], answer.clock, how, rows
        )
        decision.changed = rows[:count].tolist()
        decision.asleep += self.sleepers.sleep(self.occupancy, now_s) if self.sleepers else []

    def is_packed(self, slot: int) -> bool:
        """Return True if the job in a slot (row of the ledger) runs on as few nodes as its GPU count needs."""
        return slot not in self._unpacked

    def wait_s(self, slot: int, now_s: float) -> float:
        """Return the seconds until the nodes that were switched on for the job in a slot (ledger row) are up."""
        return self.sleepers.wait_s(self.occupancy, slot, now_s) if self.sleepers else 0.0

    def _fill(self, ledger: Ledger, who: IntArray, gpus: IntArray, freed: int, now_s: float) -> list[str]:
        """Place each job of ``who`` (slots) on ``gpus`` GPUs; return the names of nodes that were switched on for this.

        ``freed`` is how many GPUs these jobs hold now that can be used again.
        """
        woken = self.sleepers.wake(self.occupancy, int(gpus.sum()) - freed, now_s) if self.sleepers else []
        self._note_spread(ledger, who, self.occupancy.rearrange(who, gpus))
        return woken

    def _note_spread(self, ledger: Ledger, who: IntArray, packed: BoolArray) -> None:
        """Record which of the newly placed jobs are on more nodes than they need, and which would be faster on one."""
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
            spread_s = float(self.costs.spread_step_time_s()[cell])
            speedup = 1.0 - float(self.costs.arrays()[0][cell]) / spread_s
            if gpus <= self.axes.gpus_per_node and speedup > LEAST_SPEEDUP:
                self._spread[slot] = gpus, speedup, spread_s

    def _consolidate(self, ledger: Ledger, moving: IntArray, now_s: float) -> list[int]:
        """Move jobs from several nodes onto one node where this pays; return the slots of all jobs that move."""
        stays = self.guarded | self.unmanaged
        due = [slot for slot in self._spread if self._retry_s.get(slot, 0.0) <= now_s and slot not in stays]
        if not due:
            return []
        pause_gpu_s = ledger.rows["gpus"] * ledger.rows["pause_s"]
        pause_gpu_s[moving] = 0.0
        pause_gpu_s[list(stays - set(moving.tolist()))] = np.inf
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
        """Empty nodes whose sleep saves more than the moves of their jobs cost; return the slots of jobs that move."""
        gain = self.sleepers.gains(energy_price, now_s)
        if gain.max() <= 0.0:
            return []
        rows = ledger.rows
        # a pause costs the job's time and the energy that its GPUs draw in the meantime
        pause = (rows["weight"] + energy_price * self.gpu_idle_w * rows["gpus"]) * rows["pause_s"]
        pause[moving] = 0.0
        pause[list((self.guarded | self.unmanaged).difference(moving))] = np.inf
        return empty_nodes(self.occupancy, gain, pause)

    def most_w(self) -> float:
        """Return the most watts above idle that all GPUs can draw: at maximum clock, with the class that draws most."""
        _, power_w = self.costs.arrays()
        each_w = power_w[:, :, -1] / self.axes.gpu_counts - self.baseline_w
        return self.occupancy.up * float(each_w[np.isfinite(each_w)].max(initial=0.0))

    def demand(self, ledger: Ledger) -> int:
        """Return how many GPUs the pool's jobs need: for each job the larger of the GPUs held and requested."""
        rows = ledger.rows[self.active]
        return int(np.maximum(rows["requested"], rows["gpus"]).sum()) if self.active else 0
