"""Protected jobs: each gets the GPUs it asked for as soon as it comes, and is slowed no more than its owner allows.

The promise, for a job that may be slowed by a share s: its JCT is at most (1 + s) times what it would take alone as
submitted (requested GPUs, maximum clock). It is kept by watching, not by predicting. Divide the work by the promised
pace and you get a line: by now the job should have done so many iterations. The time by which it is ahead,

    ahead = (1 + s)·done·T_ref − (now − submission)            seconds,

is all that may be spent. A job that is ahead by at least the time until the next decision may leave its configuration:
even if it then did nothing at all until that decision, the promise would stand. Otherwise it runs as submitted, and
falls no further behind than running alone would. So neither the size of a job nor its cost on other configurations
needs to be believed, and an error of the models costs watts, never the promise.

What is fixed at submission is the configuration. T_ref, the seconds of an iteration in it, is measured while the job
runs so (until then, it does); a later measurement may tighten it, none may loosen it: what is promised does not drift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from powerflow.arrays import IntArray
from powerflow.policy.levels import by_arrival, requested_gpus
from powerflow.policy.protocol import Allocation, Policy, View
from powerflow.scheduler.rules.partial import decide_rest, first_that_fit

DELAY_S, DELAY_SHARE = 60.0, 0.01  # a protected job may start so late
LEAST_S = 30.0  # running as submitted for less says little about the pace: steps are counted whole


@dataclass(slots=True)
class Pace:
    """How fast a protected job is as submitted, as far as it has been measured.

    Attributes:
        step_s: T_ref, seconds per iteration; ``inf`` until it is known.
        since_s, since_done: When the present stretch as submitted was first seen under way, and what was done by then;
            nan if it does not run as submitted.
    """

    step_s: float = math.inf
    since_s: float = math.nan
    since_done: float = math.nan

    def see(self, now_s: float, done: float, as_submitted: bool) -> None:
        """Take note of progress.

        Args:
            now_s: The moment of a decision.
            done: Iterations.
            as_submitted: Whether the job has run as submitted since the decision before.
        """
        if not as_submitted or done <= 0:  # before its first step it may still be starting
            self.since_s = self.since_done = math.nan
        elif not done > self.since_done:  # a new stretch; or it stood still, or fell back to a checkpoint
            self.since_s, self.since_done = now_s, done
        elif now_s - self.since_s >= LEAST_S:
            self.step_s = min(self.step_s, (now_s - self.since_s) / (done - self.since_done))


def ahead_s(slowdown: float, step_s: float, done: float, elapsed_s: float) -> float:
    """Seconds by which a job is ahead of its promised line, ``(1 + s)·done·T_ref − elapsed``; negative: behind.

    Args:
        slowdown: s.
        step_s: T_ref; while it is ``inf``, unknown, the job is ahead of nothing: ``-inf``.
        done: Iterations.
        elapsed_s: Since submission.
    """
    return (1.0 + slowdown) * done * step_s - elapsed_s if math.isfinite(step_s) else -math.inf


class Protection:
    """Any policy, with some jobs protected from it.

    Protected jobs get what they asked for in order of submission, before all others; the policy shares out the rest,
    and so says who shrinks or stops for them. When they ask for more GPUs than are up, the first that does not fit
    waits, with all protected ones behind it, for the first GPUs that come free, and until then has what the policy
    gives it: the promise cannot hold for these.

    Args:
        inner: The policy that decides everything else.
        check_s: Decisions come at least this often, late ones included: what a slowed job may lose until the next.
    """

    def __init__(self, inner: Policy, *, check_s: float = 60.0) -> None:
        self.inner = inner
        self.check_s = check_s
        self.name = f"{inner.name}+protected"
        self.needs_sizes = inner.needs_sizes
        self.period_s: float | None = min(check_s, inner.period_s or math.inf)
        self.paces: dict[int, Pace] = {}

    def decide(self, view: View) -> Allocation:
        """Protected jobs first, the rest as the inner policy says."""
        rows = np.flatnonzero(view.jobs["protected"])
        wish = self.inner.decide(view)
        if not len(rows):
            return wish
        jobs = view.jobs[rows]
        numbers: list[int] = jobs["id"].tolist()
        self.paces = {number: self.paces.get(number) or Pace() for number in numbers}
        need = requested_gpus(view)
        order = by_arrival(view)
        kept = first_that_fit(need, order[np.isin(order, rows)], view.capacity)
        as_submitted = (jobs["gpus"] == need[rows]) & (jobs["clock"] == view.clock_max)
        for number, done, same in zip(numbers, jobs["done"].tolist(), as_submitted.tolist(), strict=True):
            self.paces[number].see(view.now_s, done, same)
        gpus, clock = self._configurations(view, wish, kept, need)
        answer = replace(wish, gpus=gpus, clock=clock)
        if (gpus[kept] == wish.gpus[kept]).all():
            return answer
        return decide_rest(self.inner, view, answer, kept)

    def ahead_s(self, view: View) -> dict[int, float]:
        """By row id, seconds by which each protected job is ahead of its promised line (`ahead_s`)."""
        jobs = view.jobs[view.jobs["protected"]]
        columns = (jobs[name].tolist() for name in ("id", "slowdown", "done", "arrival_s"))
        return {
            number: ahead_s(slowdown, self.paces.get(number, Pace()).step_s, done, view.now_s - arrival_s)
            for number, slowdown, done, arrival_s in zip(*columns, strict=True)
        }

    def held_back_s(self, view: View) -> dict[int, float]:
        """By row of the view, protected jobs that do not run as submitted, and how far behind their line they are.

        Seconds beyond the start delay that is allowed: ``max(60 s, 1 %)`` of the time since submission; and no more
        than have passed since the job was last given, or denied, its GPUs: what was before (its owner held it, a node
        failed) nobody here has done to it. One that has not run yet, so that nobody knows its pace, is behind by that.
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
        self, view: View, wish: Allocation, kept: npt.NDArray[np.bool_], need: IntArray
    ) -> tuple[IntArray, IntArray]:
        """GPUs and clocks, ``[J]`` each: those of the protected jobs that fit as they may be, the others' as wished."""
        gpus, clock = wish.gpus.copy(), wish.clock.copy()
        rows = np.flatnonzero(kept)
        numbers: list[int] = view.jobs["id"][rows].tolist()
        ahead = self.ahead_s(view)
        gpus[rows], clock[rows] = need[rows], view.clock_max
        for row, number in zip(rows.tolist(), numbers, strict=True):
            if ahead[number] >= self.check_s:  # or else there is nothing to choose
                pace_s = (1.0 + float(view.jobs["slowdown"][row])) * self.paces[number].step_s
                gpus[row], clock[row] = self._configuration(view, row, wish, int(need[row]), ahead[number], pace_s)
        if gpus[kept].sum() > view.capacity:  # not all can have more than they asked for
            more = kept & (gpus > need)
            gpus[more], clock[more] = need[more], view.clock_max
        return gpus, clock

    def _configuration(
        self, view: View, row: int, wish: Allocation, need: int, ahead: float, pace_s: float
    ) -> tuple[int, int]:
        """GPUs and clock of one protected job until the next decision.

        Args:
            view, row: Which job.
            wish: What the policy wants.
            need: GPUs it asked for.
            ahead: Seconds ahead of the line.
            pace_s: Seconds per iteration along the line.
        """
        job, top = view.jobs[row], view.clock_max
        step_s = view.step_time_s[job["cost"]]
        n, held = int(wish.gpus[row]), int(job["gpus"])
        if n > need and step_s[view.count_index[n], top] < step_s[view.count_index[need], top]:
            # going there and coming back are a pause each
            ahead -= float(job["pause_s"]) * (1 if n == held else 2)
        else:
            n = need
            ahead -= float(job["pause_s"]) * (n != held)
        if ahead < self.check_s:
            return need, top
        # the lowest clock, not below the wish, after which it is expected to be far enough ahead again
        expected_s = ahead + self.check_s * (pace_s / step_s[view.count_index[n], :] - 1.0)
        enough = np.flatnonzero(expected_s >= self.check_s)
        return n, int(enough[enough >= wish.clock[row]].min(initial=top))
