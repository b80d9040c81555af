"""Read Slurm's JSON: ``sacct --json``, and ended jobs in ``squeue --json`` and ``scontrol show jobs --json``.

Times are UTC. A job contains its steps. Versions of Slurm (data_parser) write the same value differently. A number is
``8`` or ``{"set": true, "infinite": false, "number": 8}``. A state is a word, a list of words, or the value of
"current".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from powerflow.trace.clock import Clock
from powerflow.trace.fields import Unusable, checked_s
from powerflow.trace.formats.format import Entry, Format
from powerflow.trace.formats.slurm import SlurmRun, jobs_of, node_list
from powerflow.trace.formats.slurm_gpus import SlurmGpus, gres_gpus, held_gpus, parse_tres, submitted_gpus, tres_gpus
from powerflow.trace.json_items import member_items
from powerflow.trace.record import Skipped

_FORGETS = (
    "this is squeue or scontrol --json: Slurm forgets a job minutes after its end (MinJobAge), so jobs are "
    "missing; sacct --json lists all of them"
)


def _entries(stream: TextIO, clock: Clock) -> Iterator[Entry]:
    queue: list[int] = []
    yield from jobs_of(_runs(stream, queue))
    if queue:
        yield _FORGETS


def _runs(stream: TextIO, queue: list[int]) -> Iterator[SlurmRun | Skipped]:
    """Yield each run of a job in the document.

    The line number of the first run that was written by ``squeue`` or ``scontrol`` is put into ``queue``.
    """
    for line, item in member_items(stream, "jobs"):
        try:
            if not isinstance(item, dict):
                raise Unusable("a job is not a JSON object")
            if "time" not in item and "submit_time" in item:
                queue += [line] * (not queue)
                yield _queued_run(item, line)
            else:
                yield _run(item, line)
        except Unusable as reason:
            yield Skipped(line, str(reason))


def _run(item: Mapping[str, Any], line: int) -> SlurmRun:
    time = _object(item, "time")
    submit_s, start_s, end_s = (_time_s(time, name) for name in ("submission", "start", "end"))
    if submit_s is None:
        raise Unusable("submission is unknown")
    elapsed = _number(time.get("elapsed"))
    tres, who = _object(item, "tres"), _object(item, "association")
    submitted, asked = submitted_gpus(_string(item.get("submit_line")))
    return SlurmRun(
        line=line,
        id=_id(item, _object(item, "array").get("job_id"), _object(item, "array").get("task_id")),
        submit_s=submit_s,
        start_s=start_s,
        end_s=end_s,
        elapsed_s=None if elapsed is None else checked_s(elapsed, "elapsed"),
        state=_state(item.get("state")),
        gpus=held_gpus([_counted(tres.get("allocated"))], [_counted(tres.get("requested"))], submitted),
        user=_string(item.get("user")) or _string(who.get("user")),
        account=_string(item.get("account")) or _string(who.get("account")),
        name=_string(item.get("name")),
        cluster=_string(item.get("cluster")) or _string(who.get("cluster")),
        asked=asked,
        limit_s=_minutes_s(time.get("limit")),
        partition=_string(item.get("partition")),
        qos=_string(item.get("qos")),
        nodes=node_list(_string(item.get("nodes"))),
        raw_id=_raw_id(item),
    )


def _queued_run(item: Mapping[str, Any], line: int) -> SlurmRun:
    """Read a job as ``squeue`` or ``scontrol`` writes it. Before the job has ended, its end is only its time limit."""
    submit_s, start_s, end_s = (_time_s(item, name) for name in ("submit_time", "start_time", "end_time"))
    if submit_s is None:
        raise Unusable("submission is unknown")
    nodes = _number(item.get("node_count"))
    suspended_s, before_s = _time_s(item, "suspend_time"), _number(item.get("pre_sus_time"))
    elapsed_s = None
    if suspended_s is not None and before_s is not None and end_s is not None:  # as squeue counts the time used
        elapsed_s = checked_s(before_s + end_s - suspended_s, "time used")
    per_job, per_node = _string(item.get("tres_per_job")), _string(item.get("tres_per_node"))
    requested = [
        tres_gpus(parse_tres(_string(item.get("tres_req_str")))),
        gres_gpus(f"PER_JOB:{per_job}", nodes) if per_job else SlurmGpus(),
        gres_gpus(per_node, nodes) if per_node else SlurmGpus(),
    ]
    return SlurmRun(
        line=line,
        id=_id(item, item.get("array_job_id"), item.get("array_task_id")),
        submit_s=submit_s,
        start_s=start_s,
        end_s=end_s,
        elapsed_s=elapsed_s,
        state=_state(item.get("job_state")),
        gpus=held_gpus([tres_gpus(parse_tres(_string(item.get("tres_alloc_str"))))], requested, SlurmGpus()),
        user=_string(item.get("user_name")),
        account=_string(item.get("account")),
        name=_string(item.get("name")),
        cluster=_string(item.get("cluster")),
        limit_s=_minutes_s(item.get("time_limit")),
        partition=_string(item.get("partition")),
        qos=_string(item.get("qos")),
        nodes=node_list(_string(item.get("nodes"))),
        raw_id=_raw_id(item),
    )


def _raw_id(item: Mapping[str, Any]) -> str:
    """Return the number of a task of an array without its index; "" for another job."""
    own, array = _number(item.get("job_id")), _object(item, "array")
    return f"{own:.0f}" if own is not None and _number(array.get("task_id")) is not None else ""


def _id(item: Mapping[str, Any], array: object, task: object) -> str:
    """Return the job number as ``sacct`` writes it: ``123_4`` for an array element, ``123+1`` for a part of a job."""
    of, index = _number(array), _number(task)
    if of and index is not None:
        return f"{of:.0f}_{index:.0f}"
    parts = _object(item, "het")
    whole = _number(parts.get("job_id", item.get("het_job_id")))
    offset = _number(parts.get("job_offset", item.get("het_job_offset")))
    if whole and offset is not None:
        return f"{whole:.0f}+{offset:.0f}"
    own = _number(item.get("job_id"))
    if own is None:
        raise Unusable("job_id is not a number")
    return f"{own:.0f}"


def _state(value: object) -> str:
    """Return the state of a job from ``"COMPLETED"``, ``["COMPLETED"]`` or ``{"current": …}``, in capitals.

    Slurm's versions write it differently.
    """
    if isinstance(value, dict):
        value = value.get("current")
    if isinstance(value, list):
        value = value[0] if value else ""
    return _string(value).split(" ")[0].upper()


def _counted(items: object) -> SlurmGpus:
    """Return the GPUs in a list of resources such as ``[{"type": "gres", "name": "gpu:a100", "count": 8}]``."""
    found: dict[str, float] = {}
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict) and item.get("type") == "gres":
            name, count = _string(item.get("name")), _number(item.get("count"))
            if name.partition(":")[0] in {"gpu", "shard", "mps"} and count is not None and count >= 0:
                found[f"gres/{name}"] = count
    return tres_gpus(found)


def _time_s(time: Mapping[str, Any], name: str) -> float | None:
    value = _number(time.get(name))
    return None if value is None or value == 0 else checked_s(value, name)  # Slurm writes 0 for "not yet"


def _minutes_s(value: object) -> float | None:
    """Return a time limit in seconds from Slurm's minutes; None if there is none."""
    minutes = _number(value)
    return None if minutes is None or minutes <= 0 else 60.0 * minutes


def _number(value: object) -> float | None:
    """Return a number from JSON, which may be ``8`` or ``{"set": true, "infinite": false, "number": 8}``.

    The result is None if the number is not set.
    """
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


def _recognises(head: str) -> bool:
    body = head.lstrip()
    if body.startswith("["):  # jq .jobs
        return '"job_id"' in head and ('"tres"' in head or '"tres_alloc_str"' in head)
    return body.startswith("{") and ('"jobs"' in head or '"slurm"' in head or '"meta"' in head)


SACCT_JSON = Format(
    "sacct-json",
    "sacct --json output",
    _recognises,
    _entries,
    notes=(
        "project is the account",
        "a requeued job counts once: its last run, from its first submission",
        "each element of an array and each part of a heterogeneous job is a job",
    ),
)
