"""Change the GPUs of running jobs only where the gain is worth the pause, and not too often.

Each change costs a pause, in which the job's GPUs do no work. Three rules limit the changes that a policy makes:

1. Minimum run time: after a pause, a job runs for at least the time of the pause, and at least ``least_run_s`` seconds
   pass between two changes.
2. Gain: the changes of one decision together must gain more than twice what their pauses cost. The gain is counted over
   max(600 s, 10 pauses), the *horizon*, as in the policy ``prices``: about as long as a change lasts where jobs come
   and go. For a waiting job, the horizon is at least its waiting time. So no job waits for ever because other jobs
   would lose by its start.
3. Allowance: all pauses together take at most a share of the GPU time that jobs hold. The allowance is a number of
   GPU-seconds. It grows with the GPU time that jobs hold, each pause is subtracted from it, and it has an upper limit:
   what 8 hours of full use add. So even jobs that arrive at the worst possible times cannot cause more pauses.

A policy that does not say what an iteration is worth (`Allocation.worth`) follows rules 1 and 3 only.
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
DEPTH_S = 28800.0  # the allowance is at most what these seconds of full use add; it starts with this value
REVIEW_S = 300.0  # longest time between two decisions, so that a change that was not made is considered again


class Hysteresis(Wrapper):
    """Let a policy change the GPUs of running jobs only where the gain is worth the pause.

    Args:
        inner: The policy.
        least_run_s: Seconds for which a job runs at least between two changes.
        share: Share of the GPU time of jobs that pauses may take in the long run.

    Attributes:
        allowance_gpu_s: GPU-seconds that pauses may take now.

    Raises:
        InputError: A time is negative, or the share is not above 0 and below 1.
    """

    def __init__(self, inner: Policy, *, least_run_s: float = 60.0, share: float = 0.0225) -> None:
        if not 0 <= least_run_s < math.inf:
            raise InputError(f"minimum run time {least_run_s!r} is not a time", fix="give seconds, 0 or more")
        if not 0 < share < 1:
            raise InputError(
                f"share {share!r} of GPU time that pauses may take is not between 0 and 1",
                fix="give a share such as 0.025, which is 2.5 %",
            )
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
        """Return the inner policy's answer without the changes of GPUs whose gain is not worth the pause."""
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
        """Update the GPU-seconds that pauses may take: add a share of the GPU time used since the last decision.

        The pauses since the last decision are subtracted. The changes that jobs really got count, not the last answer,
        because another rule may have changed this answer. If there are several views of the same moment, only the first
        view counts: the later views may show only some of the jobs.
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
        """Return the GPU-seconds that pauses have taken since the last decision.

        When a job is stopped, the pause of its later return is counted at once. If it then returns with more GPUs than
        before, the additional GPU-seconds are counted when it returns.
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
        """Choose which changes of GPU counts are made, ``[J]`` for J jobs, out of the changes that the policy wants.

        This is an auction of GPUs:

        1. A job that shall get more GPUs bids what these GPUs gain over the horizon (the time over which gains count),
           minus twice the cost of its pause if it runs.
        2. A job that shall get fewer GPUs asks for what it loses over the horizon, plus twice the cost of its pause.
           Free GPUs cost 0.
        3. The highest bids get the GPUs of the lowest asks. The number of bids served is the one with the largest total
           gain.

        A job on n GPUs gains ``V = worth/T − λ_E·D`` per second at the best clock: T is seconds per iteration, D is
        watts above idle draw, and λ_E is the energy price.

        Args:
            view: All jobs.
            wish: The allocation that the policy wants.
            held: ``[J]`` GPUs that each job holds now.
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
    """Return the rows of the jobs with ``may`` and ``gpus`` > 0, jobs with the highest gain per GPU first."""
    who = np.flatnonzero(may & (gpus > 0))
    order: list[int] = who[np.argsort(-gain[who] / gpus[who], kind="stable")].tolist()
    return order


def _rates(view: View, gpus: IntArray, worth: FloatArray) -> FloatArray:
    """Return what each job gains per second on given GPUs, ``[J, F]`` for J jobs and F clocks; 0 without GPUs.

    This is ``worth/T − λ_E·D``, with the worth of an iteration, T seconds per iteration, the energy price λ_E and D
    watts above idle draw.
    """
    cost, level = view.jobs["cost"], view.count_index[gpus]
    has = (gpus > 0)[:, None]
    step_s = np.where(has, view.step_time_s[cost, level], np.inf)
    above_w = np.where(has, view.power_w[cost, level] - view.idle_w * gpus[:, None], 0.0)
    rates: FloatArray = worth[:, None] / step_s - view.energy_prices[:, None] * above_w
    return rates


def _values(view: View, gpus: IntArray, worth: FloatArray) -> FloatArray:
    """Return what each of J jobs gains per second on given GPUs at its best clock, ``[J]`` (`_rates`)."""
    values: FloatArray = _rates(view, gpus, worth).max(axis=1, initial=-np.inf)
    return values


def _clocks(view: View, gpus: IntArray, wish: Allocation) -> IntArray:
    """Return the best clock of each of J jobs on given GPUs, ``[J]``.

    If the policy does not say what an iteration is worth, these are the clocks that the policy wants.
    """
    if wish.worth is None:
        return wish.clock
    clocks: IntArray = _rates(view, gpus, wish.worth).argmax(axis=1)
    return clocks
