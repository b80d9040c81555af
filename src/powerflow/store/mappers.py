"""Convert rows of database tables to records of `powerflow.store.models` and `powerflow.api`, and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import RowMapping

from powerflow.api.acts import said
from powerflow.api.decisions import DecisionRecord
from powerflow.api.governance import AuditRecord
from powerflow.api.job_spec import JobSpec
from powerflow.api.records import EventRecord, JobState, NotFound
from powerflow.cost.observation import Observation
from powerflow.store.models import Intent, JobUpdate, Seen, StoredJob

_JOB = tuple(field.name for field in dataclasses.fields(StoredJob))
#: The power limit is not stored: costs are learned only from what was measured at the default limit of the type.
_OBSERVATION = tuple(field.name for field in dataclasses.fields(Observation) if field.name != "power_limit_w")
#: States of jobs that have not ended, as the tables have them.
ACTIVE = [state.value for state in JobState if not state.ended]
#: Takes the place of a stored spec that cannot be read.
UNREADABLE = JobSpec(run="false  # the record of this job cannot be read")
#: Columns that a `JobUpdate` may change.
CHANGES = tuple(field.name for field in dataclasses.fields(JobUpdate) if field.name != "job_id")


def number(job_id: str) -> int:
    """Return the number of a job, given its id as text.

    Raises:
        NotFound: The text is not the id of a job.
    """
    if not (job_id.isascii() and job_id.isdigit() and len(job_id) <= 9 and job_id[0] != "0"):
        raise NotFound(f"no job {job_id!r}")
    return int(job_id)


def to_json(value: Any) -> str:
    """Convert a value to JSON in ASCII, whose characters every database accepts.

    Raises:
        ValueError: The value contains a number that JSON cannot express, such as infinity.
        TypeError: The value contains a type that JSON cannot express.
    """
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def plain(text: str) -> str:
    """Replace characters that a database may refuse but logs can contain: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def named(name: str) -> str:
    """Return the part of a stored spec that only jobs of this name have.

    Inside of a text the quotes would be escaped, and variables called name and gpus would have texts as values.
    """
    return f'"name":{to_json(name)},"gpus":{{'


def job_of(row: RowMapping) -> StoredJob:
    """Make a stored job from its row in the table ``jobs``."""
    values = {name: row[name] for name in _JOB}
    values["id"] = str(row["id"])
    values["array_id"] = None if row["array_id"] is None else str(row["array_id"])
    values["spec"] = _spec(row["spec"])
    values["state"] = JobState(row["state"])
    values["last_lines"] = () if row["last_lines"] == "[]" else tuple(json.loads(row["last_lines"]))
    return StoredJob(**values)


@lru_cache(maxsize=4096)
def _spec(text: str) -> JobSpec:
    """Read a stored job spec. Results are cached, because reading is slow and a stored spec never changes.

    A spec that this version of PowerFlow cannot read becomes `UNREADABLE`, so that other jobs can still be shown and
    run.
    """
    try:
        return JobSpec.model_validate_json(text, context={"stored": True})
    except ValueError:
        return UNREADABLE


def spec_text(spec: JobSpec) -> str:
    """Return a job's spec as the table ``jobs`` has it: as JSON, without the variables of its shell."""
    return to_json(spec.model_dump(mode="json", by_alias=True, exclude={"shell_env"}))


def new_job(spec: JobSpec, user: str, now_s: float) -> dict[str, Any]:
    """Return the row in the table ``jobs`` for a job that is submitted now."""
    return {
        "spec": spec_text(spec),
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
        "failures": 0,
        "reason": "",
        "exit": "",
        "last_lines": "[]",
        "cost_class": "",
        "run_s": 0.0,
    }


def changes(row: JobUpdate) -> dict[str, Any]:
    """Return the parameters of a job's SQL update: its ``number``, and ``new_COLUMN`` for each column in `CHANGES`."""
    values = {f"new_{name}": getattr(row, name) for name in CHANGES}
    if row.reason is not None:
        values["new_reason"] = plain(row.reason)
    return {"number": number(row.job_id), **values}


def intent_of(row: RowMapping) -> Intent:
    """Make an intent from its row in the table ``gangs``."""
    return Intent(
        job_id=str(row["job_id"]),
        epoch=row["epoch"],
        gpu_type=row["gpu_type"],
        placement=tuple((node, tuple(gpus)) for node, gpus in json.loads(row["placement"])),
        clock_mhz=row["clock_mhz"],
        reason=row["reason"],
    )


def gang_row(intent: Intent, now_s: float) -> dict[str, Any]:
    """Return the row in the table ``gangs`` for an intent."""
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
    """Make an observation from its row in the table ``observations``."""
    observation = Observation(**{name: row[name] for name in _OBSERVATION})
    return Seen(row["cost_class"], observation, str(row["job_id"]), row["time_s"], row["steps"])


def seen_row(seen: Seen) -> dict[str, Any]:
    """Return the row in the table ``observations`` for an observation."""
    return {
        "cost_class": seen.cost_class,
        "job_id": number(seen.job_id),
        "time_s": seen.time_s,
        "steps": seen.steps,
        **{name: getattr(seen.observation, name) for name in _OBSERVATION},
    }


def event_of(row: RowMapping) -> EventRecord:
    """Make an event from its row in the table ``events``."""
    job_id = None if row["job_id"] is None else str(row["job_id"])
    fields, node, user = json.loads(row["fields"]), row["node"], row["user"]
    return EventRecord(row["number"], row["time_s"], row["kind"], job_id, row["text"], fields, node, user)


def event_row(kind: str, text: str, now_s: float, job_id: str | None, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row in the table ``events`` for an event. Its fields ``node``, and ``user`` or ``by``, are indexed."""
    node, user = fields.get("node"), fields.get("user", fields.get("by"))
    return {
        "time_s": now_s,
        "kind": kind,
        "job_id": None if job_id is None else number(job_id),
        "text": plain(text),
        "fields": to_json(dict(fields)),
        "node": plain(node) if isinstance(node, str) else None,
        "user": plain(user) if isinstance(user, str) else None,
    }


def decision_of(row: RowMapping) -> DecisionRecord:
    """Make a decision from its row in the table ``decisions``."""
    return DecisionRecord(**{**row, "job_id": str(row["job_id"])})


def decision_row(what: DecisionRecord) -> dict[str, Any]:
    """Return the row in the table ``decisions`` for a decision, without the number, which the database gives."""
    row = {**dataclasses.asdict(what), "job_id": number(what.job_id), "reason": plain(what.reason)}
    del row["number"]
    return row


def audit_of(row: RowMapping) -> AuditRecord:
    """Make an audit entry from its row in the table ``audit``."""
    fields = json.loads(row["fields"])
    text = said(row["action"], row["target"], row["user"], fields)
    return AuditRecord(**{**row, "fields": fields, "text": text})


def audit_row(what: AuditRecord) -> dict[str, Any]:
    """Return the row in the table ``audit`` for an audit entry, without the number, which the database gives."""
    text = {name: plain(getattr(what, name)) for name in ("user", "address", "action", "target")}
    return {"time_s": what.time_s, **text, "fields": to_json(dict(what.fields))}
