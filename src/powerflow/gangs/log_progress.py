"""The steps of a script that imports nothing, read from its log by a regular expression of its owner's.

A log is read piece by piece, and a piece is matched beside the loop (`powerflow.gangs.log_matcher`): while there is no
answer for one, no more is read.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from powerflow.gangs.log_matcher import Matcher, Matching

#: Longest line, and longest unfinished line, that is looked at; the rest of a longer one is ignored.
LINE_CHARS = 2000


class Steps(NamedTuple):
    """Steps done, and of how many (None: the log does not say)."""

    step: int
    total: int | None


class LogProgress:
    """Follows one log.

    Attributes:
        offset: Bytes of the log that were fed.
        steps: The last that it said; None before.
        given_up: Why the pattern is not asked any more; "" while it is.
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
        """Take the answer for what was fed last; False while there is none yet, and nothing may be fed."""
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
        """Read on: the log's next bytes, and the offset after them; as `collect`.

        A carriage return ends a line too.
        """
        self.offset = offset
        *lines, rest = (self._rest + piece.decode("utf-8", "replace")).replace("\r", "\n").split("\n")
        self._rest = rest[:LINE_CHARS]
        return self._look([line[:LINE_CHARS] for line in lines if line])

    def finish(self) -> bool:
        """Nothing follows: what stands there without an end of line is the last line; as `collect`."""
        rest, self._rest = self._rest, ""
        return self._look([rest] if rest else [])

    def _look(self, lines: list[str]) -> bool:
        if lines and not self.given_up:
            self._asked = self._matcher.ask(self._pattern, lines)
        return self.collect()


def _count(text: str | None) -> int | None:
    """A number of steps; None for what is none (or too long to be one)."""
    if text is None or not re.fullmatch(r"[0-9][0-9,_]{0,18}", text.strip()):
        return None
    return int(text.strip().replace(",", "").replace("_", ""))
