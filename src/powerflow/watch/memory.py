"""Remember who holds which GPU. Slurm forgets a job minutes after its end, and the GPUs of a job at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from powerflow.watch.owners import HIDDEN, GpuAddress, Holding, OwnersLook, WatchedJob

#: Slurm tells for this long how a job has ended. After a longer silence, jobs may have come and gone unseen, seconds.
UNSEEN_S = 300.0


class OwnerMemory:
    """The jobs that hold GPUs, and those that held some not long ago.

    Attributes:
        jobs: Jobs by key.
        known_until_s: Up to this moment (Unix seconds) it is known who held what; later changes may be unseen.
        gaps: Times (Unix seconds) in which the owners were not heard for longer than `UNSEEN_S`, or did not tell all
            jobs: a GPU that no job is known to have held may have been held by any. So is the time before the first
            look.
        complete: False if the last look did not tell all jobs.
    """

    def __init__(
        self,
        jobs: Iterable[WatchedJob] = (),
        holdings: Iterable[Holding] = (),
        known_until_s: float = 0.0,
        gaps: Iterable[tuple[float, float]] = (),
    ) -> None:
        self.jobs: dict[str, WatchedJob] = {job.key: job for job in jobs}
        self.known_until_s = known_until_s
        self.complete = True
        self.gaps = list(gaps)
        self._held: dict[GpuAddress, list[Holding]] = {}
        for holding in holdings:
            self._held.setdefault(holding.gpu, []).append(holding)

    def update(self, look: OwnersLook) -> None:
        """Take in what a source of owners says at one moment.

        A job that is no longer named has ended between the last look and this one. If the source tells the moment, that
        is its end. Else the middle of the two looks is, and may be off by half their distance; after a long silence,
        the last look is, since another job may have followed it unseen. Jobs that are hidden begin and end in the same
        way.
        """
        before_s = self.known_until_s
        held_now = {(each.job, each.gpu): each for each in (*look.holdings, *_hidden(before_s, look))}
        self._add_gap(look)
        for gpu, holdings in self._held.items():
            self._held[gpu] = [
                each if each.end_s is not None else _still(each, held_now, look, before_s) for each in holdings
            ]
        for each in held_now.values():
            mine = self._held.setdefault(each.gpu, [])
            same = (other for other in mine if other.job == each.job)
            if not any(other.end_s is None or other.start_s == each.start_s for other in same):
                mine.append(each)
        holders = {job for job, _ in held_now}
        for key, job in look.jobs.items():
            if key in self.jobs:  # processes do not tell when their job began: its first start stays
                self.jobs[key] = replace(job, start_s=min(job.start_s, self.jobs[key].start_s))
            elif key in holders:
                self.jobs[key] = job
        for key, known in self.jobs.items():
            if known.end_s is None and key not in look.jobs:
                requeued = _requeued_s(key, look, before_s) is not None
                end_s = _end(key, look, before_s).end_s
                self.jobs[key] = replace(known, end_s=max(end_s, known.start_s), state="REQUEUED" * requeued)
        self.known_until_s, self.complete = look.time_s, look.complete

    def _add_gap(self, look: OwnersLook) -> None:
        """Note the time before a look in which jobs may have come and gone unseen."""
        before_s = self.known_until_s
        until_s = look.time_s if look.since_s is None else look.since_s
        if look.complete and before_s and until_s - before_s <= UNSEEN_S:
            return
        until_s = until_s if look.complete else look.time_s
        if self.gaps and self.gaps[-1][1] >= before_s:
            self.gaps[-1] = (self.gaps[-1][0], until_s)
        else:
            self.gaps.append((before_s, until_s))

    def holdings(self, gpu: GpuAddress) -> list[Holding]:
        """Return who holds or held a GPU."""
        return self._held.get(gpu, [])

    def gpu_counts(self) -> dict[str, int]:
        """Return the number of GPUs of each job that is remembered."""
        found: dict[str, set[GpuAddress]] = {}
        for each in self.all_holdings():
            found.setdefault(each.job, set()).add(each.gpu)
        return {job: len(gpus) for job, gpus in found.items()}

    def gpus(self) -> set[GpuAddress]:
        """Return the GPUs that somebody holds or held."""
        return {*self._held}

    def all_holdings(self) -> list[Holding]:
        """Return the holdings of all GPUs that are remembered, for a later start of this program."""
        return [each for holdings in self._held.values() for each in holdings]

    def forget(self, gpu: GpuAddress, until_s: float) -> None:
        """Forget who held a GPU before a moment (Unix seconds)."""
        kept = [each for each in self.holdings(gpu) if each.end_s is None or each.end_s > until_s]
        if kept:
            self._held[gpu] = kept
        else:
            self._held.pop(gpu, None)

    def forget_gaps(self, until_s: float) -> None:
        """Forget gaps before a moment (Unix seconds)."""
        self.gaps = [gap for gap in self.gaps if gap[1] > until_s]

    def forget_jobs(self) -> list[WatchedJob]:
        """Forget jobs that have ended and whose GPUs are forgotten; return them."""
        needed = {each.job for holdings in self._held.values() for each in holdings}
        gone = [job for key, job in self.jobs.items() if job.end_s is not None and key not in needed]
        for job in gone:
            del self.jobs[job.key]
        return gone


class _End(NamedTuple):
    """The end of a job that nobody saw end: the moment, and how far it may be off, in seconds."""

    end_s: float
    slack_s: float


def _unseen_end(before_s: float, now_s: float) -> _End:
    if not before_s:
        return _End(now_s, 0.0)
    silence_s = now_s - before_s
    return _End(before_s, silence_s) if silence_s > UNSEEN_S else _End(before_s + silence_s / 2, silence_s / 2)


def _requeued_s(key: str, look: OwnersLook, before_s: float) -> float | None:
    """Return when a run that the last look (Unix seconds) saw has ended, if Slurm tells it by the job's next run."""
    ended_s = look.requeued_s.get(key.partition("@")[0])
    return ended_s if ended_s is not None and before_s - 1.0 <= ended_s <= look.time_s + 1.0 else None


def _end(key: str, look: OwnersLook, before_s: float) -> _End:
    """Return the end of a run that a look no longer names."""
    requeued_s = _requeued_s(key, look, before_s)
    return _unseen_end(before_s, look.time_s) if requeued_s is None else _End(requeued_s, 0.0)


def _hidden(before_s: float, look: OwnersLook) -> list[Holding]:
    """Return what hidden jobs hold; one that is new has begun between the last look and this one."""
    silence_s = look.time_s - before_s if before_s else 0.0
    start_s = look.time_s - silence_s / 2
    return [Holding(HIDDEN, gpu, start_s, None, max(silence_s / 2, 1.0)) for gpu in look.hidden]


def _still(
    each: Holding, held_now: Mapping[tuple[str, GpuAddress], Holding], look: OwnersLook, before_s: float
) -> Holding:
    """Return a holding as it stands after a look: open, or with its end."""
    if (now := held_now.get((each.job, each.gpu))) is not None:
        return replace(each, end_s=now.end_s, end_slack_s=now.end_slack_s)
    job = look.jobs.get(each.job)
    if job is not None and job.end_s is not None:
        return replace(each, end_s=job.end_s)
    end = _end(each.job, look, before_s)
    return replace(each, end_s=max(end.end_s, each.start_s), end_slack_s=max(each.end_slack_s, end.slack_s))
