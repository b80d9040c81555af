"""The simulator: virtual time around the same scheduler object that the live controller drives.

What happens comes from the workload's truth; what the scheduler is told comes from a belief about it. Events of one
moment are handed over together; the plan that comes back is carried out at once, except that a job whose GPU count
changes stands still for its pause.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.cluster.spec import Node
from powerflow.cost.catalogue import gpu_type as catalogue_gpu
from powerflow.errors import InputError
from powerflow.job import Job
from powerflow.kernel import kernel
from powerflow.policy.protocol import Policy
from powerflow.scheduler.cap import PowerCap
from powerflow.scheduler.events import (
    Completed,
    Event,
    Failed,
    NodeFailed,
    NodeRecovered,
    PowerCapSet,
    PowerMetered,
    Progress,
    Submitted,
)
from powerflow.scheduler.plan import Change, Plan
from powerflow.scheduler.scheduler import Scheduler
from powerflow.simulate.belief import Belief, Oracle
from powerflow.simulate.cap_log import CapLog
from powerflow.simulate.nodes import Nodes
from powerflow.simulate.recorder import PowerMeter, Recorder
from powerflow.simulate.result import JobResults, SimulationResult
from powerflow.simulate.truth import truth_of
from powerflow.simulate.workload.workload import Workload, alone_times, check_workload

METER_S = 1.0  # while there are power caps, the scheduler is told so long after a change what the meters say
STALL_LIMIT = 10_000  # decisions in a row in which no job ends and, all in all, no work is saved


@dataclass(frozen=True, slots=True)
class World:
    """How the simulated cluster behaves beyond what jobs cost.

    Attributes:
        pause_s: Seconds a job stands still when its GPU count changes or it is moved.
        checkpoint_s: Seconds of running between checkpoints: work since the last one is lost when a node fails.
        node_mtbf_h: Mean hours between failures of one node; ``inf``: none fail.
        node_repair_h: Hours until a failed node is back.
        interval_s: Decisions are at least this far apart.
        start_s: Seconds from when a rank is started to its first step: it imports, builds the model, and its GPU idles.
            A job that held nothing waits for that; one that grows trains on meanwhile as before.
    """

    pause_s: float = 30.0
    checkpoint_s: float = 1800.0
    node_mtbf_h: float = math.inf
    node_repair_h: float = 1.0
    interval_s: float = 60.0
    start_s: float = 0.0

    def __post_init__(self) -> None:
        fields = ("pause_s", 0.0), ("checkpoint_s", 1.0), ("node_repair_h", 0.0), ("interval_s", 0.0), ("start_s", 0.0)
        for field, least in fields:
            value = getattr(self, field)
            if not (value >= least and math.isfinite(value)):
                raise InputError(f"{field} is {value}", where="simulation", fix=f"give a finite number ≥ {least:g}")
        if not self.node_mtbf_h > 0:
            raise InputError(f"node_mtbf_h is {self.node_mtbf_h}", where="simulation", fix="give hours > 0")


@dataclass(slots=True, eq=False)
class _Run:
    """A job that holds GPUs: one stretch of unchanged allocation.

    While ``paused`` it makes no progress, and its GPUs draw ``paused_w``: as idle ones, or as in full run if it is
    ``exploring`` clocks. When it began, its last checkpoint held ``saved`` iterations and was ``unsaved_s`` seconds of
    running ago. It is ``over`` when the job has given these GPUs back.
    """

    job: int
    change: Change
    since_s: float
    resume_s: float
    done: float
    rate: float
    power_w: float
    idle_w: float
    paused_w: float
    paused: bool
    saved: float
    unsaved_s: float
    exploring: bool
    over: bool = False


#: What happens next to a run unless it is over by then: when, `END` or `RESUME`, number of the run (first come first).
_Due = tuple[float, int, int, _Run]

END, RESUME = range(2)  # at one moment, ends come before resumptions


class Simulation:
    """A simulation that can be run to its end, or stopped, stored and resumed at any event.

    Args:
        workload: Jobs, cluster and truth.
        policy: Who gets what.
        energy_price: λ_E, seconds per joule.
        belief: What the scheduler is told of costs and sizes.
        world: Pauses, failures, ….
        seed: Seed of node failures.
        caps: Power caps, each with the moment at which the scheduler hears of it; `cap_log` says how they were kept.

    Raises:
        InputError: If a job can never run on this cluster, or cannot be at all; if the energy price is negative.
    """

    def __init__(
        self,
        workload: Workload,
        policy: Policy,
        *,
        energy_price: float = 0.0,
        belief: Belief | None = None,
        world: World | None = None,
        seed: int = 0,
        caps: Sequence[tuple[float, PowerCap]] = (),
    ) -> None:
        self.workload = workload
        self.policy_name = policy.name
        self.belief = belief or Oracle(workload)
        self.world = world or World()
        self.seed = seed
        self.energy_price = energy_price
        if policy.needs_sizes and not self.belief.sizes_known:
            raise InputError(
                f"policy {policy.name} needs to know how long jobs are", fix="use sizes known or mispredicted with it"
            )
        if not 0 <= energy_price < math.inf:
            raise InputError(f"energy price is {energy_price:g}", fix="give seconds per joule, 0 or more")
        cluster = workload.cluster
        self.idle_w = {name: catalogue_gpu(name).idle_w for name in cluster.pools()}
        check_workload(workload)
        self.scheduler = Scheduler(
            cluster,
            workload.axes,
            self.idle_w,
            policy,
            energy_price=energy_price,
            sizes_known=self.belief.sizes_known,
            interval_s=self.world.interval_s,
        )
        self.truth = truth_of(workload)
        self.jobs: list[Job] = list(workload.jobs)
        count = len(self.jobs)
        self.start_s = [math.nan] * count
        self.finish_s = [math.nan] * count
        self.gpu_s = [0.0] * count
        self.energy_j = [0.0] * count
        self.rescales = [0] * count
        self.done = [0.0] * count  # iterations safe in a checkpoint or done, while a job waits
        self.index = {job.id: i for i, job in enumerate(self.jobs)}

        self.now_s = 0.0
        self.runs: dict[int, _Run] = {}  # by slot
        self.waiting = 0
        self.arrived = 0
        self.ended = 0
        self.gpu_clock_mhz = 0.0
        self.gpu_price = 0.0
        self.idle_j = 0.0
        self.meter = PowerMeter()
        self.recorder = Recorder()
        self.decisions = 0
        self.cpu_s = 0.0
        self._due: list[_Due] = []  # a heap
        self._entered = 0
        self._arrival_s = self.jobs[0].submit_s if self.jobs else math.inf
        self._wake_s = math.inf
        self._decided_s = -math.inf
        self._quiet = 0  # decisions since a job ended
        self._work_then = -1.0  # iterations done, all jobs together, when that was last looked at
        self._nodes = Nodes(cluster.nodes, self.idle_w, self.world.node_mtbf_h, self.world.node_repair_h, seed)
        self._busy = 0
        self._idle_watts = self._nodes.empty_watts()
        self.meter.watts = self._idle_watts
        # by slot, for `_progress`
        self._running = np.zeros(64, np.bool_)
        self._done, self._resume_s, self._rate = np.zeros(64), np.zeros(64), np.zeros(64)
        self._pending: list[Event] = list(self.belief.start())
        self.cap_log = CapLog(caps)
        self._metered_w = -1.0
        self._meter_s = math.inf

    # -- running ------------------------------------------------------------------------------------------------

    def run(self, events: int | None = None) -> bool:
        """Go on until all jobs have ended, or for so many moments; True when the end is reached."""
        began = time.process_time()
        left = math.inf if events is None else events
        while self.ended < len(self.jobs) and left > 0:
            self._moment()
            left -= 1
        self.cpu_s += time.process_time() - began
        return self.ended == len(self.jobs)

    def state(self) -> bytes:
        """Everything needed to go on later. Load it only from where you trust: it is a pickle."""
        return pickle.dumps(self, protocol=pickle.HIGHEST_PROTOCOL)

    @staticmethod
    def resume(state: bytes) -> Simulation:
        """A simulation that goes on where `state` was taken."""
        simulation = pickle.loads(state)
        assert isinstance(simulation, Simulation)
        return simulation

    def result(self) -> SimulationResult:
        """What came of it; call it when `run` has said True."""
        end_s = float(np.nanmax(self.finish_s)) if self.jobs else 0.0
        return SimulationResult(
            policy=self.policy_name,
            seed=self.seed,
            energy_price=self.energy_price,
            jobs=JobResults(
                ids=tuple(job.id for job in self.jobs),
                cost_class=tuple(job.cost_class for job in self.jobs),
                submit_s=np.array([job.submit_s for job in self.jobs]),
                start_s=np.array(self.start_s),
                finish_s=np.array(self.finish_s),
                requested=np.array([job.gpus for job in self.jobs], np.int64),
                gpu_s=np.array(self.gpu_s),
                energy_j=np.array(self.energy_j),
                rescales=np.array(self.rescales, np.int64),
                weight=np.array([job.weight for job in self.jobs]),
                alone_s=alone_times(self.workload),
                failed=np.zeros(len(self.jobs), bool),
            ),
            timeline=self.recorder.timeline(),
            segments=self.recorder.segments(),
            end_s=end_s,
            metered_j=self.meter.joules,
            idle_j=self.idle_j,
            tail_w=self._nodes.tail_watts(),
            decisions=self.decisions,
            cpu_s=self.cpu_s,
        )

    # -- one moment ---------------------------------------------------------------------------------------------

    def _moment(self) -> None:
        """Go to the next moment at which something happens, and let it happen."""
        now_s = min(self._arrival_s, self._run_due_s(), self._nodes.due_s(), self._wake_s)
        if self.cap_log:
            now_s = min(now_s, self.cap_log.told_s(), self._meter_s)
        if now_s == math.inf:
            raise self._stall()
        self.meter.advance(now_s)
        self.idle_j += self._idle_watts * (now_s - self.now_s)
        self.now_s = now_s
        events = self._pending
        self._pending = []
        while self._run_due_s() <= now_s:
            _, kind, number, run = heappop(self._due)
            if kind == END:
                self._complete(run, events)
            else:
                self._resume(run, number, events)
        while self._nodes.due_s() <= now_s:
            node, breaks = self._nodes.next()
            (self._break if breaks else self._mend)(node, events)
        while self._arrival_s <= now_s:
            self._arrive(events)
        if self.cap_log:
            told = self.cap_log.told(now_s)
            if told or now_s >= self._meter_s:
                events.append(self._metered())
            events.extend(PowerCapSet(cap) for cap in told)
        if events or now_s >= self._wake_s:
            may_decide = self.waiting or now_s >= self._decided_s + self.world.interval_s
            if self.runs and (may_decide or self.cap_log):
                events.insert(0, self._progress())  # only a step that may decide needs to know
            plan = self.scheduler.step(now_s, events)
            self._wake_s = plan.wake_s
            if plan.decided:
                self._carry_out(plan)
        if self.cap_log:
            self._log_caps()
        self.recorder.state(
            now_s, self.meter.watts, self._busy, len(self.runs), self.waiting, self.gpu_clock_mhz, self.gpu_price
        )

    def _arrive(self, events: list[Event]) -> None:
        job = self.jobs[self.arrived]
        events.append(Submitted(job, self.belief.iterations(self.arrived), self.world.pause_s))
        self.arrived += 1
        self.waiting += 1
        self._arrival_s = self.jobs[self.arrived].submit_s if self.arrived < len(self.jobs) else math.inf

    def _run_due_s(self) -> float:
        """When something happens next to a run. What was to happen to one that is over is forgotten."""
        due = self._due
        while due and due[0][3].over:
            heappop(due)
        return due[0][0] if due else math.inf

    def _resume(self, run: _Run, number: int, events: list[Event]) -> None:
        """A job's pause is over."""
        run.paused = False
        self._will_end(run, number)
        self.meter.watts += run.power_w - run.paused_w
        if run.exploring and self.belief.exploration_s(self.jobs[run.job], run.change) > 0:  # nobody was faster
            events.extend(self.belief.observe(self.jobs[run.job], run.change, 0.0))

    def _complete(self, run: _Run, events: list[Event]) -> None:
        """A job has done its work."""
        self._leave(run)
        self.finish_s[run.job] = self.now_s
        self.ended += 1
        self._quiet, self._work_then = 0, -1.0
        events.append(Completed(self.jobs[run.job].id, self.jobs[run.job].iterations))

    def _break(self, node: Node, events: list[Event]) -> None:
        """A node breaks: its jobs fall back to their last checkpoint and wait."""
        events.append(NodeFailed(node.name))
        for slot in self.scheduler.slots_on(node.name):
            run = self.runs[slot]
            saved, _ = self._checkpoint(run)
            self._leave(run)
            self.done[run.job] = saved
            self.waiting += 1
            events.append(Failed(self.jobs[run.job].id, retry=True, done=saved))
        self._draw_idle(self._nodes.breaks(node))

    def _mend(self, node: Node, events: list[Event]) -> None:
        """A broken node is back."""
        self._draw_idle(self._nodes.is_back(node))
        events.append(NodeRecovered(node.name))

    def _checkpoint(self, run: _Run) -> tuple[float, float]:
        """Iterations in a job's last checkpoint, and the seconds it has run since then."""
        ran_s = max(0.0, self.now_s - run.resume_s)
        unsaved_s = run.unsaved_s + ran_s
        if unsaved_s < self.world.checkpoint_s:
            return run.saved, unsaved_s
        unsaved_s = math.fmod(unsaved_s, self.world.checkpoint_s)
        return run.done + (ran_s - unsaved_s) * run.rate, unsaved_s

    def _progress(self) -> Progress:
        slots, done = np.empty(len(self._running), np.int64), np.empty(len(self._running))
        count = progress(self._running, self._done, self._resume_s, self._rate, self.now_s, slots, done)
        return Progress(slots[:count], done[:count])

    # -- power caps ---------------------------------------------------------------------------------------------

    def _metered(self) -> PowerMetered:
        """What the meters say."""
        self._meter_s = math.inf
        slots = sorted(self.runs)
        runs = [self.runs[slot] for slot in slots]
        return PowerMetered(
            self.meter.watts,
            np.array(slots, np.int64),
            np.array([run.paused_w if run.paused else run.power_w for run in runs], np.float64),
            np.array([not run.paused for run in runs], np.bool_),
        )

    def _log_caps(self) -> None:
        """Note how power stands to the caps, and have it metered if it has changed while one is known."""
        caps = self.scheduler.caps
        if not caps:
            return
        for scope in caps.scopes():
            if scope.nodes is None:
                watts = self.meter.watts
            else:
                watts = sum(self._nodes.watts(name) for name in scope.nodes)
                for run in self.runs.values():
                    placement = self.scheduler.pools[run.change.pool].occupancy.placement(run.change.slot)
                    inside = sum(len(share.gpus) for share in placement if share.node in scope.nodes)
                    above_w = (run.paused_w if run.paused else run.power_w) - run.idle_w
                    watts += above_w * inside / run.change.gpus
            self.cap_log.note(scope.name, self.now_s, watts, caps.limit_w(scope, self.now_s, self.now_s))
        if self.meter.watts != self._metered_w and self._meter_s == math.inf:
            self._metered_w, self._meter_s = self.meter.watts, self.now_s + METER_S

    # -- plans --------------------------------------------------------------------------------------------------

    def _carry_out(self, plan: Plan) -> None:
        self.decisions += 1
        self._decided_s = self._decided_s if plan.early else plan.now_s
        self.gpu_price = max(plan.gpu_price.values(), default=0.0)
        for change in plan.changes:
            before = self.runs.get(change.slot)
            checkpoint = None if before is None or change.moved else self._checkpoint(before)
            if before is None:
                job = self.index[change.job_id]
                self.waiting -= 1
            else:
                job = before.job
                self._leave(before)
            if change.gpus == 0:
                self.waiting += 1
                continue
            resume_s, exploring = self.now_s + change.wake_s, False
            if change.moved:
                if math.isnan(self.start_s[job]):
                    self.start_s[job] = self.now_s
                else:
                    self.rescales[job] += 1
                    resume_s += self.world.pause_s
                resume_s += self._start_s(job, before, change)
                explores_s = self.belief.exploration_s(self.jobs[job], change)
                resume_s += explores_s
                exploring = explores_s > 0
            elif before is not None:
                resume_s = max(before.resume_s, self.now_s)  # a clock changes under way, also during a pause
                exploring = before.exploring
            self._enter(job, change, resume_s, exploring, checkpoint)
        for name in plan.woken:
            self._draw_idle(self._nodes.wakes(name))
        for name in plan.asleep:
            self._draw_idle(self._nodes.sleeps(name))
        self._quiet += 1
        if self._quiet % STALL_LIMIT == 0:
            now = self._progress()
            work = float(np.sum(self.done) + (now.done - self._done[now.slots]).sum())
            if work <= self._work_then:
                raise self._stall()
            self._work_then = work

    def _start_s(self, job: int, before: _Run | None, change: Change) -> float:
        """Seconds that new ranks cost a job: all that they take to start, less what it trains meanwhile on what it had.

        What is trained meanwhile is counted as if the job stood still for a shorter time, and then went on at its new
        pace: the same work is done at the end.
        """
        if before is None:
            return self.world.start_s
        if change.gpus <= before.change.gpus or before.paused:
            return 0.0
        rate, _ = self.truth[self.jobs[job].cost_class, change.pool].runs(change.gpus, change.clock, change.packed)
        return self.world.start_s * max(0.0, 1.0 - before.rate / rate)

    def _enter(
        self, job: int, change: Change, resume_s: float, exploring: bool, checkpoint: tuple[float, float] | None
    ) -> None:
        """A job takes GPUs; ``checkpoint`` as of `_checkpoint`, None if it has just been saved (to move it)."""
        rate, power_w = self.truth[self.jobs[job].cost_class, change.pool].runs(
            change.gpus, change.clock, change.packed
        )
        slot, done = change.slot, self.done[job]
        idle_w = change.gpus * self.idle_w[change.pool]
        paused_w = power_w if exploring else idle_w
        paused = resume_s > self.now_s
        saved, unsaved_s = checkpoint or (done, 0.0)
        run = _Run(
            job,
            change,
            self.now_s,
            resume_s,
            done,
            rate,
            power_w,
            idle_w,
            paused_w,
            paused,
            saved,
            unsaved_s,
            exploring,
        )
        self.runs[slot] = run
        while slot >= len(self._done):
            self._running, self._done, self._resume_s, self._rate = (
                np.concatenate([values, np.zeros_like(values)])
                for values in (self._running, self._done, self._resume_s, self._rate)
            )
        self._running[slot] = True
        self._done[slot], self._resume_s[slot], self._rate[slot] = done, resume_s, rate
        self._busy += change.gpus
        self.gpu_clock_mhz += change.gpus * change.clock_mhz
        self._draw_idle(-idle_w)
        self.meter.watts += paused_w if paused else power_w
        self._entered += 1
        if paused:
            heappush(self._due, (resume_s, RESUME, self._entered, run))
        else:
            self._will_end(run, self._entered)

    def _will_end(self, run: _Run, number: int) -> None:
        left = max(0.0, self.jobs[run.job].iterations - run.done)
        heappush(self._due, (run.resume_s + left / run.rate, END, number, run))

    def _leave(self, run: _Run) -> None:
        """A job gives its GPUs back: settle what the stretch did and cost."""
        change, now_s = run.change, self.now_s
        run.over = True
        del self.runs[change.slot]
        self._running[change.slot] = False
        held_s = now_s - run.since_s
        ran_s = max(0.0, now_s - run.resume_s)
        energy_j = run.paused_w * (min(now_s, run.resume_s) - run.since_s) + run.power_w * ran_s
        self.energy_j[run.job] += energy_j
        self.gpu_s[run.job] += change.gpus * held_s
        self.done[run.job] = run.done + ran_s * run.rate
        self._busy -= change.gpus
        self.gpu_clock_mhz -= change.gpus * change.clock_mhz
        self.meter.watts -= run.paused_w if run.paused else run.power_w
        self._draw_idle(run.idle_w)
        if held_s > 0:
            self.recorder.segment(run.job, run.since_s, now_s, change.gpus, change.clock_mhz, energy_j)
        if ran_s > 0:
            self._pending.extend(self.belief.observe(self.jobs[run.job], change, ran_s))

    def _draw_idle(self, watts: float) -> None:
        """What belongs to no job draws so many watts more (less, if negative)."""
        self._idle_watts += watts
        self.meter.watts += watts

    def _stall(self) -> InputError:
        waiting = [job.id for job, finish_s in zip(self.jobs, self.finish_s, strict=True) if math.isnan(finish_s)]
        return InputError(
            f"policy {self.policy_name} leaves {len(waiting)} jobs waiting for ever (first: {waiting[0]})",
            fix="give them GPUs they can run on, or use another policy",
            exit_code=1,
        )


@kernel
def progress(
    running: BoolArray,
    done: FloatArray,
    resume_s: FloatArray,
    rate: FloatArray,
    now_s: float,
    slots: IntArray,
    so_far: FloatArray,
) -> int:
    """How many jobs run; their slots, ascending, and the iterations each has done, are written to the last two.

    The arguments before are by slot.
    """
    count = 0
    for slot in range(len(running)):
        if running[slot]:
            slots[count] = slot
            so_far[count] = done[slot] + max(0.0, now_s - resume_s[slot]) * rate[slot]
            count += 1
    return count


def simulate(
    workload: Workload,
    policy: Policy,
    *,
    energy_price: float = 0.0,
    belief: Belief | None = None,
    world: World | None = None,
    seed: int = 0,
) -> SimulationResult:
    """Run a workload to its end under one policy; the arguments are those of `Simulation`."""
    simulation = Simulation(workload, policy, energy_price=energy_price, belief=belief, world=world, seed=seed)
    simulation.run()
    return simulation.result()
