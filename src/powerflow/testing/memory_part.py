"""Define what a virtual rank of a memory engine does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from powerflow.engine.protocol import EngineError, RankSpec


@dataclass(frozen=True, slots=True)
class Part:
    """The behaviour of one virtual rank.

    Attributes:
        lasts_s: Seconds until the rank ends.
        code: Exit code of the rank if it ends after ``lasts_s``.
        says: Bytes that the rank writes to its log when it starts.
        answers: Exit code for each signal number; None if the rank ignores that signal. Signal N without an entry does
            what it does by default: it ends the rank with code −N, or is ignored (SIGCONT, for example).
    """

    lasts_s: float = math.inf
    code: int = 0
    says: bytes = b""
    answers: Mapping[int, int | None] = field(default_factory=dict)


def perform(spec: RankSpec) -> Part:
    """Return the behaviour of a rank with the command ``true``, ``false``, ``sleep SECONDS`` or ``echo WORDS``.

    Raises:
        EngineError: The rank has a command other than these four.
    """
    match spec.command:
        case ("true",):
            return Part(0.0)
        case ("false",):
            return Part(0.0, 1)
        case ("sleep", seconds):
            return Part(float(seconds))
        case ("echo", *words):
            return Part(0.0, 0, " ".join(words).encode() + b"\n")
    raise EngineError(f"there is no program {spec.command[0]}", final=True)
