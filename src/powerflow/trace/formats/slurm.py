"""Combine the records of a Slurm log into jobs, for the readers of ``sacct -P`` and of ``sacct --json``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from powerflow.trace.fields import Unusable, checked_s, clip, gpu_count, ran_s
from powerflow.trace.formats.format import Entry
from powerflow.trace.formats.slurm_gpus import SlurmGpus, slice_share
from powerflow.trace.record import JobOutcome, Skipped, TraceJob
from powerflow.units import DAY_S, HOUR_S

# Slurm's job states (sacct(1), JOB STATE CODES). A job that reached its time limit counts as failed, as in Helios.
_OUTCOMES = {
    "COMPLETED": JobOutcome.COMPLETED,
    "CANCELLED": JobOutcome.CANCELLED,
    "REVOKED": JobOutcome.CANCELLED,
    "PREEMPTED": JobOutcome.CANCELLED,
    "REQUEUED": JobOutcome.UNKNOWN,
    "FAILED": JobOutcome.FAILED,
    "TIMEOUT": JobOutcome.FAILED,
    "NODE_FAIL": JobOutcome.FAILED,
    "OUT_OF_MEMORY": JobOutcome.FAILED,
    "BOOT_FAIL": JobOutcome.FAILED,
    "DEADLINE": JobOutcome.FAILED,
}
_NOT_ENDED = {"RUNNING", "PENDING", "SUSPENDED", "RESIZING", "CONFIGURING", "COMPLETING", "STAGE_OUT", "STOPPED"}

_DURATION = re.compile(r"(?:(\d{1,9})-)?(?:(\d{1,9}):)?(\d{1,9}):(\d{1,2}(?:\.\d+)?)")

# After these states Slurm requeues a job, with the same number and a new submission time.
_RUNS_AGAIN = {"REQUEUED", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "SPECIAL_EXIT", "RESIZING"}
_REQUEUE_HELD_S = 30 * DAY_S  # longest time that a requeued job may be held
_ENDED_HELD_S = HOUR_S  # the controller forgets an ended job after MinJobAge (default 300 s), and frees its number
_SAME_MOMENT_S = 60.0  # times are rounded, and the next run may be recorded before the last one ends
NO_GPU_ACCOUNTING = "AccountingStorageTRES=gres/gpu in slurm.conf"


@dataclass(frozen=True, slots=True)
class SlurmRun:
    """One run of a job: a record of Slurm. None and "" stand for missing values.

    Attributes:
        line: Line number of the record.
        id: Number of the job, with its array index.
        submit_s: Time of submission, seconds since 1970 (UTC).
        start_s: Time of the start, seconds since 1970 (UTC).
        end_s: Time of the end, seconds since 1970 (UTC).
        elapsed_s: Seconds that the job ran, without suspensions.
        state: Slurm's state as one word ("CANCELLED", not "CANCELLED by 1001").
        gpus: Allocated GPUs, or else requested GPUs.
        user: Name of the user.
        account: Name of the account.
        name: Name of the job.
        partition: Partition in which it ran; several names with commas if it never started.
        qos: Quality of service.
        raw_id: Number of the job without array index; "" if it is the ``id``, or is not told.
        nodes: List of its nodes, as Slurm writes it; "" if it had none.
        cluster: Name of the cluster. Each cluster numbers its own jobs.
        asked: Option of the submit line that requests GPUs; "" if there is none.
        limit_s: Time limit, seconds; None if there is none, or it is not logged.
    """

    line: int
    id: str
    submit_s: float
    start_s: float | None
    end_s: float | None
    elapsed_s: float | None
    state: str
    gpus: SlurmGpus
    user: str
    account: str
    name: str
    cluster: str = ""
    asked: str = ""
    limit_s: float | None = None
    partition: str = ""
    qos: str = ""
    nodes: str = ""
    raw_id: str = ""


@dataclass(frozen=True, slots=True)
class _Record:
    """A run of a job with its running time and number of whole GPUs; both are 0 if no job can be made from it."""

    run: SlurmRun
    ran_s: float = 0.0
    gpus: int = 0


def jobs_of(runs: Iterable[SlurmRun | Skipped]) -> Iterator[Entry]:
    """Combine the records of a Slurm log into jobs.

    Several records can have the same job number, for four reasons. Slurm writes one record for each run of a requeued
    job (``sacct --duplicates``). Each cluster numbers its own jobs. A new database begins again with number 1. Users
    join logs. A job is made from its last run, and has the GPU time of its earlier runs. Only runs with GPUs are kept
    in memory.

    Yields:
        One job for each combination of cluster, job number and first submission; skipped lines; notes for the user.
    """
    numbers: dict[tuple[str, str], list[_Record]] = {}
    left_out = _LeftOut()
    for run in runs:
        if isinstance(run, Skipped):
            yield run
            continue
        record = _Record(run)
        try:
            record = _usable(run)
        except Unusable as reason:
            left_out.count(run)
            yield Skipped(run.line, str(reason))
        if record.gpus or run.gpus.whole or run.state in _RUNS_AGAIN:
            numbers.setdefault((run.cluster, run.id), []).append(record)
    clusters = sorted({cluster for cluster, _ in numbers if cluster})
    said: Counter[str] = Counter()
    for (cluster, _), records in numbers.items():
        for job in _told_apart(records, said):
            yield from _job(job, cluster if len(clusters) > 1 else "", said)
    if len(clusters) > 1:
        yield f"{len(clusters)} clusters, each with its own job numbers: {', '.join(map(clip, clusters[:8]))}"
    yield from _counted(said)
    yield from left_out.notes(any_job=bool(numbers))


class _LeftOut:
    """Counts skipped runs that used or requested GPUs, and CPU jobs, for notes to the user."""

    def __init__(self) -> None:
        self._asked = self._cpu_jobs = 0
        self._slice_jobs = self._sharing_jobs = 0
        self._slice_gpu_s = 0.0

    def count(self, run: SlurmRun) -> None:
        """Count a run that was skipped."""
        if _not_ended(run):
            return
        self._cpu_jobs += not run.gpus
        self._asked += bool(run.asked) and not run.gpus
        self._sharing_jobs += bool(run.gpus.shares)
        if run.gpus.slices:
            self._slice_jobs += 1
            shares = [count * (slice_share(profile) or 0.0) for profile, count in run.gpus.slices.items()]
            self._slice_gpu_s += sum(shares) * (run.elapsed_s or 0.0)

    def notes(self, *, any_job: bool) -> Iterator[str]:
        """Yield sentences about the skipped runs, for the user. ``any_job`` is True if the log has a usable job."""
        if self._asked or (self._cpu_jobs and not any_job and not self._slice_jobs and not self._sharing_jobs):
            yield (
                f"{self._asked or self._cpu_jobs} jobs have no GPU in their records"
                f"{', though they requested some' * bool(self._asked)}: if they held GPUs, this site does not account "
                f"for them; {NO_GPU_ACCOUNTING} corrects this for future jobs"
            )
        if self._slice_jobs:
            hours = self._slice_gpu_s / HOUR_S
            yield (
                f"{self._slice_jobs} jobs on MIG slices are left out: {hours:,.1f} GPU-hours, where a slice counts "
                "by its share of a GPU's compute slices"
            )
        if self._sharing_jobs:
            yield f"{self._sharing_jobs} jobs that share a GPU (shard, mps) are left out: their share is not logged"


def _usable(run: SlurmRun) -> _Record:
    if _not_ended(run):
        raise Unusable(f"not ended ({run.state})")
    if not run.gpus and run.asked:
        raise Unusable(f"requested GPUs but none are recorded: the site lacks {NO_GPU_ACCOUNTING} ({run.asked})")
    if run.gpus.slices:
        held = [f"{count:g} × {profile}" for profile, count in run.gpus.slices.items()]
        held += [f"{run.gpus.whole:g} whole"] * bool(run.gpus.whole)
        raise Unusable(f"holds MIG slices, not whole GPUs ({', '.join(held)})")
    if run.gpus.shares and not run.gpus.whole:
        raise Unusable(f"shares a GPU through {'shard' if 'shard' in run.gpus.shares else 'mps'} ({run.gpus.shares})")
    return _Record(run, ran_s(_elapsed_s(run), "elapsed time"), gpu_count(run.gpus.whole))


def outcome_of(state: str) -> JobOutcome:
    """Return how a job ended, from its Slurm state."""
    return _OUTCOMES.get(state, JobOutcome.UNKNOWN)


def node_list(words: str) -> str:
    """Return the list of nodes of a record; "" for a job that had none, which Slurm says in words."""
    return "" if words.startswith("None") else words


def _not_ended(run: SlurmRun) -> bool:
    return run.state in _NOT_ENDED and not (run.state == "RESIZING" and run.end_s is not None)


def _elapsed_s(run: SlurmRun) -> float:
    if run.elapsed_s is not None:
        return run.elapsed_s
    if run.start_s is None or run.end_s is None:
        raise Unusable("no elapsed time, and its start or end is unknown")
    if run.end_s < run.start_s:
        raise Unusable(f"ends {run.start_s - run.end_s:g} s before it starts")
    return run.end_s - run.start_s


def _told_apart(records: Sequence[_Record], said: Counter[str]) -> Iterator[list[_Record]]:
    """Group the records with one job number into jobs. Each job has its runs in order of time."""
    job: list[_Record] = []
    for record in sorted(records, key=lambda one: (one.run.submit_s, one.run.start_s or one.run.submit_s)):
        if job and not _same_job(job[-1].run, record.run, said):
            yield job
            job = []
        job.append(record)
    yield job


def _same_job(before: SlurmRun, run: SlurmRun, said: Counter[str]) -> bool:
    """Return True if ``run`` belongs to the same job as ``before``, the record before it with the same job number.

    It is then a later run of the job, or another copy of the same run. All runs of a job have the same user. After a
    state that requeues a job, the job may run again. After any other end it may run again only while Slurm's controller
    remembers it. If two runs overlap in time, they are two jobs (of clusters that are not named).
    """
    if before.user and run.user and before.user != run.user:
        return False
    if _is_copy(before, run):
        return True
    ended_s = _ended_s(before)
    if run.start_s is not None and ended_s is not None and run.start_s < ended_s - _SAME_MOMENT_S:
        said["overlap"] += 1
        return False
    if run.submit_s == before.submit_s:
        return True
    since_s = run.submit_s - max(before.submit_s, ended_s or 0.0)
    if before.state in _RUNS_AGAIN:
        return since_s <= _REQUEUE_HELD_S
    renamed = any(a and b and a != b for a, b in ((before.name, run.name), (before.account, run.account)))
    return not renamed and since_s <= _ENDED_HELD_S


def _is_copy(before: SlurmRun, run: SlurmRun) -> bool:
    """Return True if two records describe the same run."""
    return (run.submit_s, run.start_s) == (before.submit_s, before.start_s)


def _ended_s(run: SlurmRun) -> float | None:
    """Return the time at which a run ended, seconds; None if unknown.

    If the elapsed time is known, it is used, because the logged end of a cut or faulty record is wrong.
    """
    if run.start_s is not None and run.elapsed_s is not None:
        return run.start_s + run.elapsed_s
    return run.end_s


def _job(records: Sequence[_Record], cluster: str, said: Counter[str]) -> Iterator[Entry]:
    """Yield the job that these records describe, and a skipped line for each run except the last one."""
    ran = [record for record in records if record.ran_s > 0]
    if not ran:
        return
    earlier_gpu_s, earlier = 0.0, 0
    for position, record in enumerate(ran[:-1]):
        later = ran[position + 1 :]
        if record.run.state == "REQUEUED":
            yield Skipped(record.run.line, "requeued; its last run counts")
        else:
            again = next((one.run.line for one in later if one.run.state != "REQUEUED"), later[-1].run.line)
            yield Skipped(record.run.line, f"an earlier run of a job that runs again (line {again})")
        if not _is_copy(record.run, later[0].run):  # a copy must not count twice
            earlier += 1
            earlier_gpu_s += record.ran_s * record.gpus
    first, last = records[0].run, ran[-1].run
    starts_s = [record.run.start_s for record in records if record.run.start_s is not None]
    wait_s = min(starts_s) - first.submit_s if starts_s and min(starts_s) >= first.submit_s else None
    said["requeued"] += earlier > 0
    said["earlier GPU-seconds"] += round(earlier_gpu_s)
    said["no last run"] += last.state == "REQUEUED"
    said["one node"] += last.gpus.one_node_assumed
    yield TraceJob(
        id=f"{cluster}/{last.id}" if cluster else last.id,
        submit_s=first.submit_s,
        duration_s=ran[-1].ran_s,
        gpus=ran[-1].gpus,
        wait_s=wait_s,
        project=last.account or last.user,
        name=last.name,
        outcome=outcome_of(last.state),
        earlier_gpu_s=earlier_gpu_s,
        limit_s=last.limit_s,
        user=last.user,
        account=last.account,
        partition=last.partition,
        qos=last.qos,
        nodes=last.nodes,
        raw_id=last.raw_id,
    )


def _counted(said: Counter[str]) -> Iterator[str]:
    """Yield sentences about requeued and overlapping jobs, for the user."""
    if said["requeued"]:
        yield (
            f"{said['requeued']} jobs were requeued: their earlier runs held "
            f"{said['earlier GPU-seconds'] / HOUR_S:,.1f} GPU-hours, which count in the GPU-hours and not in the "
            "duration"
        )
    if said["no last run"]:
        yield f"{said['no last run']} requeued jobs have no next run in the log: the last logged run counts"
    if said["overlap"]:
        yield (
            f"{said['overlap']} records overlap in time with another record of the same job number, and count as "
            "separate jobs; if the log is from several clusters, add Cluster to sacct -o"
        )
    if said["one node"]:
        yield f"{said['one node']} jobs have GPUs per node but no NNodes: read as one node; add NNodes to sacct -o"


def parse_elapsed_s(value: str) -> float:
    """Convert a time written as ``[days-][hours:]minutes:seconds`` to seconds.

    Raises:
        Unusable: The text has another form.
    """
    found = _DURATION.fullmatch(value.strip())
    if found is None:
        raise Unusable(f"elapsed time is not [days-]hours:minutes:seconds ({clip(value)})")
    days, hours, minutes, seconds = found.groups()
    return checked_s(
        int(days or 0) * DAY_S + int(hours or 0) * HOUR_S + int(minutes) * 60 + float(seconds), "elapsed time"
    )
