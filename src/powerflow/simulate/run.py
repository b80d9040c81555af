"""Simulate a cluster over time, with the same scheduler that the live controller uses.

The simulated jobs follow the true costs of the workload. The scheduler knows only a belief about these costs. At each
moment the simulator does three things:

1. It collects all events of this moment: ends of jobs and pauses, node failures, submissions, power caps.
2. It gives the events to the scheduler.
3. It carries out the scheduler's plan at once. A job whose GPU count changes, or that moves, then pauses.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Sequence
from heapq import heappop

import numpy as np

from powerflow.cluster.spec import Node
from powerflow.errors import InputError
from powerflow.policy.protocol import Policy
from powerflow.scheduler import events as e
from powerflow.scheduler.cap import PowerCap
from powerflow.scheduler.plan import Plan
from powerflow.scheduler.scheduler import Scheduler
from powerflow.simulate.belief import Belief, Oracle
from powerflow.simulate.cap_log import CapLog
from powerflow.simulate.cluster import END, SimulatedCluster
from powerflow.simulate.result import SimulationResult
from powerflow.simulate.stretch import Stretch
from powerflow.simulate.workload.workload import Workload, check_workload
from powerflow.simulate.world import World

METER_S = 1.0  # with power caps: time from a change of power to a reading of the meters
STALL_LIMIT = 10_000  # decisions without an end of a job after which progress is checked


class Simulation(SimulatedCluster):
    """A simulation of one policy on one workload. It can stop after any moment, be stored, and go on later.

    Args:
        workload: Jobs, cluster and true costs.
        policy: The policy.
        energy_price: λ_E, seconds per joule.
        belief: What the scheduler knows of costs and sizes; with None it knows the truth.
        world: Pauses, node failures and other behaviour of the simulated cluster.
        seed: Seed of the node failures.
        caps: Pairs of a time in seconds and a power cap. The scheduler learns of the cap at that time. The attribute
            `cap_log` records how well each cap is kept.

    Raises:
        InputError: A job can never run on this cluster, a value of a job is impossible, the policy needs job sizes that
            are unknown, or the energy price is negative.
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
        belief, world = belief or Oracle(workload), world or World()
        if policy.needs_sizes and not belief.sizes_known:
            raise InputError(
                f"policy {policy.name} needs the sizes of jobs", fix="use this policy with sizes known or mispredicted"
            )
        if not 0 <= energy_price < math.inf:
            raise InputError(f"energy price is {energy_price:g}", fix="give seconds per joule, 0 or more")
        check_workload(workload)
        super().__init__(workload, belief, world, seed)
        self.scheduler = Scheduler(
            workload.cluster,
            workload.axes,
            self.idle_w,
            policy,
            energy_price=energy_price,
            sizes_known=belief.sizes_known,
            interval_s=world.interval_s,
        )
        self.policy_name = policy.name
        self.energy_price = energy_price
        self.arrived = 0
        self.gpu_price = 0.0
        self.decisions = 0
        self.cpu_s = 0.0
        self._arrival_s = self.jobs[0].submit_s if self.jobs else math.inf
        self._wake_s = math.inf
        self._decided_s = -math.inf
        self._quiet = 0  # decisions since the last end of a job
        self._work_then = -1.0  # iterations of all jobs together at the last check of progress
        self._pending.extend(belief.start())
        self.cap_log = CapLog(caps)
        self._metered_w = -1.0
        self._meter_s = math.inf

    # -- running ------------------------------------------------------------------------------------------------

    def run(self, events: int | None = None) -> bool:
        """Simulate until all jobs have ended, or for at most ``events`` moments; return True if all jobs have ended.

        A moment is a time at which something happens, such as the end of a job.
        """
        began = time.process_time()
        left = math.inf if events is None else events
        while self.ended < len(self.jobs) and left > 0:
            self._moment()
            left -= 1
        self.cpu_s += time.process_time() - began
        return self.ended == len(self.jobs)

    def state(self) -> bytes:
        """Return the whole simulation as pickled bytes, from which `resume` continues it.

        Loading a pickle can run any code: resume only from bytes that you trust.
        """
        return pickle.dumps(self, protocol=pickle.HIGHEST_PROTOCOL)

    @staticmethod
    def resume(state: bytes) -> Simulation:
        """Return a simulation that continues from bytes that `state` returned."""
        simulation = pickle.loads(state)
        assert isinstance(simulation, Simulation)
        return simulation

    def result(self) -> SimulationResult:
        """Return the results of the simulation. Call this only after `run` has returned True."""
        end_s = float(np.nanmax(self.finish_s)) if self.jobs else 0.0
        return SimulationResult(
            policy=self.policy_name,
            seed=self.seed,
            energy_price=self.energy_price,
            jobs=self.job_results(),
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
        """Advance to the time of the next events, and carry out the scheduler's plan for them."""
        now_s = self._next_s()
        if now_s == math.inf:
            raise self._stall()
        self._advance_to(now_s)
        events = self._events(now_s)
        if events or now_s >= self._wake_s:
            may_decide = self.waiting or now_s >= self._decided_s + self.world.interval_s
            if self.runs and (may_decide or self.cap_log):
                events.insert(0, self._progress.at(now_s))  # only a step that may decide needs it
            plan = self.scheduler.step(now_s, events)
            self._wake_s = plan.wake_s
            if plan.decided:
                self._carry_out(plan)
        if self.cap_log:
            self._log_caps()
        self.recorder.state(
            now_s, self.meter.watts, self._busy, len(self.runs), self.waiting, self.gpu_clock_mhz, self.gpu_price
        )

    def _next_s(self) -> float:
        """Return the next time in seconds at which something happens."""
        next_s = min(self._arrival_s, self._run_due_s(), self._nodes.due_s(), self._wake_s)
        return min(next_s, self.cap_log.told_s(), self._meter_s) if self.cap_log else next_s

    def _events(self, now_s: float) -> list[e.Event]:
        """Apply everything that happens at ``now_s``, and return it as events for the scheduler."""
        events = self._pending
        self._pending = []
        while self._run_due_s() <= now_s:
            _, kind, number, run = heappop(self._due)
            if kind == END:
                self._complete(run, events)
            else:
                self._end_pause(run, number, events)
        while self._nodes.due_s() <= now_s:
            node, fails = self._nodes.next()
            (self._fail if fails else self._recover)(node, events)
        while self._arrival_s <= now_s:
            self._arrive(events)
        if self.cap_log:
            told = self.cap_log.told(now_s)
            if told or now_s >= self._meter_s:
                events.append(self._metered())
            events.extend(e.PowerCapSet(cap) for cap in told)
        return events

    def _arrive(self, events: list[e.Event]) -> None:
        job = self.jobs[self.arrived]
        events.append(e.Submitted(job, self.belief.iterations(self.arrived), self.world.pause_s))
        self.arrived += 1
        self.waiting += 1
        self._arrival_s = self.jobs[self.arrived].submit_s if self.arrived < len(self.jobs) else math.inf

    def _end_pause(self, run: Stretch, number: int, events: list[e.Event]) -> None:
        job = self.jobs[run.job]
        # another job may have explored the same configuration in the meantime
        if run.exploring and self.belief.exploration_s(job, run.change) > 0:
            events.extend(self.belief.observe(job, run.change, 0.0))
            more_s = self.belief.exploration_s(job, run.change)  # what was measured may suggest one more clock
            if more_s > 0:
                self._pause_longer(run, number, more_s)
                return
        run.paused, run.watts = False, run.power_w
        self._will_end(run, number)
        self.meter.watts += run.power_w - run.paused_w

    def _complete(self, run: Stretch, events: list[e.Event]) -> None:
        self._leave(run)
        self.finish_s[run.job] = self.now_s
        self.ended += 1
        self._quiet, self._work_then = 0, -1.0
        events.append(e.Completed(self.jobs[run.job].id, self.jobs[run.job].iterations))

    def _fail(self, node: Node, events: list[e.Event]) -> None:
        """Let a node fail: its jobs wait again, and keep only the work in their last checkpoints."""
        events.append(e.NodeFailed(node.name))
        for slot in self.scheduler.slots_on(node.name):
            run = self.runs[slot]
            saved, _ = run.checkpoint(self.now_s, self.world.checkpoint_s)
            self._leave(run)
            self.done[run.job] = saved
            self.waiting += 1
            events.append(e.Failed(self.jobs[run.job].id, retry=True, done=saved))
        self._draw_idle(self._nodes.breaks(node))

    def _recover(self, node: Node, events: list[e.Event]) -> None:
        self._draw_idle(self._nodes.is_back(node))
        events.append(e.NodeRecovered(node.name))

    # -- power caps ---------------------------------------------------------------------------------------------

    def _metered(self) -> e.PowerMetered:
        self._meter_s = math.inf
        slots = sorted(self.runs)
        runs = [self.runs[slot] for slot in slots]
        return e.PowerMetered(
            self.meter.watts,
            np.array(slots, np.int64),
            np.array([run.watts for run in runs], np.float64),
            np.array([not run.paused for run in runs], np.bool_),
        )

    def _log_caps(self) -> None:
        """Record the power of each capped part of the cluster; if it has changed, plan a reading of the meters."""
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
                    watts += (run.watts - run.idle_w) * inside / run.change.gpus
            self.cap_log.note(scope.name, self.now_s, watts, caps.limit_w(scope, self.now_s, self.now_s))
        if self.meter.watts != self._metered_w and self._meter_s == math.inf:
            self._metered_w, self._meter_s = self.meter.watts, self.now_s + METER_S

    # -- plans --------------------------------------------------------------------------------------------------

    def _carry_out(self, plan: Plan) -> None:
        self.decisions += 1
        self._decided_s = self._decided_s if plan.early else plan.now_s
        self.gpu_price = max(plan.gpu_price.values(), default=0.0)
        for change in plan.changes:
            self._apply(change)
        for name in plan.woken:
            self._draw_idle(self._nodes.wakes(name))
        for name in plan.asleep:
            self._draw_idle(self._nodes.sleeps(name))
        self._quiet += 1
        if self._quiet % STALL_LIMIT == 0:
            work = float(np.sum(self.done) + self._progress.gained(self.now_s))
            if work <= self._work_then:
                raise self._stall()
            self._work_then = work

    def _stall(self) -> InputError:
        waiting = [job.id for job, finish_s in zip(self.jobs, self.finish_s, strict=True) if math.isnan(finish_s)]
        return InputError(
            f"policy {self.policy_name} leaves {len(waiting)} jobs waiting for ever (first: {waiting[0]})",
            fix="give the jobs GPUs on which they can run, or use another policy",
            exit_code=1,
        )


def simulate(
    workload: Workload,
    policy: Policy,
    *,
    energy_price: float = 0.0,
    belief: Belief | None = None,
    world: World | None = None,
    seed: int = 0,
) -> SimulationResult:
    """Simulate a policy on a workload until all jobs have ended, and return the results.

    Args:
        workload: Jobs, cluster and true costs.
        policy: The policy.
        energy_price: λ_E, seconds per joule.
        belief: What the scheduler knows of costs and sizes; with None it knows the truth.
        world: Pauses, node failures and other behaviour of the simulated cluster.
        seed: Seed of the node failures.

    Raises:
        InputError: A job can never run on this cluster, a value of a job is impossible, the policy needs job sizes that
            are unknown, or the energy price is negative.
    """
    simulation = Simulation(workload, policy, energy_price=energy_price, belief=belief, world=world, seed=seed)
    simulation.run()
    return simulation.result()
