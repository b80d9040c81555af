"""Show the tasks of an array that wait for the same as one row, as ``squeue`` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from powerflow.api.records import JobRecord, JobState
from powerflow.cli.columns import ranges


def collapsed(jobs: Sequence[JobRecord]) -> list[JobRecord]:
    """Return jobs with one record for all queued tasks of an array that wait for the same; its id is a range."""
    groups: dict[tuple[object, ...], list[JobRecord]] = {}
    for job in jobs:
        together = job.array_id is not None and job.state is JobState.QUEUED and not job.completing
        groups.setdefault((job.array_id, job.reason) if together else (job.id,), []).append(job)
    return [group[0] if len(group) == 1 else _one(group) for group in groups.values()]


def _one(group: Sequence[JobRecord]) -> JobRecord:
    name = group[0].name.rpartition("[")[0]
    tasks = ranges(job.array_task for job in group if job.array_task is not None)
    return replace(group[0], id=ranges(int(job.id) for job in group), name=f"{name}[{tasks}]")
