"""Share the cluster fairly between projects: no project waits with jobs that would run on its deserved GPUs alone.

1. The GPUs of the pool are divided between projects by their shares. A project that can use fewer gets what it can
   use; the others divide the rest, again by shares (max-min fairness, `deserved`). These are its *deserved* GPUs.
2. The inner policy decides about all jobs together. Where no job waits, or no project with waiting jobs is below its
   deserved GPUs, this is the answer. So idle GPUs may be used beyond a share.
3. Otherwise the inner policy is asked what it would do with the jobs of each such project if they had the project's
   deserved GPUs to themselves. A job that would run, but waits in the answer, starts on the fewest GPUs on which it
   can run. Then the inner policy decides about all other jobs on the GPUs that are left. It chooses which of them
   shrink or stop, also within the project.

So a project gets what its waiting jobs need to run, and no more: whether a job grows is decided for all projects
together. Growing jobs of one project to fill its deserved GPUs, while smaller jobs of others wait, cost more mean
completion time than all the rest of this rule (docs/priorities.md).

Two projects with their deserved GPUs never take GPUs from each other: each swap would cost a pause and gain nothing.

What is beyond this depends on what projects have used lately: the weights of a project's jobs are multiplied by the
factor ``2^((1 − U/S)/2)``. U is the project's part of the usage of all projects, and S is the part that it is entitled
to. Usage is GPU-seconds, of which half still count after each half-life. This is the fair-share factor of Slurm's
multifactor priority plug-in with the damping factor 2 (``FairShareDampeningFactor``), times √2, so that a project with
U = S has the factor 1. The factor is between 0.35 and 1.41: past usage makes jobs wait, but not for ever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.errors import InputError
from powerflow.policy.levels import feasible, least_levels, step_times
from powerflow.policy.protocol import Allocation, Policy, View
from powerflow.scheduler.rules.partial import decide_rest
from powerflow.scheduler.rules.wrapper import Wrapper
from powerflow.units import DAY_S

LEAST_FACTOR = 0.125**0.5
DAMPING = 2.0  # with 1, mean completion time is 1.2 % higher, and the worst-off project better off (docs/priorities.md)
PATIENCE_PAUSES = 10.0  # a job waits for so many times its pause, then running jobs of other projects give up GPUs


def decayed(usage: float, seconds: float, half_life_s: float) -> float:
    """Return how much of a usage still counts after some seconds: half after each half-life."""
    return float(usage * 0.5 ** (seconds / half_life_s))


def factors(usage: FloatArray, shares: FloatArray) -> FloatArray:
    """Return the factor on the weights of each project's jobs, ``[P]`` for P projects: ``max(1/√8, 2^((1 − U/S)/2))``.

    U is the project's part of the usage of all projects, and S is the part that it is entitled to. All factors are 1 as
    long as no project has used anything.

    Args:
        usage: ``[P]`` past usage of each project that still counts, in any unit.
        shares: ``[P]`` what each project is entitled to, compared with the others; > 0, in any unit.
    """
    total = usage.sum()
    if total <= 0:
        return np.ones(len(usage))
    found: FloatArray = np.maximum(np.exp2((1.0 - (usage / total) / (shares / shares.sum())) / DAMPING), LEAST_FACTOR)
    return found


def deserved(capacity: int, demand: IntArray, shares: FloatArray, held: IntArray, usage: FloatArray) -> IntArray:
    """Divide GPUs between P projects by their shares, ``[P]``; no project gets more than it can use.

    A project that can use no more than its part gets what it can use, and the others divide what is left. Parts are
    rounded down; the GPUs left over go one by one to the projects with the largest fractions. Of equal fractions,
    projects that hold the GPU already come first, so that no GPU changes hands between equals; then projects that have
    used least.

    Args:
        capacity: How many GPUs there are.
        demand: ``[P]`` the most GPUs that the jobs of each project can use.
        shares: ``[P]`` what each project is entitled to, compared with the others; > 0, in any unit.
        held: ``[P]`` GPUs that each project holds now.
        usage: ``[P]`` past usage of each project, in any unit.
    """
    gets = np.zeros(len(demand), np.int64)
    wants = demand > 0
    while wants.any():
        part = (capacity - gets.sum()) * shares / shares[wants].sum()
        met = wants & (demand <= part * (1.0 + 1e-12))
        if not met.any():
            break
        gets[met] = demand[met]
        wants &= ~met
    if wants.any():
        whole = np.floor(part + 1e-9).astype(np.int64)
        fraction = np.round(part - whole, 9)
        gets[wants] = whole[wants]
        rows = np.flatnonzero(wants)
        order = rows[np.lexsort(((usage / shares)[rows], (held <= whole)[rows], -fraction[rows]))]
        gets[order[: capacity - int(gets.sum())]] += 1
    return gets


class FairShare(Wrapper):
    """Start waiting jobs that would run on the deserved GPUs of their project; the rest is as the policy decides.

    Jobs without a project are treated as the jobs of one project. A job takes GPUs of running jobs in this way only
    after it has waited for ten times its pause (`PATIENCE_PAUSES`); free GPUs are shared out at once.

    Args:
        inner: The policy.
        shares: By project, what it is entitled to, compared with other projects; 1 for projects that are not listed.
        half_life_s: Seconds after which used GPU time counts half.

    Attributes:
        due_gpus: By project, the GPUs that it deserved in the last decision; empty if no job waited for GPUs.
        usage_gpu_s: GPU-seconds of each project that still counted at the last decision.

    Raises:
        InputError: A share or the half-life is not positive.
    """

    def __init__(
        self, inner: Policy, shares: Mapping[str, float] | None = None, *, half_life_s: float = 7 * DAY_S
    ) -> None:
        if not 0 < half_life_s < math.inf:
            raise InputError(f"half-life {half_life_s!r} is not a time", fix="give seconds, more than 0")
        for name, share in (shares or {}).items():
            if not 0 < share < math.inf:
                raise InputError(f"share {share!r} of project {name!r} is not positive", fix="give a number > 0")
        super().__init__(inner)
        self.half_life_s = half_life_s
        self.name = f"{inner.name}+fair"
        self.shares: dict[str, float] = {}
        self.usage_gpu_s: dict[str, float] = {}
        self.due_gpus: dict[str, int] = {}
        self.set_shares(shares or {})
        self._seen_s = math.nan
        self._given: dict[int, tuple[str, int]] = {}  # by job id: project, and GPUs of the last answer

    def decide(self, view: View) -> Allocation:
        """Return the inner policy's answer, with more jobs that would run on the deserved GPUs of their project."""
        self._account(view)
        of = self.factors()
        factor = np.array([of.get(name, 1.0) for name in view.projects])[view.jobs["project"]]
        answer = self._shared(_weighed(view, factor))
        self._given |= _held(view, answer.gpus)
        return answer

    def set_shares(self, shares: Mapping[str, float]) -> None:
        """Replace the shares of all projects; projects that are not listed have the share 1."""
        for name in sorted(shares):
            self.usage_gpu_s.setdefault(name, 0.0)
        self.shares = {name: shares.get(name, 1.0) for name in self.usage_gpu_s}

    def factors(self) -> dict[str, float]:
        """Return the factors by which the weights of each project's jobs are multiplied."""
        usage, shares = np.array([*self.usage_gpu_s.values()]), np.array([*self.shares.values()])
        return dict(zip(self.shares, factors(usage, shares).tolist(), strict=True))

    # -- deserved GPUs ----------------------------------------------------------------------------------------------

    def _shared(self, view: View) -> Allocation:
        """Return the inner policy's answer, asked again about projects that are below their deserved GPUs.

        Each further answer may take other projects below their deserved GPUs. So this is repeated until no more job
        starts by it. There are always enough GPUs: all projects together deserve at most all GPUs.
        """
        answer = self.inner.decide(view)
        project = view.jobs["project"]
        self.due_gpus = {}
        if not (answer.gpus == 0).any() or (project == project[0]).all():
            return answer
        allowed = feasible(view, step_times(view))
        level = least_levels(allowed)
        fewest = np.where(level >= 0, view.gpu_counts[level], view.capacity + 1)
        most = np.where(allowed, view.gpu_counts, 0).max(axis=1, initial=0)
        room, alone = self._room(view, most), view.nothing()
        asked, fixed = np.zeros((2, len(project)), np.bool_)
        while True:
            short = room - _by_project(view, answer.gpus)
            waits = (answer.gpus == 0) & (fewest <= short[project]) & ~fixed
            for code in np.unique(project[waits & ~asked]).tolist():
                rows = project == code
                part = self.inner.decide(replace(view.of_jobs(rows), capacity=int(room[code])))
                alone.gpus[rows], alone.clock[rows] = part.gpus, part.clock
                asked |= rows
            # a policy that does not say what an iteration is worth would not let a job grow later
            gets = alone.gpus if answer.worth is None else np.minimum(alone.gpus, fewest)
            starts = _that_fit(project, waits & (alone.gpus > 0), gets, short)
            if not starts.any():
                return answer
            fixed |= starts
            answer = replace(
                answer,
                gpus=np.where(starts, gets, answer.gpus),
                clock=np.where(starts, alone.clock, answer.clock),
            )
            answer = decide_rest(self.inner, view, answer, fixed)

    def _room(self, view: View, most: IntArray) -> IntArray:
        """Return the GPUs on which each project's jobs may insist now, ``[P]`` for P projects of the view.

        These are its deserved GPUs if a job of it has waited long enough. Otherwise GPUs that running jobs of other
        projects hold are left out.

        Args:
            view: All jobs.
            most: ``[J]`` the most GPUs that each job can use.
        """
        jobs, codes = view.jobs, np.unique(view.jobs["project"])
        held, demand = _by_project(view, jobs["gpus"])[codes], _by_project(view, most)[codes]
        names = [view.projects[code] for code in codes.tolist()]
        shares = np.array([self.shares.get(name, 1.0) for name in names])
        usage = np.array([self.usage_gpu_s.get(name, 0.0) for name in names])
        due = deserved(view.capacity, demand, shares, held, usage)
        self.due_gpus = dict(zip(names, due.tolist(), strict=True))
        urgent = (jobs["gpus"] == 0) & (view.now_s - jobs["since_s"] >= PATIENCE_PAUSES * jobs["pause_s"])
        free = max(0, view.capacity - int(held.sum()))
        room = np.zeros(len(view.projects), np.int64)
        for code, gpus, has in zip(codes.tolist(), due.tolist(), held.tolist(), strict=True):
            if (urgent & (jobs["project"] == code)).any():
                room[code] = gpus
            else:
                room[code] = min(gpus, has + free)
                free -= max(0, int(room[code]) - has)
        return room

    # -- usage ------------------------------------------------------------------------------------------------------

    def _account(self, view: View) -> None:
        """Add to each project's usage the GPUs that its jobs have held since the last decision.

        A job that has ended since counts for the whole time with the GPUs of the last answer. If there are several
        views of the same moment, only the first view counts: the later views may show only some of the jobs.
        """
        for code in np.unique(view.jobs["project"]).tolist():
            if view.projects[code] not in self.shares:
                self.shares[view.projects[code]] = 1.0
                self.usage_gpu_s[view.projects[code]] = 0.0
        if view.now_s > self._seen_s:
            since_s = view.now_s - self._seen_s
            for name in self.usage_gpu_s:
                self.usage_gpu_s[name] = decayed(self.usage_gpu_s[name], since_s, self.half_life_s)
            for project, gpus in (self._given | _held(view, view.jobs["gpus"])).values():
                if gpus:
                    self.usage_gpu_s[project] += gpus * since_s
            self._given = {}
        elif not math.isnan(self._seen_s):
            return
        self._seen_s = view.now_s


def _weighed(view: View, factor: FloatArray) -> View:
    """Return a view in which the weight of each job is multiplied by its factor, ``[J]``.

    The weights of submissions are multiplied by the mean factor, as if the jobs to come were of the same projects.
    """
    weight = view.jobs["weight"]
    if (factor == 1.0).all():
        return view
    mean = float((weight * factor).sum() / weight.sum())
    return replace(view.with_jobs(weight=weight * factor), arrivals=view.arrivals.with_weights_times(mean))


def _that_fit(project: IntArray, wants: BoolArray, gpus: IntArray, room: IntArray) -> BoolArray:
    """Return which jobs start, ``[J]``: those of ``wants``, in order of submission, that fit into their project's room.

    Args:
        project: ``[J]`` project of each of J jobs.
        wants: ``[J]`` True if the job is to start.
        gpus: ``[J]`` the GPUs that it starts on.
        room: ``[P]`` the GPUs that the jobs of each project may start on.
    """
    starts, left = np.zeros(len(wants), np.bool_), room.tolist()
    for j in np.flatnonzero(wants).tolist():
        if gpus[j] <= left[project[j]]:
            starts[j] = True
            left[project[j]] -= int(gpus[j])
    return starts


def _by_project(view: View, gpus: IntArray) -> IntArray:
    """Return the sum of ``gpus``, ``[J]``, over the jobs of each project of the view, ``[P]``."""
    total: IntArray = np.bincount(view.jobs["project"], gpus, len(view.projects)).astype(np.int64)
    return total


def _held(view: View, gpus: IntArray) -> dict[int, tuple[str, int]]:
    """Return the project and the GPU count of each job by job id; ``gpus``, ``[J]``, has the GPU counts of J jobs."""
    jobs = view.jobs
    columns = jobs["id"].tolist(), jobs["project"].tolist(), gpus.tolist()
    return {row: (view.projects[code], count) for row, code, count in zip(*columns, strict=True)}
