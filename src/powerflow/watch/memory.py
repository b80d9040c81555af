"""Remember who holds which GPU. Slurm forgets a job minutes after its end, and the GPUs of a job at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from powerflow.watch.owners import GpuAddress, Holding, OwnersLook, WatchedJob


class OwnerMemory:
    """The jobs that hold GPUs, and those that held some not long ago.

    Attributes:
        jobs: Jobs by key.
        known_until_s: Up to this moment (Unix seconds) it is known who held what; later changes may be unseen.
    """

    def __init__(
        self, jobs: Iterable[WatchedJob] = (), holdings: Iterable[Holding] = (), known_until_s: float = 0.0
    ) -> None:
        self.jobs: dict[str, WatchedJob] = {job.key: job for job in jobs}
        self.known_until_s = known_until_s
        self._held: dict[GpuAddress, list[Holding]] = {}
        for holding in holdings:
            self._held.setdefault(holding.gpu, []).append(holding)

    def update(self, look: OwnersLook) -> None:
        """Take in what a source of owners says at one moment.

        A job that is no longer named has ended between the last look and this one. If the source tells the moment, that
        is its end; else the middle of the two looks is, and may be off by half their distance.
        """
        held_now = {(each.job, each.gpu): each for each in look.holdings}
        before_s = max(self.known_until_s, 0.0)
        for gpu, holdings in self._held.items():
            self._held[gpu] = [
                each if each.end_s is not None else self._still(each, held_now, look, before_s) for each in holdings
            ]
        for (job, gpu), each in held_now.items():
            mine = self._held.setdefault(gpu, [])
            if not any(other.job == job and (other.end_s is None or other.start_s == each.start_s) for other in mine):
                mine.append(each)
        holders = {job for job, _ in held_now}
        self.jobs.update({key: job for key, job in look.jobs.items() if key in self.jobs or key in holders})
        for key, known in self.jobs.items():
            if known.end_s is None and key not in look.jobs:
                self.jobs[key] = replace(
                    known, end_s=(before_s + look.time_s) / 2 if before_s else look.time_s, state=""
                )
        self.known_until_s = look.time_s

    @staticmethod
    def _still(
        each: Holding, held_now: Mapping[tuple[str, GpuAddress], Holding], look: OwnersLook, before_s: float
    ) -> Holding:
        """Return a holding as it stands after a look: open, or with its end."""
        if (now := held_now.get((each.job, each.gpu))) is not None:
            return replace(each, end_s=now.end_s, end_slack_s=now.end_slack_s)
        job = look.jobs.get(each.job)
        if job is not None and job.end_s is not None:
            return replace(each, end_s=job.end_s)
        middle_s, half_s = (before_s + look.time_s) / 2, (look.time_s - before_s) / 2
        return replace(each, end_s=max(middle_s, each.start_s), end_slack_s=max(each.end_slack_s, half_s))

    def holdings(self, gpu: GpuAddress) -> list[Holding]:
        """Return who holds or held a GPU."""
        return self._held.get(gpu, [])

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

    def forget_jobs(self) -> list[WatchedJob]:
        """Forget jobs that have ended and whose GPUs are forgotten; return them."""
        needed = {each.job for holdings in self._held.values() for each in holdings}
        gone = [job for key, job in self.jobs.items() if job.end_s is not None and key not in needed]
        for job in gone:
            del self.jobs[job.key]
        return gone
