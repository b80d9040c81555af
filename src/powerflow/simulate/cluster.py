"""Simulate the cluster: which jobs hold which GPUs, what the jobs do there, and how many watts everything draws."""

from __future__ import annotations

import math
from heapq import heappop, heappush

import numpy as np

from powerflow.cost.catalogue import gpu_type as catalogue_gpu
from powerflow.job import Job
from powerflow.scheduler.events import Event
from powerflow.scheduler.plan import Change
from powerflow.simulate.belief import Belief
from powerflow.simulate.nodes import Nodes
from powerflow.simulate.recorder import PowerMeter, Recorder
from powerflow.simulate.result import JobResults
from powerflow.simulate.stretch import ProgressTable, Stretch
from powerflow.simulate.truth import truth_of
from powerflow.simulate.workload.workload import Workload, alone_times
from powerflow.simulate.world import World

#: What happens next in a stretch, unless it is over by then: time, `END` or `RESUME`, a unique number, the stretch.
_Due = tuple[float, int, int, Stretch]

END, RESUME = range(2)  # at the same time, ends come before the ends of pauses


class SimulatedCluster:
    """The state of all jobs and nodes of the simulated cluster at one time.

    Attributes:
        now_s: The time, seconds.
        jobs: All jobs, in order of submission.
        index: Name of a job → its position in ``jobs``. The lists below have the same positions.
        start_s, finish_s: Times in seconds at which each job first got GPUs and at which it ended; nan before.
        gpu_s, energy_j, rescales: GPU-seconds and joules that each job has used, and how often it was rescaled or
            moved.
        done: Iterations that each waiting job has done and saved.
        runs: Slot (row of the scheduler's ledger) → what the running job in it does now.
        waiting, ended: Number of jobs that wait, and number of jobs that have ended.
        gpu_clock_mhz: Sum of the clocks of all GPUs that jobs hold.
        idle_j: Joules until now that belong to no job.
        meter: Power and energy of the whole cluster.
    """

    def __init__(self, workload: Workload, belief: Belief, world: World, seed: int) -> None:
        self.workload = workload
        self.belief = belief
        self.world = world
        self.seed = seed
        cluster = workload.cluster
        self.idle_w = {name: catalogue_gpu(name).idle_w for name in cluster.pools()}
        self.truth = truth_of(workload)
        self.jobs: list[Job] = list(workload.jobs)
        self.index = {job.id: i for i, job in enumerate(self.jobs)}
        count = len(self.jobs)
        self.start_s = [math.nan] * count
        self.finish_s = [math.nan] * count
        self.gpu_s = [0.0] * count
        self.energy_j = [0.0] * count
        self.rescales = [0] * count
        self.done = [0.0] * count
        self.now_s = 0.0
        self.runs: dict[int, Stretch] = {}
        self.waiting = 0
        self.ended = 0
        self.gpu_clock_mhz = 0.0
        self.idle_j = 0.0
        self.meter = PowerMeter()
        self.recorder = Recorder()
        self._due: list[_Due] = []  # a heap
        self._entered = 0
        self._nodes = Nodes(cluster.nodes, self.idle_w, world.node_mtbf_h, world.node_repair_h, seed)
        self._busy = 0
        self._idle_watts = self._nodes.empty_watts()
        self.meter.watts = self._idle_watts
        self._progress = ProgressTable()
        self._pending: list[Event] = []  # for the scheduler's next step

    def job_results(self) -> JobResults:
        """Return the result figures of all jobs."""
        return JobResults(
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
        )

    def _advance_to(self, now_s: float) -> None:
        """Advance the time to ``now_s``; power is constant in between."""
        self.meter.advance(now_s)
        self.idle_j += self._idle_watts * (now_s - self.now_s)
        self.now_s = now_s

    def _run_due_s(self) -> float:
        """Return the time at which the next job ends or the next pause ends; ``inf`` if no job runs."""
        due = self._due
        while due and due[0][3].over:
            heappop(due)
        return due[0][0] if due else math.inf

    def _apply(self, change: Change) -> None:
        """Give a job its new allocation."""
        before = self.runs.get(change.slot)
        # a job that moves saves its state first; a job that only changes its clock keeps its last checkpoint
        checkpoint = None
        if before is None:
            job = self.index[change.job_id]
            self.waiting -= 1
        else:
            job = before.job
            if not change.moved:
                checkpoint = before.checkpoint(self.now_s, self.world.checkpoint_s)
            self._leave(before)
        if change.gpus == 0:
            self.waiting += 1
            return
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
            resume_s = max(before.resume_s, self.now_s)  # a clock may also change during a pause
            exploring = before.exploring
        self._enter(job, change, resume_s, exploring, checkpoint or (self.done[job], 0.0))

    def _start_s(self, job: int, before: Stretch | None, change: Change) -> float:
        """Return the seconds of pause that a job has because its new ranks start.

        A job that grows continues to train while its new ranks start. Here this counts as a shorter pause at the new
        speed, so that the job has done the same work in the end.
        """
        if before is None:
            return self.world.start_s
        if change.gpus <= before.change.gpus or before.paused:
            return 0.0
        rate, _ = self.truth[self.jobs[job].cost_class, change.pool].runs(change.gpus, change.clock, change.packed)
        return self.world.start_s * max(0.0, 1.0 - before.rate / rate)

    def _enter(
        self, job: int, change: Change, resume_s: float, exploring: bool, checkpoint: tuple[float, float]
    ) -> None:
        """Let a job take GPUs.

        ``checkpoint`` is the iterations in the job's last checkpoint, and the seconds that the job has run since.
        """
        rate, power_w = self.truth[self.jobs[job].cost_class, change.pool].runs(
            change.gpus, change.clock, change.packed
        )
        idle_w = change.gpus * self.idle_w[change.pool]
        paused_w, paused = power_w if exploring else idle_w, resume_s > self.now_s
        run = Stretch(
            job=job,
            change=change,
            since_s=self.now_s,
            resume_s=resume_s,
            done=self.done[job],
            rate=rate,
            power_w=power_w,
            idle_w=idle_w,
            paused_w=paused_w,
            paused=paused,
            watts=paused_w if paused else power_w,
            saved=checkpoint[0],
            unsaved_s=checkpoint[1],
            exploring=exploring,
        )
        self.runs[change.slot] = run
        self._progress.start(run)
        self._busy += change.gpus
        self.gpu_clock_mhz += change.gpus * change.clock_mhz
        self._draw_idle(-idle_w)
        self.meter.watts += run.watts
        self._entered += 1
        if run.paused:
            heappush(self._due, (resume_s, RESUME, self._entered, run))
        else:
            self._will_end(run, self._entered)

    def _will_end(self, run: Stretch, number: int) -> None:
        left = max(0.0, self.jobs[run.job].iterations - run.done)
        heappush(self._due, (run.resume_s + left / run.rate, END, number, run))

    def _pause_longer(self, run: Stretch, number: int, by_s: float) -> None:
        """Let the pause of a job that ends now last ``by_s`` seconds longer."""
        run.resume_s = self.now_s + by_s
        self._progress.start(run)
        heappush(self._due, (run.resume_s, RESUME, number, run))

    def _leave(self, run: Stretch) -> None:
        """Let a job give up its GPUs, and add its work, GPU-seconds and energy since the last change to its totals."""
        change, now_s = run.change, self.now_s
        run.over = True
        del self.runs[change.slot]
        self._progress.stop(change.slot)
        held_s, ran_s, energy_j = now_s - run.since_s, run.ran_s(now_s), run.energy_j(now_s)
        self.energy_j[run.job] += energy_j
        self.gpu_s[run.job] += change.gpus * held_s
        self.done[run.job] = run.done + ran_s * run.rate
        self._busy -= change.gpus
        self.gpu_clock_mhz -= change.gpus * change.clock_mhz
        self.meter.watts -= run.watts
        self._draw_idle(run.idle_w)
        if held_s > 0:
            self.recorder.segment(run.job, run.since_s, now_s, change.gpus, change.clock_mhz, energy_j)
        if ran_s > 0:
            self._pending.extend(self.belief.observe(self.jobs[run.job], change, ran_s))

    def _draw_idle(self, watts: float) -> None:
        """Add watts to the power that belongs to no job."""
        self._idle_watts += watts
        self.meter.watts += watts
