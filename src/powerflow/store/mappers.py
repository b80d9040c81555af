"""Rows of the store's tables to plain data and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import RowMapping

from powerflow.api.governance import AuditRecord
from powerflow.api.job_spec import JobSpec
from powerflow.api.records import DecisionRecord, EventRecord, JobState, NotFound
from powerflow.cost.observation import Observation
from powerflow.store.models import Charge, Intent, JobUpdate, Seen, StoredJob

_JOB = tuple(field.name for field in dataclasses.fields(StoredJob))
#: Only what was measured at the type's own power limit is learnt from, so the limit is not stored.
_OBSERVATION = tuple(field.name for field in dataclasses.fields(Observation) if field.name != "power_limit_w")
#: Stands for a spec that cannot be read.
UNREADABLE = JobSpec(run="false  # the record of this job cannot be read")
#: What a `JobUpdate` may change.
CHANGES = tuple(field.name for field in dataclasses.fields(JobUpdate) if field.name != "job_id")


def number(job_id: str) -> int:
    """Number of a job.

    Raises:
        NotFound: No job has such an id.
    """
    if not (job_id.isascii() and job_id.isdigit() and len(job_id) <= 9 and job_id[0] != "0"):
        raise NotFound(f"no job {job_id!r}")
    return int(job_id)


def to_json(value: Any) -> str:
    """JSON in ASCII, so that no database refuses a character of it.

    Raises:
        ValueError: JSON has no word for it (an infinite number).
        TypeError: The same, for a whole type.
    """
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def plain(text: str) -> str:
    """Text as every database takes it: without NUL and halves of surrogate pairs, which logs can hold."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def job_of(row: RowMapping) -> StoredJob:
    """A row of ``jobs``."""
    values = {name: row[name] for name in _JOB}
    values["id"] = str(row["id"])
    values["spec"] = _spec(row["spec"])
    values["state"] = JobState(row["state"])
    values["last_lines"] = () if row["last_lines"] == "[]" else tuple(json.loads(row["last_lines"]))
    return StoredJob(**values)


@lru_cache(maxsize=4096)
def _spec(text: str) -> JobSpec:
    """A spec as it stands in the store; reading one takes longer than all the rest of a row, and nobody changes one.

    One that this version cannot read is `UNREADABLE`: its job must not keep others from being shown, or run.
    """
    try:
        return JobSpec.model_validate_json(text, context={"stored": True})
    except ValueError:
        return UNREADABLE


def new_job(spec: JobSpec, user: str, now_s: float) -> dict[str, Any]:
    """The row of a job that is submitted now."""
    return {
        "spec": to_json(spec.model_dump(mode="json", by_alias=True)),
        "user": user,
        "project": spec.project,
        "state": JobState.QUEUED.value,
        "state_since_s": now_s,
        "submitted_s": now_s,
        "steps": 0.0,
        "steps_total": spec.work.iterations if spec.work else None,
        "energy_j": 0.0,
        "gpu_s": 0.0,
        "rescales": 0,
        "attempts": 0,
        "reason": "",
        "exit": "",
        "last_lines": "[]",
        "cost_class": "",
    }


def changes(row: JobUpdate) -> dict[str, Any]:
    """Parameters of an update: ``number`` and one ``new_…`` for each of `CHANGES`."""
    values = {f"new_{name}": getattr(row, name) for name in CHANGES}
    if row.reason is not None:
        values["new_reason"] = plain(row.reason)
    return {"number": number(row.job_id), **values}


def owed(charge: Charge) -> dict[str, Any]:
    """Parameters of what a charge adds to its job."""
    assert charge.job_id is not None
    return {"number": number(charge.job_id), "more_energy_j": charge.energy_j, "more_gpu_s": charge.gpu_s}


def intent_of(row: RowMapping) -> Intent:
    """A row of ``gangs``."""
    return Intent(
        job_id=str(row["job_id"]),
        epoch=row["epoch"],
        gpu_type=row["gpu_type"],
        placement=tuple((node, tuple(gpus)) for node, gpus in json.loads(row["placement"])),
        clock_mhz=row["clock_mhz"],
        reason=row["reason"],
    )


def gang_row(intent: Intent, now_s: float) -> dict[str, Any]:
    """The row of an intent."""
    return {
        "job_id": number(intent.job_id),
        "epoch": intent.epoch,
        "gpu_type": intent.gpu_type,
        "placement": to_json(intent.placement),
        "clock_mhz": intent.clock_mhz,
        "reason": plain(intent.reason),
        "intended_s": now_s,
    }


def seen_of(row: RowMapping) -> Seen:
    """A row of ``observations``."""
    observation = Observation(**{name: row[name] for name in _OBSERVATION})
    return Seen(row["cost_class"], observation, str(row["job_id"]), row["time_s"], row["steps"])


def seen_row(seen: Seen) -> dict[str, Any]:
    """The row of an observation."""
    return {
        "cost_class": seen.cost_class,
        "job_id": number(seen.job_id),
        "time_s": seen.time_s,
        "steps": seen.steps,
        **{name: getattr(seen.observation, name) for name in _OBSERVATION},
    }


def merged(rows: Iterable[Seen]) -> list[Seen]:
    """One row for each configuration that a class was seen in, in order of its latest.

    Step time and power become means weighted by steps; job and time are those of the latest.
    """
    kept: dict[tuple[Any, ...], list[Seen]] = {}
    for row in rows:
        seen = row.observation
        where = (seen.model, seen.gpu_type, seen.gpus, seen.nodes)
        how = (seen.local_batch, seen.accumulation, seen.clock_mhz)
        key = (row.cost_class, *where, *how)
        kept[key] = [*kept.pop(key, []), row]
    return [_mean(like) for like in kept.values()]


def _mean(rows: list[Seen]) -> Seen:
    last = rows[-1]
    if len(rows) == 1:
        return last
    steps = sum(row.steps for row in rows)
    powers = [(row.observation.power_w, row.steps) for row in rows if row.observation.power_w is not None]
    observation = dataclasses.replace(
        last.observation,
        step_time_s=_weighted([(row.observation.step_time_s, row.steps) for row in rows]),
        power_w=_weighted(powers) if powers else None,
    )
    return dataclasses.replace(last, observation=observation, steps=steps)


def _weighted(values: list[tuple[float, float]]) -> float:
    weight = sum(steps for _, steps in values)
    if weight <= 0:
        return sum(value for value, _ in values) / len(values)
    return sum(value * steps for value, steps in values) / weight


def event_of(row: RowMapping) -> EventRecord:
    """A row of ``events``."""
    job_id = None if row["job_id"] is None else str(row["job_id"])
    return EventRecord(row["number"], row["time_s"], row["kind"], job_id, row["text"], json.loads(row["fields"]))


def event_row(kind: str, text: str, now_s: float, job_id: str | None, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The row of an event."""
    job = None if job_id is None else number(job_id)
    return {"time_s": now_s, "kind": kind, "job_id": job, "text": plain(text), "fields": to_json(dict(fields))}


def decision_of(row: RowMapping) -> DecisionRecord:
    """A row of ``decisions``."""
    return DecisionRecord(**{**row, "job_id": str(row["job_id"])})


def decision_row(what: DecisionRecord) -> dict[str, Any]:
    """The row of a decision, without its number."""
    row = {**dataclasses.asdict(what), "job_id": number(what.job_id), "reason": plain(what.reason)}
    del row["number"]
    return row


def audit_of(row: RowMapping) -> AuditRecord:
    """A row of ``audit``."""
    return AuditRecord(**{**row, "fields": json.loads(row["fields"])})


def audit_row(what: AuditRecord) -> dict[str, Any]:
    """The row of an entry of the audit, without its number."""
    text = {name: plain(getattr(what, name)) for name in ("user", "address", "action", "target")}
    return {"time_s": what.time_s, **text, "fields": to_json(dict(what.fields))}
