r"""The steps of a script that imports nothing, read from its log by a regular expression of its owner's.

A pattern such as ``(a+)+$`` can keep Python's `re` busy for ever, and would stop the controller with it. So matching is
done by a small process of its own, which the kernel ends when it takes too long; that pattern is then not asked again.
The process ends with its owner, however that dies: its input closes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import NamedTuple

from powerflow.errors import InputError

#: Longest line, and longest unfinished line, that is looked at; the rest of a longer one is ignored.
LINE_CHARS = 2000
#: CPU seconds that one look may take before the pattern is given up.
PATIENCE_S = 0.25

_MATCHER = f"""
import json, re, signal, sys
for request in sys.stdin:
    pattern, lines = json.loads(request)
    signal.setitimer(signal.ITIMER_VIRTUAL, {PATIENCE_S})
    found = [match for match in map(re.compile(pattern).search, lines) if match]
    groups = [match.groupdict() for match in found]
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    sys.stdout.write(json.dumps(groups) + "\\n")
    sys.stdout.flush()
"""


class Steps(NamedTuple):
    """Steps done, and of how many (None: the log does not say)."""

    step: int
    total: int | None


def check_progress(pattern: str) -> None:
    """See that a pattern can be used.

    Raises:
        InputError: If it is no regular expression, or has no group named ``step``.
    """
    try:
        groups = re.compile(pattern).groupindex
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"{pattern!r} is no regular expression ({error})", where="progress") from None
    if "step" not in groups:
        raise InputError(f"{pattern!r} has no group named step", where="progress", fix=r"write (?P<step>\d+)")


class Matcher:
    """The process that matches; started when first asked, and again after a pattern that took too long."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def search(self, pattern: str, lines: list[str]) -> list[dict[str, str | None]] | None:
        """Named groups of every line that matches, in order; None if that took too long."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _MATCHER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps([pattern, lines]) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            self.close()
            return None
        groups: list[dict[str, str | None]] = json.loads(answer)
        return groups

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.communicate()


class LogProgress:
    """Follows one log.

    Attributes:
        offset: Bytes of the log that were fed.
        steps: The last that it said; None before.
        given_up: The pattern took too long, and is not asked any more.
    """

    def __init__(self, pattern: str, matcher: Matcher) -> None:
        self.offset = 0
        self.steps: Steps | None = None
        self.given_up = False
        self._pattern = pattern
        self._matcher = matcher
        self._rest = ""

    def feed(self, piece: bytes, offset: int) -> None:
        """Read on: the log's next bytes, and the offset after them. A carriage return ends a line too."""
        self.offset = offset
        *lines, rest = (self._rest + piece.decode("utf-8", "replace")).replace("\r", "\n").split("\n")
        self._rest = rest[:LINE_CHARS]
        self._look([line[:LINE_CHARS] for line in lines if line])

    def finish(self) -> None:
        """Nothing follows: what stands there without an end of line is the last line."""
        self._look([self._rest] if self._rest else [])
        self._rest = ""

    def _look(self, lines: list[str]) -> None:
        if not lines or self.given_up:
            return
        groups = self._matcher.search(self._pattern, lines)
        if groups is None:
            self.given_up = True
            return
        for group in groups:
            step, total = _count(group.get("step")), _count(group.get("total"))
            if step is not None:
                self.steps = Steps(step, total if total is not None else self.steps.total if self.steps else None)


def _count(text: str | None) -> int | None:
    """A number of steps; None for what is none (or too long to be one)."""
    if text is None or not re.fullmatch(r"[0-9][0-9,_]{0,18}", text.strip()):
        return None
    return int(text.strip().replace(",", "").replace("_", ""))
