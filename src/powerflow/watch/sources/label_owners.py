"""Tell from labels of exporters which job holds which GPU.

Labels that are known:

- ``hpc_job`` of dcgm-exporter, which reads it from files that a prolog of the scheduler writes, one per GPU;
- ``jobid`` and ``userid``, or the metrics ``nvidia_gpu_jobId`` and ``nvidia_gpu_jobUid``, of jobstats' exporter;
- ``slurmjobid``, ``user`` and ``account`` of slurm-job-exporter: it names the users of jobs that other labels tell, and
  tells jobs that hold all GPUs of their node. It counts the GPUs of each job from 0, so that it does not tell which
  GPUs of a shared node a job has;
- ``pod`` and ``namespace`` of dcgm-exporter in Kubernetes (``exported_pod`` where Prometheus uses ``pod`` for the pod
  of the exporter itself). They count only where no label of a scheduler is found: such a pod may be a node of Slurm.

A label tells who held the GPU when it was scraped. So a job has begun between two scrapes: the middle of both is taken,
and half their distance is how far it may be off. A job whose label is missing at one scrape alone has not ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from powerflow.arrays import BoolArray, FloatArray
from powerflow.watch.owners import GpuAddress, Holding, OwnersLook, WatchedJob
from powerflow.watch.sources.gpu_exporters import JOBSTATS, SLURM_JOB, is_exporters_pod
from powerflow.watch.sources.prometheus_series import FoundGpu, Track, stitched

#: Holdings that have ended are named for this long, seconds.
TOLD_S = 600.0
#: For this long it is known that a job held a GPU, so that a later job of the same name has another key, seconds.
_KNOWN_S = 7200.0
#: Metrics that every GPU has, and whose labels are looked at.
_LOOKED_AT = {"energy_j", "power_w", "job"}
#: Labels that name pods.
_PODS = {"pod", "exported_pod"}
#: A sample of slurm-job-exporter counts for scrapes of other exporters this near, as a share of the usual interval.
_NEAR = 0.75


class JobFacts(NamedTuple):
    """What labels tell of a job.

    Attributes:
        label: The label or metric that names the job.
        id, name, user, account: As in `powerflow.watch.owners.WatchedJob`.
    """

    label: str
    id: str
    name: str = ""
    user: str = ""
    account: str = ""


class Presence(NamedTuple):
    """Who held a GPU when.

    Attributes:
        scrape_s: When its labels were read, Unix seconds, ascending.
        held_s: At which of these moments each job held it, by key of the job; in any order, other times may be among
            them.
    """

    scrape_s: FloatArray
    held_s: dict[str, FloatArray]


class LabelFacts(NamedTuple):
    """What labels tell in one time span.

    Attributes:
        presences: Who held each GPU when.
        facts: What is known of the jobs, by key.
        labels: The labels or metrics that name these jobs.
        notes: What could not be told, for the user.
    """

    presences: dict[GpuAddress, Presence]
    facts: dict[str, JobFacts]
    labels: set[str]
    notes: list[str]


def told_by(gpus: Sequence[FoundGpu], tracks: Iterable[Track], earlier: Set[str] = frozenset()) -> LabelFacts:
    """Return who held each GPU when.

    Args:
        gpus: GPUs with what was scraped of them.
        tracks: All time series; those of slurm-job-exporter belong to no GPU.
        earlier: Labels that named jobs before. After a scheduler's label pods no longer count.
    """
    facts: dict[str, JobFacts] = {}
    found = {gpu.address: _presence(gpu, facts) for gpu in gpus}
    of_jobs = [track for track in tracks if track.metric.exporter == SLURM_JOB]
    for track in of_jobs:
        for key, told, _ in _told(track):
            known = facts.get(key, told)
            facts[key] = known._replace(user=told.user or known.user, account=told.account or known.account)
    keys = {key for each in found.values() for key in each.held_s}
    pods = {key for key in keys if facts[key].label in _PODS}
    notes = []
    if not keys and of_jobs:
        notes = _add_whole_nodes(found, of_jobs)
        keys = {key for each in found.values() for key in each.held_s}
    elif keys - pods or earlier - _PODS:
        keys -= pods
        for each in found.values():
            for key in pods & each.held_s.keys():
                del each.held_s[key]
    return LabelFacts(found, facts, {facts[key].label for key in keys}, notes)


def _presence(gpu: FoundGpu, facts: dict[str, JobFacts]) -> Presence:
    """Return who held a GPU when, by the scrapers whose labels tell it."""
    telling: list[Presence] = []
    for each in gpu.scraped.values():
        jobs: dict[str, list[FloatArray]] = {}
        for track in each.tracks:
            if track.metric.column in _LOOKED_AT:
                for key, told, time_s in _told(track):
                    jobs.setdefault(key, []).append(time_s)
                    facts[key] = _merged(facts.get(key), told)
        if jobs:
            _add_users(each.tracks, jobs, facts)
            telling.append(Presence(each.time_s, {key: _all_of(times, each.time_s) for key, times in jobs.items()}))
    if len(telling) <= 1:
        return telling[0] if telling else Presence(gpu.series.time_s, {})
    masks = stitched([each.scrape_s for each in telling])
    scrape_s = np.sort(np.concatenate([each.scrape_s[mask] for each, mask in zip(telling, masks, strict=True)]))
    held_s: dict[str, FloatArray] = {}
    for key in {key for each in telling for key in each.held_s}:
        held_s[key] = np.concatenate([each.held_s[key] for each in telling if key in each.held_s])
    return Presence(scrape_s, held_s)


def _all_of(times: Sequence[FloatArray], scrape_s: FloatArray) -> FloatArray:
    """Return at which scrapes any of several time series had samples: mostly at all of them."""
    return scrape_s if any(np.array_equal(each, scrape_s) for each in times) else np.unique(np.concatenate(times))


def _told(track: Track) -> Iterator[tuple[str, JobFacts, FloatArray]]:
    """Yield the jobs that one time series names: key, facts, and when it named them."""
    labels, exporter = track.labels, track.metric.exporter
    if labels.get("hpc_job"):
        yield _job(JobFacts("hpc_job", labels["hpc_job"]), track.time_s)
    elif exporter == SLURM_JOB and labels.get("slurmjobid"):
        account = labels.get("account", "").removeprefix("error")  # it could not read the job's environment
        yield _job(JobFacts("slurmjobid", labels["slurmjobid"], "", labels.get("user", ""), account), track.time_s)
    elif exporter == JOBSTATS and labels.get("jobid"):
        yield _job(JobFacts("jobid", labels["jobid"], "", labels.get("userid", "")), track.time_s)
    elif track.metric.column == "job":
        value, time_s = track.value, track.time_s
        for number in np.unique(value[value > 0]):
            yield _job(JobFacts(track.labels["__name__"], f"{number:.0f}"), time_s[value == number])
    else:
        for prefix in ("exported_", ""):
            pod, namespace = labels.get(f"{prefix}pod", ""), labels.get(f"{prefix}namespace", "")
            if pod and not is_exporters_pod(pod):
                facts = JobFacts(f"{prefix}pod", f"{namespace}/{pod}", pod, "", namespace)
                yield f"pod:{facts.id}", facts, track.time_s
                break


def _job(facts: JobFacts, time_s: FloatArray) -> tuple[str, JobFacts, FloatArray]:
    """Return a job of a scheduler. Several labels may name it, so that its key has none of them."""
    return f"job:{facts.id}", facts, time_s


def _merged(known: JobFacts | None, told: JobFacts) -> JobFacts:
    """Return what is known of a job after one more label; what was told first stays."""
    if known is None or known == told:
        return told
    return JobFacts(*(old or new for old, new in zip(known, told, strict=True)))


def _add_users(tracks: Sequence[Track], jobs: Mapping[str, list[FloatArray]], facts: dict[str, JobFacts]) -> None:
    """Take the users of jobs from ``nvidia_gpu_jobUid``, whose value is the user's number."""
    for track in tracks:
        if track.metric.column == "uid" and not track.labels.get("jobid"):
            for key, times in jobs.items():
                at = np.isin(track.time_s, np.concatenate(times))
                if at.any() and not facts[key].user:
                    facts[key] = facts[key]._replace(user=f"{track.value[at][-1]:.0f}")


def _add_whole_nodes(found: dict[GpuAddress, Presence], of_jobs: Iterable[Track]) -> list[str]:
    """Add jobs of slurm-job-exporter that hold all GPUs of a node; return a note on the others."""
    gpus: dict[str, list[GpuAddress]] = {}
    for address in found:
        gpus.setdefault(address.node, []).append(address)
    held: dict[tuple[str, str], dict[str, FloatArray]] = {}
    for track in of_jobs:
        for key, _, time_s in _told(track):
            held.setdefault((track.gpu.node, key), {})[track.labels.get("gpu", "")] = time_s
    unknown = set()
    for (node, key), numbers in held.items():
        if node not in gpus or len(numbers) != len(gpus[node]):
            unknown.add(key)
            continue
        told_s = np.unique(np.concatenate([*numbers.values()]))
        for address in gpus[node]:
            scrape_s, held_s = found[address]
            after = np.searchsorted(told_s, scrape_s)
            padded = np.concatenate([[-np.inf], told_s, [np.inf]])
            distance_s = np.minimum(scrape_s - padded[after], padded[after + 1] - scrape_s)
            near_s = _NEAR * float(np.median(np.diff(scrape_s))) if len(scrape_s) > 1 else 15.0
            held_s[key] = scrape_s[distance_s <= near_s]
    if not unknown:
        return []
    return [f"slurm-job-exporter does not tell which GPUs of their nodes {len(unknown)} jobs hold; ask Slurm as well"]


class _Scrapes(NamedTuple):
    """New scrapes of one GPU, as one job sees them.

    Attributes:
        before_s: The scrape before these, Unix seconds; -inf if there was none.
        time_s: When they were made, Unix seconds.
        seen: Whether the job's label was there.
        nobody: Whether no job's label was there.
    """

    before_s: float
    time_s: FloatArray
    seen: BoolArray
    nobody: BoolArray

    def went_on(self, last_s: float, until: int) -> bool:
        """Return True if a label that was last there at ``last_s`` was missing at one scrape at most.

        Args:
            last_s: The last scrape with the label, Unix seconds.
            until: Number of the scrape up to which it was missing.
        """
        after = int(np.searchsorted(self.time_s, last_s, side="right"))
        missed = until - after + (last_s < self.before_s)
        return missed <= 1 and bool(self.nobody[after:until].all())

    def after(self, last_s: float) -> float:
        """Return the first scrape after a moment, Unix seconds."""
        return min(float(at) for at in (self.before_s, *self.time_s) if at > last_s)


@dataclass(slots=True)
class _Held:
    """A job that holds a GPU.

    Attributes:
        holding: Since when, and under which key.
        last_s: Last scrape at which its label was there, Unix seconds.
    """

    holding: Holding
    last_s: float


class LabelOwners:
    """Puts together, look after look, which job holds which GPU since when."""

    def __init__(self) -> None:
        self._scraped_s: dict[GpuAddress, float] = {}
        #: By GPU, and by the key that labels give.
        self._held: dict[GpuAddress, dict[str, _Held]] = {}
        self._ended: dict[tuple[str, GpuAddress], list[Holding]] = {}
        #: Later starts of jobs whose names have come again: key and start by the key that labels give.
        self._again: dict[str, list[tuple[str, float]]] = {}
        self._facts: dict[str, JobFacts] = {}
        self._told, self._known_until_s = False, -np.inf

    def update(
        self, found: Mapping[GpuAddress, Presence], facts: Mapping[str, JobFacts], interval_s: float
    ) -> OwnersLook | None:
        """Take in what labels tell since the last time.

        Args:
            found: Who held each GPU when; moments that were told before are passed over.
            facts: What is known of the jobs by key.
            interval_s: Usual time between two scrapes, seconds.

        Returns:
            Who holds GPUs, and who held some until `TOLD_S` ago or in the time that was taken in. None as long as no
            label has named a job, and if nothing was scraped.
        """
        self._told |= any(presence.held_s for presence in found.values())
        if not self._told:
            return None
        self._facts.update(facts)
        certain_s = [
            certain for gpu, presence in found.items() if (certain := self._take(gpu, presence, interval_s)) is not None
        ]
        if not certain_s:
            return None
        # an exporter that is down tells no more, and must not hold up all others
        alive_s = max(certain_s) - 5 * interval_s
        self._known_until_s = max(self._known_until_s, min(at for at in certain_s if at > alive_s))
        begins_s = min(float(each.scrape_s[0]) for each in found.values() if len(each.scrape_s))
        return self._look(self._known_until_s, begins_s)

    def _take(self, gpu: GpuAddress, presence: Presence, interval_s: float) -> float | None:
        """Take in new scrapes of one GPU; return up to which moment it is certain who holds it."""
        before_s = self._scraped_s.get(gpu, -np.inf)
        scrape_s = presence.scrape_s[presence.scrape_s > before_s]
        held = self._held.setdefault(gpu, {})
        if len(scrape_s):
            never = np.zeros(len(scrape_s), bool)
            seen = {
                key: ~never if times is presence.scrape_s else np.isin(scrape_s, times)
                for key, times in presence.held_s.items()
            }
            nobody = ~np.any([never, *seen.values()], axis=0)
            for key in sorted(held.keys() | seen.keys()):
                self._follow(gpu, key, _Scrapes(before_s, scrape_s, seen.get(key, never), nobody), interval_s)
            self._scraped_s[gpu] = float(scrape_s[-1])
        if gpu not in self._scraped_s:
            return None
        return min([self._scraped_s[gpu], *(each.last_s for each in held.values())])

    def _follow(self, gpu: GpuAddress, key: str, new: _Scrapes, interval_s: float) -> None:
        """Follow one job on one GPU: where its label comes and goes."""
        held = self._held[gpu]
        at = np.flatnonzero(new.seen)
        for run in np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if len(at) else []:
            first, last = int(run[0]), int(run[-1])
            if key in held and not new.went_on(held[key].last_s, first):
                self._end(gpu, key, new)
            if key not in held:
                held[key] = self._begun(gpu, key, new, first, interval_s)
            held[key].last_s = float(new.time_s[last])
        if key in held and not new.went_on(held[key].last_s, len(new.time_s)):
            self._end(gpu, key, new)

    def _begun(self, gpu: GpuAddress, key: str, new: _Scrapes, first: int, interval_s: float) -> _Held:
        first_s = float(new.time_s[first])
        previous_s = float(new.time_s[first - 1]) if first else new.before_s
        if np.isfinite(previous_s):
            start_s, slack_s = (previous_s + first_s) / 2, (first_s - previous_s) / 2
        else:
            start_s, slack_s = first_s, interval_s / 2
        name = key
        if (key, gpu) in self._ended:
            again = self._again.setdefault(key, [])
            near = [each for each, at_s in again if abs(at_s - start_s) <= 2 * interval_s]
            name = near[0] if near else f"{key}@{int(start_s)}"
            if not near:
                again.append((name, start_s))
        return _Held(Holding(name, gpu, start_s, None, slack_s, interval_s / 2), first_s)

    def _end(self, gpu: GpuAddress, key: str, new: _Scrapes) -> None:
        """End a holding in the middle between the last scrape with its label and the next."""
        mine = self._held[gpu].pop(key)
        next_s = new.after(mine.last_s)
        ended = replace(mine.holding, end_s=(mine.last_s + next_s) / 2, end_slack_s=(next_s - mine.last_s) / 2)
        self._ended.setdefault((key, gpu), []).append(ended)

    def _look(self, time_s: float, begins_s: float) -> OwnersLook:
        """Return who holds GPUs, and who held some in a time that begins at a moment; forget what is long past."""
        told_s = min(begins_s, time_s - TOLD_S)
        for place, past in [*self._ended.items()]:
            if (past[-1].end_s or 0.0) < min(told_s, time_s - _KNOWN_S):
                del self._ended[place]
        by_key: dict[str, list[Holding]] = {}
        for held in self._held.values():
            for key, each in held.items():
                by_key.setdefault(key, []).append(each.holding)
        for (key, _), past in self._ended.items():
            by_key.setdefault(key, []).extend(each for each in past if (each.end_s or 0.0) > told_s)
        self._again = {key: each for key, each in self._again.items() if key in by_key}
        self._facts = {key: each for key, each in self._facts.items() if key in by_key}
        holdings = [each for mine in by_key.values() for each in mine]
        jobs: dict[str, WatchedJob] = {}
        for key, mine in by_key.items():
            facts = self._facts.get(key) or JobFacts("", key)
            for holding in mine:
                jobs[holding.job] = _joined(jobs.get(holding.job), holding, facts)
        return OwnersLook(time_s, jobs, holdings, since_s=begins_s)


def _joined(job: WatchedJob | None, held: Holding, facts: JobFacts) -> WatchedJob:
    """Return a job that also holds this GPU."""
    if job is None:
        return WatchedJob(
            held.job, facts.id, held.start_s, held.end_s, name=facts.name, user=facts.user, account=facts.account
        )
    end_s = None if job.end_s is None or held.end_s is None else max(job.end_s, held.end_s)
    return replace(job, start_s=min(job.start_s, held.start_s), end_s=end_s)
