"""Elastic without regret: a running job's GPUs change only if that pays twice over, and never too often.

A change costs a pause: so many seconds in which the job's GPUs do nothing. Three rules stand between a policy and a
pause:

1. A job that has paused runs for at least as long again, and never less than a minimum run time.
2. What is changed together must gain, over a horizon, more than twice what its pauses cost. The horizon is that of
   `prices`, max(600 s, 10 pauses): how long a change may be expected to last where jobs come and go. For a job that
   waits it is at least as long as it has waited: what has lasted so long may well last as long again, so no job is held
   back for ever by what others would lose.
3. All pauses together take no more than a share of the GPU-time that jobs have: an allowance grows with it, pays for
   every pause, and is never more than some hours' worth. Jobs that come as if timed to make others change back and
   forth can use it up, not more.

A policy that does not say what iterations are worth (`Allocation.worth`) is held to the first and the third.
"""

from __future__ import annotations

import math

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.errors import InputError
from powerflow.policy.levels import held_gpus
from powerflow.policy.protocol import JOB, Allocation, JobRows, Policy, View
from powerflow.scheduler.rules.partial import decide_rest

HORIZON_S, HORIZON_PAUSES = 600.0, 10.0
RUN_PAUSES = 2.0  # minimum run time in pauses: one of them is the pause itself
DEPTH_S = 28800.0  # the allowance that is saved up: with the default share 3 % of a day, all in all
REVIEW_S = 300.0  # what was held back is looked at again


class Hysteresis:
    """Any policy, changing the GPUs of running jobs only where it pays.

    Args:
        inner: The policy.
        least_run_s: Minimum run time between changes, seconds.
        share: Of the GPU-time that jobs have, what pauses may take in the long run. Besides, once: eight hours' worth.

    Attributes:
        allowance_gpu_s: GPU-seconds of pauses that may be spent now.

    Raises:
        InputError: A time is negative, or the share is not above 0 and below 1.
    """

    def __init__(self, inner: Policy, *, least_run_s: float = 60.0, share: float = 0.0225) -> None:
        if not 0 <= least_run_s < math.inf:
            raise InputError(f"minimum run time {least_run_s!r} is not a time", fix="give seconds, 0 or more")
        if not 0 < share < 1:
            raise InputError(f"share {share!r} for rescaling is not above 0 and below 1", fix="0.025 is 2.5 %")
        self.inner = inner
        self.least_run_s = least_run_s
        self.share = share
        self.name = f"{inner.name}+steady"
        self.needs_sizes = inner.needs_sizes
        self.period_s: float | None = min(REVIEW_S, inner.period_s or math.inf)
        self.allowance_gpu_s = math.nan
        self._seen_s = math.nan
        self._seen: JobRows = np.zeros(0, JOB)
        self._paid: dict[int, float] = {}  # by row id: GPU-seconds paid when the job was stopped, for when it resumes

    def decide(self, view: View) -> Allocation:
        """The inner policy's answer, less the changes that do not pay."""
        self._account(view)
        wish = self.inner.decide(view)
        held = held_gpus(view)
        running = held > 0
        changes = self._pays(view, wish, held)
        fixed = view.nothing()
        fixed.worth = wish.worth
        fixed.gpus[:] = np.where(changes, wish.gpus, held)
        fixed.clock[:] = np.where(changes | (wish.gpus == held), wish.clock, _clocks(view, held, wish))
        if (changes == (wish.gpus != held)).all():
            return wish
        # what is left is for jobs that wait: to start costs no pause
        return decide_rest(self.inner, view, fixed, running | changes)

    # -- the allowance ------------------------------------------------------------------------------------------

    def _account(self, view: View) -> None:
        """Settle what has happened since the last decision: GPU-time had, and GPU counts changed.

        What has changed counts, not what was answered: others may have had the last word. Within one moment only the
        first view is looked at; others, of some of the jobs, may follow.
        """
        most_gpu_s = self.share * view.capacity * DEPTH_S
        if math.isnan(self._seen_s):
            self.allowance_gpu_s = most_gpu_s
        elif view.now_s > self._seen_s:
            had_gpu_s = float(view.jobs["gpus"].sum()) * (view.now_s - self._seen_s)
            earned = min(self.allowance_gpu_s + self.share * had_gpu_s, most_gpu_s)
            self.allowance_gpu_s = earned - self._spent_gpu_s(view.jobs)
        else:
            return
        self._seen_s, self._seen = view.now_s, view.jobs

    def _spent_gpu_s(self, jobs: JobRows) -> float:
        """What the pauses since the last decision cost.

        A job that has been stopped pays for its return, one that has returned what it had not paid yet.
        """
        spent = 0.0
        paid, self._paid = self._paid, {}
        known, now, then = np.intersect1d(jobs["id"], self._seen["id"], assume_unique=True, return_indices=True)
        had, has = self._seen["gpus"][then], jobs["gpus"][now]
        started = (had > 0) | (self._seen["attained_gpu_s"][then] > 0)
        pause_s = jobs["pause_s"][now]
        if paid:
            self._paid = {row: paid[row] for row in known[has == 0].tolist() if row in paid}
        for j in np.flatnonzero(started & (has != had)).tolist():
            row = int(known[j])
            if has[j] == 0:
                self._paid[row] = float(pause_s[j] * had[j])
                spent += self._paid[row]
            else:
                spent += max(0.0, float(pause_s[j] * has[j]) - paid.get(row, 0.0))
        return spent

    # -- what pays ----------------------------------------------------------------------------------------------

    def _pays(self, view: View, wish: Allocation, held: IntArray) -> BoolArray:
        """Which of the wished changes are made, ``[J]``.

        GPUs are bid for and offered. A job that is to have more bids what they bring over the horizon, less twice
        its pause if it runs; one that is to have fewer asks what it loses, and twice its pause. GPUs that are free ask
        nothing. The highest bids are served from the lowest offers, as many as bring most in all.

        What n GPUs bring a second is ``V = worth/T − λ_E·D`` (design §5) at the best clock.
        """
        jobs, gets = view.jobs, wish.gpus
        pause_s, stood_s = jobs["pause_s"], view.now_s - jobs["since_s"]
        # a job that is stopped pauses when it returns
        lost_gpu_s = np.where(jobs["attained_gpu_s"] > 0, pause_s * np.where(gets > 0, gets, held), 0.0)
        may = (gets != held) & ((held == 0) | (stood_s >= np.maximum(self.least_run_s, RUN_PAUSES * pause_s)))
        gain = np.zeros(len(jobs))
        if wish.worth is not None:
            before, after = _values(view, held, wish.worth), _values(view, gets, wish.worth)
            horizon_s = np.maximum(HORIZON_S, HORIZON_PAUSES * pause_s)
            horizon_s = np.where(held > 0, horizon_s, np.maximum(stood_s, horizon_s))
            cost = np.where(held > 0, pause_s * np.maximum(np.where(gets > 0, after, before), 0.0), 0.0)
            gain = (after - before) * horizon_s - 2.0 * cost
        made = np.zeros(len(jobs), np.bool_)
        asks, bids = _best_first(gain, held - gets, may), _best_first(gain, gets - held, may)
        free, at, net, spent = view.capacity - int(held.sum()), 0, 0.0, 0.0
        best, served, sold = 0.0, 0, 0
        for count, j in enumerate(bids, 1):
            free -= int(gets[j] - held[j])
            net += float(gain[j])
            spent += float(lost_gpu_s[j])
            while free < 0 and at < len(asks):
                free += int(held[asks[at]] - gets[asks[at]])
                net += float(gain[asks[at]])
                spent += float(lost_gpu_s[asks[at]])
                at += 1
            if free < 0 or spent > self.allowance_gpu_s:
                break
            if net > best or wish.worth is None:
                best, served, sold = net, count, at
        made[bids[:served]] = True
        made[asks[:sold]] = True
        left_gpu_s = self.allowance_gpu_s - float(lost_gpu_s[made].sum())
        for j in asks[sold:]:  # with fewer GPUs they do better, even if nobody else wants them
            if gain[j] > 0 and lost_gpu_s[j] <= left_gpu_s:
                made[j] = True
                left_gpu_s -= float(lost_gpu_s[j])
        return made


def _best_first(gain: FloatArray, gpus: IntArray, may: BoolArray) -> list[int]:
    """The jobs that may and for which ``gpus`` is positive, by gain per GPU, the highest first."""
    who = np.flatnonzero(may & (gpus > 0))
    order: list[int] = who[np.argsort(-gain[who] / gpus[who], kind="stable")].tolist()
    return order


def _rates(view: View, gpus: IntArray, worth: FloatArray) -> FloatArray:
    """What jobs make of these GPUs a second at each clock, ``[J, F]``: ``worth/T − λ_E·D``; 0 where they have none."""
    cost, level = view.jobs["cost"], view.count_index[gpus]
    has = (gpus > 0)[:, None]
    step_s = np.where(has, view.step_time_s[cost, level], np.inf)
    above_w = np.where(has, view.power_w[cost, level] - view.idle_w * gpus[:, None], 0.0)
    rates: FloatArray = worth[:, None] / step_s - view.energy_prices[:, None] * above_w
    return rates


def _values(view: View, gpus: IntArray, worth: FloatArray) -> FloatArray:
    """What jobs make of these GPUs a second at the best clock, ``[J]``."""
    values: FloatArray = _rates(view, gpus, worth).max(axis=1, initial=-np.inf)
    return values


def _clocks(view: View, gpus: IntArray, wish: Allocation) -> IntArray:
    """The best clock for these GPUs, ``[J]``; the wished one where nobody says what iterations are worth."""
    if wish.worth is None:
        return wish.clock
    clocks: IntArray = _rates(view, gpus, wish.worth).argmax(axis=1)
    return clocks
