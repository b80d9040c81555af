"""Read the steps of a script from its log, by a regular expression of its owner. The script needs no change.

A log is read piece by piece, and each piece is matched in another process (`powerflow.gangs.log_matcher`). The next
piece is read when the last one has been answered.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from powerflow.gangs.log_matcher import Matcher, Matching

#: Characters of a line that are matched; the rest of a longer one is ignored.
LINE_CHARS = 2000


class Steps(NamedTuple):
    """Steps done, and the steps of the whole run (None: the log does not say)."""

    step: int
    total: int | None


class LogProgress:
    """Follows one log.

    Attributes:
        offset: Bytes of the log that were fed.
        steps: Last steps in the log; None before the first.
        given_up: Why the pattern is not used any more; "" while it is.
    """

    def __init__(self, pattern: str, matcher: Matcher) -> None:
        self.offset = 0
        self.steps: Steps | None = None
        self.given_up = ""
        self._pattern = pattern
        self._matcher = matcher
        self._rest = ""
        self._asked: Matching | None = None

    def collect(self) -> bool:
        """Take the answer for the last piece; return False while there is none, and nothing may be fed."""
        if self._asked is None:
            return True
        if not self._asked.done.is_set():
            return False
        asked, self._asked = self._asked, None
        if asked.groups is None:
            self.given_up = asked.fault
        for group in asked.groups or ():
            step, total = _count(group.get("step")), _count(group.get("total"))
            if step is not None:
                self.steps = Steps(step, total if total is not None else self.steps.total if self.steps else None)
        return True

    def feed(self, piece: bytes, offset: int) -> bool:
        """Match the log's next bytes, given the offset after them; return as `collect` does.

        A carriage return ends a line too.
        """
        self.offset = offset
        *lines, rest = (self._rest + piece.decode("utf-8", "replace")).replace("\r", "\n").split("\n")
        self._rest = rest[:LINE_CHARS]
        return self._look([line[:LINE_CHARS] for line in lines if line])

    def finish(self) -> bool:
        """Match the last line, though it has no end, as nothing follows; return as `collect` does."""
        rest, self._rest = self._rest, ""
        return self._look([rest] if rest else [])

    def _look(self, lines: list[str]) -> bool:
        if lines and not self.given_up:
            self._asked = self._matcher.ask(self._pattern, lines)
        return self.collect()


def _count(text: str | None) -> int | None:
    """Return a number of steps; None for text that is none, or too long to be one."""
    if text is None or not re.fullmatch(r"[0-9][0-9,_]{0,18}", text.strip()):
        return None
    return int(text.strip().replace(",", "").replace("_", ""))
