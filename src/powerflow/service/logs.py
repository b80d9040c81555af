"""Write structured logs, one JSON object per line."""

from __future__ import annotations

from typing import Any, TextIO

import structlog


def json_lines(stream: TextIO) -> Any:
    """Return a structlog logger that writes JSON lines with ``time`` (UTC) and ``level`` to a stream.

    Functions get the logger as an argument, so that their signature shows whether they log.
    """
    return structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(0),
    )
