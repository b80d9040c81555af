"""Check regular expressions that users write. They are matched by the engine RE2, in time linear in the text's length.

Python's `re` tries alternatives one after the other, so that a pattern such as ``(a+)+$`` can take almost for ever. RE2
avoids this, and therefore has no look-around and no back-references.
"""

from __future__ import annotations

import re
from typing import Any

from powerflow.errors import InputError

#: Most bytes of a compiled pattern; compiling stops if it needs more.
_MOST_BYTES = 1 << 16
#: Classes by Unicode property (``\pL``), each of which takes a third of a millisecond to read.
_MOST_PROPERTIES = 16
_FIX = "write a pattern for RE2: without look-around and back-references"


def options(most_bytes: int = _MOST_BYTES) -> Any:
    """Return the options with which RE2 compiles a user's pattern."""
    import re2

    chosen = re2.Options()
    chosen.max_mem = most_bytes
    chosen.log_errors = False
    return chosen


def check_progress(pattern: str) -> None:
    """Check that a pattern can find step numbers in a log. This takes a few milliseconds at most.

    Raises:
        InputError: The pattern is not a regular expression of RE2, is too large, or has no group named ``step``.
    """
    import re2

    if len(re.findall(r"\\[pP]", pattern)) > _MOST_PROPERTIES:
        raise InputError(f"{shown(pattern)} has over {_MOST_PROPERTIES} classes such as \\pL", fix=r"write \w or .")
    try:
        groups = re2.compile(pattern, options()).groupindex
    except re2.error as error:
        why = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
        raise InputError(f"{shown(pattern)} is not a regular expression ({shown(why, '')})", fix=_FIX) from None
    except UnicodeError:
        raise InputError(f"{shown(pattern)} is not text in UTF-8", fix="remove the invalid characters") from None
    if "step" not in groups:
        raise InputError(f"{shown(pattern)} has no group named step", fix=r"write (?P<step>\d+)")


def shown(text: str, quote: str = "'") -> str:
    """Return a pattern, or a part of one, as printable text of limited length for an error message."""
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return f"{quote}{text if len(text) <= 60 else f'{text[:56]}…'}{quote}"
