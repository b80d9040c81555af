"""Find in a script's log how many steps are done, by a pattern that the job's owner gives.

The script needs no change. The log is read piece by piece, and each piece is matched in another process
(`powerflow.gangs.log_matcher`). The next piece is read after the answer for the last piece has come.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from powerflow.gangs.log_matcher import Matcher, Matching

#: Characters of a line that are matched; the rest of a longer one is ignored.
LINE_CHARS = 2000


class Steps(NamedTuple):
    """The steps that a script has done, and the steps of its whole run (None: the log does not say)."""

    step: int
    total: int | None


class LogProgress:
    """Follow the log of one script and read the steps in it.

    Attributes:
        offset: How many bytes of the log were passed to `feed`.
        steps: Last steps in the log; None before the first.
        first: Step with which the log begins; None before the first.
        given_up: Why the pattern is not used any more; "" while it is used.
    """

    def __init__(self, pattern: str, matcher: Matcher) -> None:
        self.offset = 0
        self.steps: Steps | None = None
        self.first: int | None = None
        self.given_up = ""
        self._pattern = pattern
        self._matcher = matcher
        self._rest = ""
        self._asked: Matching | None = None

    def collect(self) -> bool:
        """Read the matcher's answer for the piece of the log that was last passed to `feed`.

        Returns:
            False while the answer is missing; then no new piece may be passed to `feed`.
        """
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
                self.first = step if self.first is None else self.first
                self.steps = Steps(step, total if total is not None else self.steps.total if self.steps else None)
        return True

    def feed(self, piece: bytes, offset: int) -> bool:
        """Send the next piece of the log to the matcher. A carriage return ends a line too.

        Args:
            piece: Bytes of the log.
            offset: Position in the log after ``piece``.

        Returns:
            True if the matcher has already answered; otherwise call `collect` later.
        """
        self.offset = offset
        *lines, rest = (self._rest + piece.decode("utf-8", "replace")).replace("\r", "\n").split("\n")
        self._rest = rest[:LINE_CHARS]
        return self._look([line[:LINE_CHARS] for line in lines if line])

    def finish(self) -> bool:
        """Send the last line of the log to the matcher, even if the line has no end, because no text follows.

        Returns:
            True if the matcher has already answered; otherwise call `collect` later.
        """
        rest, self._rest = self._rest, ""
        return self._look([rest] if rest else [])

    def _look(self, lines: list[str]) -> bool:
        if lines and not self.given_up:
            self._asked = self._matcher.ask(self._pattern, lines)
        return self.collect()


def _count(text: str | None) -> int | None:
    """Return the number of steps that a text gives; None if it gives none, or is too long for such a number."""
    if text is None or not re.fullmatch(r"[0-9][0-9,_]{0,18}", text.strip()):
        return None
    return int(text.strip().replace(",", "").replace("_", ""))
