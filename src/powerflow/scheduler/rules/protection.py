"""Serve protected jobs first, and slow them down no more than their owners allow.

A job runs *as submitted* if it has the GPUs that its owner requested and the maximum clock. The owner allows the job to
be slowed down by a share s. The promise: the completion time of the job is at most (1 + s) times the time that it needs
if it runs alone, as submitted, without waiting. The scheduler keeps this promise by measuring progress, not by
predicting it. The job is ahead of the promised progress by

    ahead = (1 + s)·done·T_ref − (now − submission)            seconds,

where ``done`` is the iterations done, and T_ref is the seconds per iteration if the job runs as submitted.

1. If ``ahead`` is at least the time until the next decision, the job may get other GPUs or another clock. Even if the
   job does no work at all until the next decision, the promise will hold.
2. Otherwise the job runs as submitted, which loses no more time than running alone would.

So the promise depends neither on the believed size of the job nor on its believed cost with other GPUs and clocks.
Wrong models cost energy only.

T_ref is measured while the job runs as submitted. The job runs as submitted until T_ref is known. Later measurements
may lower T_ref but never raise it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from powerflow.arrays import BoolArray, IntArray
from powerflow.policy.levels import by_arrival, requested_gpus
from powerflow.policy.protocol import Allocation, Policy, View
from powerflow.scheduler.rules.partial import decide_rest, first_that_fit
from powerflow.scheduler.rules.wrapper import Wrapper

DELAY_S, DELAY_SHARE = 60.0, 0.01  # allowed delay: 60 s or 1 % of the time since submission, whichever is larger
LEAST_S = 30.0  # shortest time over which T_ref is measured, because only whole steps are counted


@dataclass(slots=True)
class Pace:
    """Measure the seconds per iteration, T_ref, of a protected job that runs as submitted.

    As submitted means: on the GPUs that its owner requested, at the maximum clock.

    Attributes:
        step_s: T_ref, the fewest seconds per iteration measured so far; ``inf`` until T_ref is known.
        since_s, since_done: Time and iterations done at the start of the current measurement; nan if the job does not
            run as submitted.
    """

    step_s: float = math.inf
    since_s: float = math.nan
    since_done: float = math.nan

    def see(self, now_s: float, done: float, as_submitted: bool) -> None:
        """Record the progress of the job at a decision.

        Args:
            now_s: Time of the decision.
            done: Iterations done.
            as_submitted: True if the job has run on its requested GPUs at the maximum clock since the last decision.
        """
        if not as_submitted or done <= 0:  # before its first step it may still be starting
            self.since_s = self.since_done = math.nan
        elif not done > self.since_done:  # a new measurement: the job has just started, stood still or lost work
            self.since_s, self.since_done = now_s, done
        elif now_s - self.since_s >= LEAST_S:
            self.step_s = min(self.step_s, (now_s - self.since_s) / (done - self.since_done))


def ahead_s(slowdown: float, step_s: float, done: float, elapsed_s: float) -> float:
    """Return by how many seconds a protected job is ahead of the progress that it was promised; negative if behind.

    The result is ``(1 + slowdown)·done·step_s − elapsed_s``, or ``-inf`` as long as ``step_s`` is unknown.

    Args:
        slowdown: Share by which the owner allows the job to be slowed down; 0.1 is 10 %.
        step_s: Seconds per iteration on the requested GPUs at the maximum clock; ``inf`` as long as this is unknown.
        done: Iterations done.
        elapsed_s: Seconds since the job was submitted.
    """
    return (1.0 + slowdown) * done * step_s - elapsed_s if math.isfinite(step_s) else -math.inf


class Protection(Wrapper):
    """Serve protected jobs first, and let a policy decide about all other jobs.

    Protected jobs get the GPUs that they requested, in order of submission. The inner policy decides about the other
    jobs, so it also decides which jobs shrink or stop for the protected jobs. Protected jobs may request more GPUs than
    are up. Then the first protected job that does not fit, and all protected jobs after it, get only what the inner
    policy gives them, until GPUs are free. The promise to these jobs cannot be kept.

    Args:
        inner: The policy.
        check_s: Longest time between two decisions, seconds: the most time that a slowed job may lose before the next
            decision.
    """

    def __init__(self, inner: Policy, *, check_s: float = 60.0) -> None:
        super().__init__(inner)
        self.check_s = check_s
        self.name = f"{inner.name}+protected"
        self.period_s = min(check_s, inner.period_s or math.inf)
        self.paces: dict[int, Pace] = {}

    def decide(self, view: View) -> Allocation:
        """Return an allocation: protected jobs are served first; the inner policy decides about the other jobs."""
        rows = np.flatnonzero(view.jobs["protected"])
        wish = self.inner.decide(view)
        if not len(rows):
            return wish
        jobs = view.jobs[rows]
        numbers: list[int] = jobs["id"].tolist()
        self.paces = {number: self.paces.get(number) or Pace() for number in numbers}
        need = requested_gpus(view)
        order = by_arrival(view)
        served = first_that_fit(need, order[np.isin(order, rows)], view.capacity)
        as_submitted = (jobs["gpus"] == need[rows]) & (jobs["clock"] == view.clock_max)
        for number, done, same in zip(numbers, jobs["done"].tolist(), as_submitted.tolist(), strict=True):
            self.paces[number].see(view.now_s, done, same)
        gpus, clock = self._configurations(view, wish, served, need)
        answer = replace(wish, gpus=gpus, clock=clock)
        if (gpus[served] == wish.gpus[served]).all():
            return answer
        return decide_rest(self.inner, view, answer, served)

    def ahead_s(self, view: View) -> dict[int, float]:
        """Return how many seconds each protected job is ahead of its promised progress, by its number (`JOB` ``id``).

        A value is negative if the job is behind, and ``-inf`` if its seconds per iteration are not measured yet.
        """
        jobs = view.jobs[view.jobs["protected"]]
        columns = (jobs[name].tolist() for name in ("id", "slowdown", "done", "arrival_s"))
        return {
            number: ahead_s(slowdown, self.paces.get(number, Pace()).step_s, done, view.now_s - arrival_s)
            for number, slowdown, done, arrival_s in zip(*columns, strict=True)
        }

    def held_back_s(self, view: View) -> dict[int, float]:
        """Return the seconds by which the scheduler has delayed protected jobs behind their promises, by row of the
        view.

        Only jobs with a delay are in the result, and no job that runs on its requested GPUs at the maximum clock. A
        delay of ``max(60 s, 1 % of the time since submission)`` is allowed and not counted. At most the time since the
        GPU count of the job last changed counts, because an earlier delay has another cause (the owner, a failed node).
        For a job that has not done an iteration yet, all the time since its GPU count last changed counts, because it
        is not known how long its iterations take.
        """
        jobs = view.jobs
        as_submitted = (jobs["gpus"] == requested_gpus(view)) & (jobs["clock"] == view.clock_max)
        ahead = self.ahead_s(view)
        found = {}
        for row in np.flatnonzero(jobs["protected"] & ~as_submitted).tolist():
            elapsed_s = view.now_s - float(jobs["arrival_s"][row])
            here_s = view.now_s - float(jobs["since_s"][row])
            behind_s = -ahead[int(jobs["id"][row])]
            if not math.isfinite(behind_s):
                behind_s = here_s if jobs["done"][row] == 0 else 0.0
            behind_s = min(behind_s, here_s)
            late_s = behind_s - max(DELAY_S, DELAY_SHARE * elapsed_s)
            if late_s > 0:
                found[row] = late_s
        return found

    def _configurations(
        self, view: View, wish: Allocation, served: BoolArray, need: IntArray
    ) -> tuple[IntArray, IntArray]:
        """Return GPU counts and clocks, ``[J]`` each for J jobs: as wished for all jobs that are not in ``served``.

        Args:
            view: All jobs.
            wish: The allocation that the inner policy wants.
            served: ``[J]`` the protected jobs for which there are enough GPUs. Their GPUs and clocks are chosen here.
            need: ``[J]`` GPUs that each job requested.
        """
        gpus, clock = wish.gpus.copy(), wish.clock.copy()
        rows = np.flatnonzero(served)
        numbers: list[int] = view.jobs["id"][rows].tolist()
        ahead = self.ahead_s(view)
        gpus[rows], clock[rows] = need[rows], view.clock_max
        for row, number in zip(rows.tolist(), numbers, strict=True):
            if ahead[number] >= self.check_s:  # otherwise the job must run as submitted
                pace_s = (1.0 + float(view.jobs["slowdown"][row])) * self.paces[number].step_s
                gpus[row], clock[row] = self._configuration(view, row, wish, int(need[row]), ahead[number], pace_s)
        if gpus[served].sum() > view.capacity:  # not all of them can have more than they requested
            more = served & (gpus > need)
            gpus[more], clock[more] = need[more], view.clock_max
        return gpus, clock

    def _configuration(
        self, view: View, row: int, wish: Allocation, need: int, ahead: float, pace_s: float
    ) -> tuple[int, int]:
        """Choose the GPU count and the clock of one protected job until the next decision.

        Args:
            view: All jobs.
            row: The row of the job.
            wish: The allocation that the inner policy wants.
            need: GPUs that the job requested.
            ahead: Seconds that the job is ahead of its promised progress.
            pace_s: Promised seconds per iteration: (1 + allowed slowdown) × the seconds on the requested GPUs at the
                maximum clock.
        """
        job, top = view.jobs[row], view.clock_max
        step_s = view.step_time_s[job["cost"]]
        n, held = int(wish.gpus[row]), int(job["gpus"])
        if n > need and step_s[view.count_index[n], top] < step_s[view.count_index[need], top]:
            # moving to more GPUs and back costs a pause each time
            ahead -= float(job["pause_s"]) * (1 if n == held else 2)
        else:
            n = need
            ahead -= float(job["pause_s"]) * (n != held)
        if ahead < self.check_s:
            return need, top
        # the lowest clock, not below the wished one, with which it should be far enough ahead at the next decision
        expected_s = ahead + self.check_s * (pace_s / step_s[view.count_index[n], :] - 1.0)
        enough = np.flatnonzero(expected_s >= self.check_s)
        return n, int(enough[enough >= wish.clock[row]].min(initial=top))
