"""Slurm accounting as JSON: ``sacct --json``. Its times are UTC; its steps are inside their jobs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from powerflow.trace.clock import Clock
from powerflow.trace.fields import Unusable, checked_s
from powerflow.trace.formats.format import Entry, Format
from powerflow.trace.formats.slurm import Run, jobs_of, tres_gpus
from powerflow.trace.json_items import member_items
from powerflow.trace.record import Skipped


def _entries(stream: TextIO, clock: Clock) -> Iterator[Entry]:
    return jobs_of(_runs(stream))


def _runs(stream: TextIO) -> Iterator[Run | Skipped]:
    for line, item in member_items(stream, "jobs"):
        try:
            yield _run(item, line)
        except Unusable as reason:
            yield Skipped(line, str(reason))


def _run(item: object, line: int) -> Run:
    if not isinstance(item, dict):
        raise Unusable("a job is not a JSON object")
    time = _object(item, "time")
    submit_s, start_s, end_s = (_time_s(time, name) for name in ("submission", "start", "end"))
    if submit_s is None:
        raise Unusable("submission is unknown")
    elapsed = _number(time.get("elapsed"))
    tres = _object(item, "tres")
    gpus = tres_gpus(_counts(tres.get("allocated"))) or tres_gpus(_counts(tres.get("requested")))
    return Run(
        line=line,
        id=_id(item),
        submit_s=submit_s,
        start_s=start_s,
        end_s=end_s,
        elapsed_s=None if elapsed is None else checked_s(elapsed, "elapsed"),
        state=_state(item.get("state")),
        gpus=gpus,
        user=_string(item.get("user")) or _string(_object(item, "association").get("user")),
        account=_string(item.get("account")) or _string(_object(item, "association").get("account")),
        name=_string(item.get("name")),
    )


def _id(item: Mapping[str, Any]) -> str:
    """The job's number, or array_index where it is an element of an array, as ``sacct`` writes it."""
    array = _object(item, "array")
    of, index = _number(array.get("job_id")), _number(array.get("task_id"))
    if of and index is not None:
        return f"{of:.0f}_{index:.0f}"
    own = _number(item.get("job_id"))
    if own is None:
        raise Unusable("job_id is not a number")
    return f"{own:.0f}"


def _state(value: object) -> str:
    """``"COMPLETED"``, ``["COMPLETED"]`` or ``{"current": …}``, by the version of Slurm."""
    if isinstance(value, dict):
        value = value.get("current")
    if isinstance(value, list):
        value = value[0] if value else ""
    return _string(value)


def _counts(items: object) -> dict[str, float]:
    """``[{"type": "gres", "name": "gpu:a100", "count": 8}]`` by name, as in ``gres/gpu:a100=8``."""
    found: dict[str, float] = {}
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict) and item.get("type") == "gres":
            name, count = _string(item.get("name")), _number(item.get("count"))
            if (name == "gpu" or name.startswith("gpu:")) and count is not None:
                found[f"gres/{name}"] = count
    return found


def _time_s(time: Mapping[str, Any], name: str) -> float | None:
    value = _number(time.get(name))
    return None if value is None or value == 0 else checked_s(value, name)  # 0 is how Slurm writes "not yet"


def _number(value: object) -> float | None:
    """A number, bare or as ``{"set": true, "infinite": false, "number": 8}``; None if it is not set."""
    if isinstance(value, dict):
        value = value.get("number") if value.get("set", True) and not value.get("infinite") else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _object(item: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = item.get(name)
    return value if isinstance(value, dict) else {}


def _string(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


SACCT_JSON = Format(
    "sacct-json",
    "sacct --json output",
    lambda head: head.lstrip().startswith("{") and ('"jobs"' in head or '"slurm"' in head or '"meta"' in head),
    _entries,
    notes=("project is the account", "a requeued job counts once: its last run, from its first submission"),
)
