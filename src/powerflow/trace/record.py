"""Define the job records that the readers of all log formats return."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from powerflow.cost.batch_range import BatchRange


class JobOutcome(StrEnum):
    """Ways in which a job of a log can end."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class TraceJob:
    """A job as recorded in a log.

    Attributes:
        id: Identifier of the job in the log.
        submit_s: Time of submission in seconds: since 1970 (UTC) if the log has dates, otherwise from the log's own
            origin.
        duration_s: Seconds that the job ran on ``gpus`` GPUs; nan if unknown.
        gpus: Number of GPUs that the job requested and held.
        wait_s: Seconds that the job waited in the queue; None if not logged.
        model: Model family (a name of the catalogue, or another name); None if not logged.
        global_batch: Samples per iteration over all GPUs; None if not logged.
        iterations: Number of iterations that the job completed; None if not logged.
        project: User, account or virtual cluster.
        name: Name that the user gave the job, if logged. Jobs with the same name are similar.
        outcome: How the job ended.
        earlier_gpu_s: GPU-seconds of the job's runs before it was requeued, if the log lists runs separately.
        batch_range: Other global batches that the job's owner allows in a simulation, if ``global_batch`` is known;
            None if the batch must not change. The job itself ran at ``global_batch``.
        limit_s: Time limit that the user gave, seconds; None if there was none, or it was not logged.
        user, account, partition, qos: To whom the job belongs, and where it ran, in the words of Slurm; "" if not
            logged.
        raw_id: Number that Slurm itself gives to a task of an array, as in ``SLURM_JOB_ID``; "" if it is the ``id``, or
            was not logged.
        nodes: Its nodes as a host list of Slurm, such as ``n[1-2],gpu7``; "" if not logged.
    """

    id: str
    submit_s: float
    duration_s: float
    gpus: int
    wait_s: float | None = None
    model: str | None = None
    global_batch: int | None = None
    iterations: float | None = None
    project: str = ""
    name: str = ""
    outcome: JobOutcome = JobOutcome.UNKNOWN
    earlier_gpu_s: float = 0.0
    batch_range: BatchRange | None = None
    limit_s: float | None = None
    user: str = ""
    account: str = ""
    partition: str = ""
    qos: str = ""
    nodes: str = ""
    raw_id: str = ""

    @property
    def measured_step_s(self) -> float | None:
        """Seconds per iteration: logged duration ÷ logged iterations; None if one of the two is unknown."""
        if self.iterations is None or not math.isfinite(self.duration_s):
            return None
        return self.duration_s / self.iterations

    @property
    def held_s(self) -> float:
        """Seconds for which the job held its GPUs, in all its runs together."""
        return self.duration_s + self.earlier_gpu_s / self.gpus


@dataclass(frozen=True, slots=True)
class Skipped:
    """A line of a log from which no job was read, with the reason."""

    line: int
    why: str


@dataclass(frozen=True, slots=True)
class Trace:
    """The jobs of a log in order of submission, and the lines that were skipped.

    Attributes:
        source: Source of the jobs: a path, or "synthetic …".
        format: Name of the log format.
        jobs: Jobs, ordered by time of submission. Jobs with the same time keep their order in the file.
        skipped: Lines from which no job was read, with the reasons.
        notes: Assumptions that were made while reading the log (time zone, unit, …), as sentences.
    """

    source: str
    format: str
    jobs: Sequence[TraceJob]
    skipped: Sequence[Skipped] = ()
    notes: Sequence[str] = field(default=())
