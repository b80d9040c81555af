"""Check a request's body before it is parsed as JSON: limit the number of values, and how deeply they are nested."""

from __future__ import annotations

import re

#: A larger request body is refused before it is parsed.
BODY_LIMIT = 1 << 20
#: Most levels of nesting, and most strings, brackets and commas. A job has 3 levels and at most 512 variables.
DEEPEST, MOST_TOKENS = 16, 8192

#: A whole string, bracket or comma. An unfinished string ends with the body, so that nothing is read twice.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)


def fault_of(body: bytes) -> str:
    """Return why a request's body must not be parsed as JSON (too deeply nested, or too many values); "" if it may be.

    Without this check, parsing could take long: 1 MiB can hold half a million empty lists, and each unknown key becomes
    an error. The body may be any bytes, not only JSON.
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
