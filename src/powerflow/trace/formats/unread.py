"""Recognise logs that PowerFlow cannot read, and say which file the user should give instead."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from powerflow.trace.formats.sacct_table import header_within

_SACCT = (
    "sacct -a -X -D -P -S 2024-01-01 -o JobID,Cluster,JobName,User,Account,Submit,Start,End,ElapsedRaw,Timelimit,State,"
    "NNodes,AllocTRES,ReqTRES"
)
_OWN_CSV = "convert it to a CSV with the columns id,submit_s,duration_s,gpus (docs/traces.md)"


def kind_not_read(head: str) -> tuple[str, str] | None:
    """Return the kind of an unreadable log, and the file that the user should give instead; None for an unknown kind.

    ``head`` is the beginning of the file.
    """
    lines = [line.rstrip("\r\n") for line in head.splitlines() if line.strip()]
    if not lines:
        return None
    return next(((what, fix) for looks_like, what, fix in _KINDS if looks_like(lines)), None)


def _every(pattern: str) -> Callable[[list[str]], bool]:
    """Return a function that tests whether at least 80 % of the first 20 lines match a pattern."""
    form = re.compile(pattern)

    def looks_like(lines: list[str]) -> bool:
        some = lines[:20]
        return sum(form.match(line) is not None for line in some) >= 0.8 * len(some)

    return looks_like


def _first(pattern: str) -> Callable[[list[str]], bool]:
    form = re.compile(pattern)
    return lambda lines: any(form.match(line) for line in lines[:5])


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d|(\d+-)?\d\d:\d\d:\d\d|Unknown|None")
_STATE = re.compile(
    r"(COMPLETED|FAILED|TIMEOUT|CANCELLED( by \d+)?|NODE_FAIL|OUT_OF_MEMORY|PREEMPTED|REQUEUED|RUNNING|PENDING)\+?"
)
_JOB_NUMBER = re.compile(r"\d+([_+](\d+|\[.*\]))?(\.\w+)?")


def _headerless_sacct(lines: list[str]) -> bool:
    """Return True if most of the first lines look like ``sacct`` output without a header.

    Such a line has fields with a job number, a state, and a time or a resource count.
    """
    for delimiter in ("|", ";", "\t", ","):
        rows = [line.split(delimiter) for line in lines[:20]]
        if len(rows[0]) < 3:
            continue
        hits = sum(
            any(_JOB_NUMBER.fullmatch(field) for field in row)
            and any(_STATE.fullmatch(field) for field in row)
            and any(
                _TIME.fullmatch(field) or "gres/gpu" in field or field.startswith(("cpu=", "billing=")) for field in row
            )
            for row in rows
        )
        if hits >= 0.8 * len(rows):
            return header_within("\n".join(lines[:20])) is None
    return False


def _fixed_width_sacct(lines: list[str]) -> bool:
    return any(re.search(r"(^|\s)JobID(Raw)?(\s|$)", line) for line in lines[:20]) or _every(
        r"\s*\d+([_+.]\w+)?\s.*\s(COMPLETED|FAILED|TIMEOUT|CANCELLED\+?|RUNNING|PENDING)(\s|$)"
    )(lines)


def _json_lines(lines: list[str]) -> bool:
    try:
        return len(lines) > 1 and all(isinstance(json.loads(line), dict) for line in lines[:2])
    except (ValueError, RecursionError):
        return False


_KINDS: tuple[tuple[Callable[[list[str]], bool], str, str], ...] = (
    (
        _headerless_sacct,
        "sacct output without its header",
        f"leave out --noheader (-n): {_SACCT}",
    ),
    (
        _first(r"(JobId|JobID)=\d+ "),
        "scontrol show job output, which lists only jobs of the last minutes",
        f"give the output of {_SACCT}",
    ),
    (
        _first(r"\s*JOBID\s+(PARTITION|NAME|USER|ST)\b|JOBID\|"),
        "squeue output, which lists only jobs that have not ended",
        f"give the output of {_SACCT}",
    ),
    (
        _fixed_width_sacct,
        "sacct output in columns of fixed width, which cuts longer values",
        f"add -P: {_SACCT}",
    ),
    (
        _every(r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d;[A-Za-z];[^;]*;"),
        "a PBS or Torque accounting log",
        f"{_OWN_CSV}: its E records have ctime, start, end, Resource_List",
    ),
    (
        _every(r'"(JOB_FINISH|JOB_NEW|JOB_START|JOB_STATUS|EVENT_ADRSV_FINISH)" "[\d.]+" \d+ '),
        "an LSF lsb.acct or lsb.events log",
        f"{_OWN_CSV}; bhist or bacct -l show the fields",
    ),
    (
        _every(r"#|[^:\s]+:[^:]*:[^:]*:[^:]*:[^:]*:\d+:[^:]*:-?\d+:\d+:\d+:\d+:"),
        "a Grid Engine accounting file",
        f"{_OWN_CSV}; qacct -j shows the fields",
    ),
    (
        _first(r"(MyType|ClusterId|GlobalJobId|\*\*\* Offset) = ?"),
        "an HTCondor history",
        f"{_OWN_CSV}: its QDate, RemoteWallClockTime, RequestGPUs",
    ),
    (
        _first(r'\{?\s*"(apiVersion|kind)"\s*:|apiVersion: |\s+"apiVersion"\s*:'),
        "a Kubernetes object list",
        f"{_OWN_CSV}: from creationTimestamp, containerStatuses, nvidia.com/gpu",
    ),
    (
        _first(r"(Cluster|Account|User|Job)[/\w ]* (Utilization|Sizes?|Top Usage) \d{4}-"),
        "an sreport summary, which has no single jobs",
        f"give the output of {_SACCT}",
    ),
    (
        lambda lines: bool(re.match(r"---$|jobs:|meta:|- account:", lines[0])) and any(":" in x for x in lines[1:5]),
        "YAML, such as sacct --yaml prints",
        "give sacct --json",
    ),
    (
        _first(r"(?=.*\bplan_gpu\b)|(?=.*\binst_id\b)(?=.*\bstatus\b)|(?=.*\bgpu_milli\b)"),
        "a table of Alibaba's GPU clusters, whose jobs hold shares of GPUs",
        f"{_OWN_CSV}, of jobs on whole GPUs only",
    ),
    (
        _json_lines,
        "JSON lines, one object per line",
        "give the whole document that sacct --json prints, or PowerFlow's own CSV",
    ),
)
