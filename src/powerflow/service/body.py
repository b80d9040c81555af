"""Bound a request's body, in bytes and in structure, before anything reads it as JSON."""

from __future__ import annotations

import re

#: A larger request body is refused before it is parsed.
BODY_LIMIT = 1 << 20
#: Levels of nesting, and strings, brackets and commas: a job has three levels, and at most 512 variables.
DEEPEST, MOST_TOKENS = 16, 8192

#: A whole string, or what stands for structure. An unfinished string ends with the body: nothing is read twice.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)


def fault_of(body: bytes) -> str:
    """Say why a body is too deep or has too many values to be read as JSON; "" if it is not.

    Reading it would take long: 1 MiB can hold half a million empty lists, and each key that is not known is an error.
    It need not be JSON.
    """
    depth = 0
    for number, token in enumerate(_TOKEN.finditer(body)):
        if number >= MOST_TOKENS:
            return "the body has too many values"
        sign = body[token.start()]
        if sign in b"[{":
            depth += 1
            if depth > DEEPEST:
                return f"the body is nested more than {DEEPEST} levels deep"
        elif sign in b"]}":
            depth -= 1
    return ""
