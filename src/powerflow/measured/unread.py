"""Recognise files of measurements that PowerFlow cannot read, and say which file the user should give instead."""

from __future__ import annotations

import re

_SMI = "nvidia-smi --query-gpu=timestamp,index,name,power.draw,clocks.sm,utilization.gpu --format=csv -l 1"
#: How the beginning of a file looks, what the file is, and what to give instead.
_KINDS = (
    (
        r"\s*\d{4}/\d\d/\d\d \d\d:\d\d:\d\d[.\d]*\s*,",
        "nvidia-smi output without its header",
        f"leave out noheader: {_SMI}",
    ),
    (r"(?s).{0,400}\| NVIDIA-SMI \d", "the table that nvidia-smi prints for people", f"give the output of {_SMI}"),
    (
        r"\s*#\s*(Date\s+Time\s+)?gpu\s",
        "nvidia-smi dmon output, which has no times by itself",
        f"give the output of {_SMI}",
    ),
    (
        r'.*(__MIN"|__MAX"| - )',
        "the export of one W&B panel",
        "write run.history() and run.history(stream='events') as CSV",
    ),
    (r"\s*# (HELP|TYPE) ", "a page of metrics at one moment", "save an answer of Prometheus' /api/v1/query_range"),
    (r'\s*\{\s*"version":.*\s*"kind":\s*"models"', "a file of fitted models", "give it to simulate --costs"),
    (r'\s*\{\s*"measurements"', "a power profile of Zeus' optimizer", "give the log_file of its ZeusMonitor"),
    (r"\s*\[", "a JSON array", "write one JSON object a line, such as with to_json(orient='records', lines=True)"),
)


def kind_not_read(head: str) -> tuple[str, str] | None:
    """Return what a file is that cannot be read, and what to give instead; None for an unknown kind."""
    return next(((what, fix) for pattern, what, fix in _KINDS if re.match(pattern, head)), None)
