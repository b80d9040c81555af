"""Change the GPUs of running jobs only where the gain is worth the pause, and not too often.

Each change costs a pause, in which the job's GPUs do no work. Three rules limit the changes that a policy makes:

1. Minimum run time: after a pause, a job runs for at least as long again, and at least ``least_run_s``.
2. Gain: changes that are made together must gain, over a horizon, more than twice what their pauses cost. The horizon
   is max(600 s, 10 pauses), as in the policy ``prices``: about as long as a change lasts where jobs come and go. For a
   waiting job it is at least its waiting time, so that no job waits for ever because others would lose by its start.
3. Allowance: all pauses together take at most a share of the GPU time that jobs hold. The allowance grows with that
   GPU time, pays for each pause, and is limited to a few hours' worth. So even jobs that arrive at the worst possible
   times cannot cause more pauses than that.

Policies that do not say what an iteration is worth (`Allocation.worth`) follow rules 1 and 3 only.
"""

from __future__ import annotations

import math

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.errors import InputError
from powerflow.policy.levels import held_gpus
from powerflow.policy.protocol import JOB, Allocation, JobRows, Policy, View
from powerflow.scheduler.rules.partial import decide_rest
from powerflow.scheduler.rules.wrapper import Wrapper

HORIZON_S, HORIZON_PAUSES = 600.0, 10.0
RUN_PAUSES = 2.0  # minimum run time in pauses, including the pause itself
DEPTH_S = 28800.0  # seconds of full use for which the allowance is saved up; also its initial value
REVIEW_S = 300.0  # longest time between decisions, so that changes that were not made are considered again


class Hysteresis(Wrapper):
    """A policy that changes the GPUs of running jobs only where that pays.

    Args:
        inner: The policy.
        least_run_s: Minimum run time between changes, seconds.
        share: Share of the GPU time of jobs that pauses may take in the long run.

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
        super().__init__(inner)
        self.least_run_s = least_run_s
        self.share = share
        self.name = f"{inner.name}+hysteresis"
        self.period_s = min(REVIEW_S, inner.period_s or math.inf)
        self.allowance_gpu_s = math.nan
        self._seen_s = math.nan
        self._seen: JobRows = np.zeros(0, JOB)
        self._paid: dict[int, float] = {}  # by job id: GPU-seconds already charged for the return of a stopped job

    def decide(self, view: View) -> Allocation:
        """Return the inner policy's answer without the changes that do not pay."""
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
        # the GPUs that remain are for waiting jobs: a first start costs no pause
        return decide_rest(self.inner, view, fixed, running | changes)

    # -- the allowance ------------------------------------------------------------------------------------------

    def _account(self, view: View) -> None:
        """Update the allowance: add a share of the GPU time since the last decision, take off the pauses.

        It counts the changes that were made, not the last answer, which an outer rule may have changed. Of several
        views of the same moment only the first counts: the later ones may show some of the jobs only.
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
        """Return the GPU-seconds of pauses since the last decision.

        A stopped job is charged for its return at once; when it does return, for the rest if it gets more GPUs.
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
        """Choose which of the wished changes are made, ``[J]``.

        This is an auction of GPUs:

        1. A job that is to get more GPUs bids what they gain over the horizon, minus twice its pause if it runs.
        2. A job that is to get fewer asks for what it loses over the horizon, plus twice its pause. Free GPUs cost 0.
        3. The highest bids are served from the lowest asks, up to the number of bids with the largest total gain.

        n GPUs gain ``V = worth/T − λ_E·D`` per second at the best clock, with T seconds per iteration and D watts above
        idle.
        """
        jobs, gets = view.jobs, wish.gpus
        pause_s, stood_s = jobs["pause_s"], view.now_s - jobs["since_s"]
        # a stopped job pauses when it returns
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
        for j in asks[sold:]:  # some jobs gain by having fewer GPUs, even if no other job wants these
            if gain[j] > 0 and lost_gpu_s[j] <= left_gpu_s:
                made[j] = True
                left_gpu_s -= float(lost_gpu_s[j])
        return made


def _best_first(gain: FloatArray, gpus: IntArray, may: BoolArray) -> list[int]:
    """Return the jobs with ``may`` and ``gpus`` > 0, those with the highest gain per GPU first."""
    who = np.flatnonzero(may & (gpus > 0))
    order: list[int] = who[np.argsort(-gain[who] / gpus[who], kind="stable")].tolist()
    return order


def _rates(view: View, gpus: IntArray, worth: FloatArray) -> FloatArray:
    """Return ``worth/T − λ_E·D`` of each job on these GPUs at each clock, ``[J, F]``; 0 for jobs without GPUs."""
    cost, level = view.jobs["cost"], view.count_index[gpus]
    has = (gpus > 0)[:, None]
    step_s = np.where(has, view.step_time_s[cost, level], np.inf)
    above_w = np.where(has, view.power_w[cost, level] - view.idle_w * gpus[:, None], 0.0)
    rates: FloatArray = worth[:, None] / step_s - view.energy_prices[:, None] * above_w
    return rates


def _values(view: View, gpus: IntArray, worth: FloatArray) -> FloatArray:
    """Return the value of `_rates` at the best clock, ``[J]``."""
    values: FloatArray = _rates(view, gpus, worth).max(axis=1, initial=-np.inf)
    return values


def _clocks(view: View, gpus: IntArray, wish: Allocation) -> IntArray:
    """Return the best clock on these GPUs, ``[J]``; the wished one if the policy gives no worth of iterations."""
    if wish.worth is None:
        return wish.clock
    clocks: IntArray = _rates(view, gpus, wish.worth).argmax(axis=1)
    return clocks
