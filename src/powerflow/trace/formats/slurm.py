"""What a Slurm job record says, however it is written (``sacct -P`` and ``sacct --json`` share this)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from powerflow.trace.fields import Unusable, checked_s, clip, gpu_count, ran_s
from powerflow.trace.formats.format import Entry
from powerflow.trace.record import Outcome, Skipped, TraceJob

# Slurm's job states (sacct(1), JOB STATE CODES). A job that met its time limit is failed, as Helios has it.
_OUTCOMES = {
    "COMPLETED": Outcome.COMPLETED,
    "CANCELLED": Outcome.CANCELLED,
    "REVOKED": Outcome.CANCELLED,
    "PREEMPTED": Outcome.CANCELLED,
    "REQUEUED": Outcome.UNKNOWN,
    "FAILED": Outcome.FAILED,
    "TIMEOUT": Outcome.FAILED,
    "NODE_FAIL": Outcome.FAILED,
    "OUT_OF_MEMORY": Outcome.FAILED,
    "BOOT_FAIL": Outcome.FAILED,
    "DEADLINE": Outcome.FAILED,
}
_NOT_ENDED = {"RUNNING", "PENDING", "SUSPENDED", "RESIZING", "CONFIGURING", "COMPLETING", "STAGE_OUT", "STOPPED"}

_DURATION = re.compile(r"(?:(\d{1,9})-)?(?:(\d{1,9}):)?(\d{1,9}):(\d{1,2}(?:\.\d+)?)")
_COUNT = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)([KMGTP]?)")
_SUFFIX = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4, "P": 1024**5}


@dataclass(frozen=True, slots=True)
class Run:
    """One record: one run of a job. None and "" stand for what it does not say.

    Attributes:
        line: Where it stands.
        id: The job's name, with its array index.
        submit_s: Submission, UTC epoch.
        start_s: Start, UTC epoch.
        end_s: End, UTC epoch.
        elapsed_s: Seconds it ran, without suspensions.
        state: Slurm's word, without what follows it ("CANCELLED by 1001").
        gpus: GPUs allocated, else asked for.
        user: User.
        account: Account.
        name: Job name.
    """

    line: int
    id: str
    submit_s: float
    start_s: float | None
    end_s: float | None
    elapsed_s: float | None
    state: str
    gpus: float
    user: str
    account: str
    name: str


def jobs_of(runs: Iterable[Run | Skipped]) -> Iterator[Entry]:
    """One job for each job name: its last run, submitted and first started when its first run was.

    Slurm writes a record for each run of a requeued job (``sacct --duplicates``), and logs are often pasted together,
    so a name may come again. Memory is that of the jobs.
    """
    jobs: dict[str, tuple[int, TraceJob]] = {}
    first_submit_s: dict[str, float] = {}
    first_start_s: dict[str, float] = {}
    for run in runs:
        if isinstance(run, Skipped):
            yield run
            continue
        first_submit_s[run.id] = min(run.submit_s, first_submit_s.get(run.id, run.submit_s))
        if run.start_s is not None:
            first_start_s[run.id] = min(run.start_s, first_start_s.get(run.id, run.start_s))
        try:
            job = _job(run)
        except Unusable as reason:
            yield Skipped(run.line, str(reason))
            continue
        if run.id in jobs:
            yield Skipped(jobs[run.id][0], f"an earlier run of a job that comes again (line {run.line})")
        jobs[run.id] = (run.line, job)
    for name, (_, job) in jobs.items():
        submit_s, start_s = first_submit_s[name], first_start_s.get(name)
        wait_s = start_s - submit_s if start_s is not None and start_s >= submit_s else None
        yield replace(job, submit_s=submit_s, wait_s=wait_s)


def _job(run: Run) -> TraceJob:
    if run.state in _NOT_ENDED:
        raise Unusable(f"not ended ({run.state})")
    if run.state == "REQUEUED":
        raise Unusable("requeued; its last run counts")
    if run.elapsed_s is None and run.start_s is not None and run.end_s is not None:
        if run.end_s < run.start_s:
            raise Unusable(f"ends {run.start_s - run.end_s:g} s before it starts")
        elapsed_s = run.end_s - run.start_s
    elif run.elapsed_s is not None:
        elapsed_s = run.elapsed_s
    else:
        raise Unusable("no elapsed time, and its start or end is unknown")
    return TraceJob(
        id=run.id,
        submit_s=run.submit_s,
        duration_s=ran_s(elapsed_s, "elapsed time"),
        gpus=gpu_count(run.gpus),
        project=run.account or run.user,
        name=run.name,
        outcome=_OUTCOMES.get(run.state, Outcome.UNKNOWN),
    )


def tres_gpus(tres: Mapping[str, float]) -> float:
    """GPUs of trackable resources: ``gres/gpu``, which counts all, or else the sum of ``gres/gpu:type``."""
    if "gres/gpu" in tres:
        return tres["gres/gpu"]
    return sum(count for name, count in tres.items() if name.startswith("gres/gpu:"))


def parse_tres(value: str) -> dict[str, float]:
    """``billing=8,cpu=64,gres/gpu:a100=8,mem=4G`` by name; counts may have the suffixes K, M, G, T, P (powers of 1024).

    Raises:
        Unusable: a GPU count is no number.
    """
    found: dict[str, float] = {}
    for part in value.split(","):
        name, _, count = part.strip().partition("=")
        if name.startswith("gres/gpu") and not name.startswith("gres/gpumem") and not name.startswith("gres/gpuutil"):
            found[name] = parse_count(count)
    return found


def parse_gres(value: str, nodes: float) -> float:
    """GPUs of the older ``AllocGRES`` and ``ReqGRES`` (``gpu:2``, ``gres:gpu:a100:8(IDX:0-7)``), counted per node."""
    total = 0.0
    for part in re.sub(r"\([^)]*\)", "", value).split(","):
        words = part.strip().removeprefix("gres:").removeprefix("gres/").split(":")
        if words[0] == "gpu":
            total += parse_count(words[-1]) if len(words) > 1 else 1.0
    return total * nodes


def parse_count(value: str) -> float:
    """A count that may end in K, M, G, T or P."""
    found = _COUNT.fullmatch(value.strip())
    if found is None:
        raise Unusable(f"GPU count is not a number ({clip(value)})")
    return float(found.group(1)) * _SUFFIX[found.group(2)]


def parse_elapsed_s(value: str) -> float:
    """``[days-][hours:]minutes:seconds`` in seconds.

    Raises:
        Unusable: it is nothing of the kind.
    """
    found = _DURATION.fullmatch(value.strip())
    if found is None:
        raise Unusable(f"elapsed time is not [days-]hours:minutes:seconds ({clip(value)})")
    days, hours, minutes, seconds = found.groups()
    return checked_s(
        int(days or 0) * 86_400 + int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds), "elapsed time"
    )
