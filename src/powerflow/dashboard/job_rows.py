"""Make the lines of the tables of running jobs and of the queue."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from powerflow import units
from powerflow.api.records import JobRecord, JobState
from powerflow.dashboard.cluster_map import colour_of
from powerflow.dashboard.shown import MARK, away, machine_time, megahertz

#: Most lines of a table.
MOST_ROWS = 200


@dataclass(frozen=True, slots=True)
class JobLine:
    """One job, as the tables of the dashboard show it.

    Attributes:
        colour: Number of the job's colour in the map; 0 if it has no GPUs.
        state: queued, running, held or completing; ``state_said`` in words.
        batch: Samples of one pass of each rank, and passes of a step if there are several: 32 × 2.
        progress: Share of its work that is done, 0 to 1; None if this is not known.
        when: For a running job when it ends, for others when it was submitted; ``when_at`` for machines.
        why: Why it has what it has, or why it waits.
    """

    id: str
    name: str
    owner: str
    state: str
    state_said: str
    colour: int
    gpus: str
    clock: str
    batch: str
    power: str
    energy: str
    progress: float | None
    progress_said: str
    step: str
    when: str
    when_at: str
    why: str


def state_of(job: JobRecord) -> str:
    """Return the state of a job as it is shown: while its processes are ending, it is completing."""
    return "completing" if job.completing else job.state.value


def running_rows(jobs: Sequence[JobRecord], now_s: float, words: Mapping[str, str]) -> list[JobLine]:
    """Return lines for the jobs that have processes, at most `MOST_ROWS`."""
    return _rows([job for job in jobs if _has_processes(job)][:MOST_ROWS], now_s, words)


def waiting_rows(jobs: Sequence[JobRecord], now_s: float, words: Mapping[str, str]) -> list[JobLine]:
    """Return lines for the jobs that are queued or held and have no processes, at most `MOST_ROWS`."""
    return _rows([job for job in jobs if not _has_processes(job)][:MOST_ROWS], now_s, words)


def _has_processes(job: JobRecord) -> bool:
    return job.state is JobState.RUNNING or job.completing


def _rows(jobs: Sequence[JobRecord], now_s: float, words: Mapping[str, str]) -> list[JobLine]:
    """Return a line for each job. A column has one unit, so that its numbers can be compared."""
    powers = units.power_column([job.power_w for job in jobs])
    energies = units.energy_column([job.energy_j for job in jobs])
    steps = units.duration_column([job.step_time_s for job in jobs])
    return [
        _row(job, power, energy, step, now_s, words)
        for job, power, energy, step in zip(jobs, powers, energies, steps, strict=True)
    ]


def _row(job: JobRecord, power: str, energy: str, step: str, now_s: float, words: Mapping[str, str]) -> JobLine:
    state = state_of(job)
    at_s = job.eta_s if _has_processes(job) else job.submitted_s
    known = job.progress is not None and math.isfinite(job.progress)
    progress = math.floor(job.progress * 100) / 100 if job.progress is not None and known else None
    mark = MARK if job.emulated else ""
    return JobLine(
        id=job.id,
        name=job.name,
        owner=owner_of(job),
        state=state,
        state_said=words[f"state_{state}"],
        colour=colour_of(job.id) if job.gpus else 0,
        gpus=gpus_of(job, words),
        clock=megahertz(job.clock_read_mhz or job.clock_mhz),
        batch=batch_of(job),
        power=power + (mark if job.power_w is not None else ""),
        energy=energy + mark,
        progress=progress,
        progress_said=units.NOTHING if progress is None else units.percent(progress),
        step=step,
        when=units.NOTHING if at_s is None else away(at_s - now_s, words),
        when_at=machine_time(at_s),
        why=job.exit or job.reason,
    )


def batch_of(job: JobRecord) -> str:
    """Return the local batch of a job, and its passes of a step if there are several; a dash if this is not known."""
    if job.local_batch is None:
        return units.NOTHING
    several = job.accumulation is not None and job.accumulation > 1
    return f"{job.local_batch} × {job.accumulation}" if several else str(job.local_batch)


def owner_of(job: JobRecord) -> str:
    """Return the user and, if there is one, the project of a job."""
    return f"{job.user} · {job.project}" if job.project else job.user


def gpus_of(job: JobRecord, words: Mapping[str, str]) -> str:
    """Return the GPUs that a job has, of those that it asked for; without GPUs, those that it asked for."""
    if not job.gpus:
        return job.gpus_asked
    asked = job.gpus_asked.rpartition(":")[2]
    return asked if asked == str(job.gpus) else words["gpus_of"].format(gpus=job.gpus, asked=asked)
