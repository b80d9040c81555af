"""Make text from other users safe to show: a job's command, log or name cannot control the reader's terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar, cast

Shown = TypeVar("Shown")

#: Control characters C0, delete and C1; some terminals obey C1 like an escape. Line breaks and tabs are harmless.
_VISIBLE = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
#: Marks that change the direction of text or end a line, so that a text can look like a different one.
_VISIBLE |= {code: f"\\u{code:04x}" for code in (0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))}


def visible(text: str) -> str:
    r"""Replace each control character by visible text such as ``\x1b``; line breaks and tabs stay."""
    return text.translate(_VISIBLE)


class LogText:
    """Replaces control characters in a log by visible text, piece by piece. A carriage return becomes a line break."""

    def __init__(self) -> None:
        self._held = ""

    def piece(self, text: str, *, last: bool) -> str:
        """Return the next piece of the log with visible control characters.

        A carriage return at the end of the piece waits for the next call, because a line feed may follow. If ``last``
        is True, nothing waits.
        """
        text, self._held = self._held + text, ""
        if text.endswith("\r") and not last:
            text, self._held = text[:-1], "\r"
        return visible(text.replace("\r\n", "\n").replace("\r", "\n"))


def line(text: str) -> str:
    """Return a text as a single line: line breaks, tabs and control characters are replaced by visible text."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def cell(text: str) -> str:
    """Return a text as a cell of CSV: a single line, which no spreadsheet takes for a formula.

    A spreadsheet runs what begins with ``=``, ``+``, ``-`` or ``@``; an apostrophe before it keeps it a text.
    """
    shown = line(text)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def harmless(value: Shown) -> Shown:
    """Return a record, or a list of records, with the control characters of all texts replaced by visible text."""
    return cast(Shown, _harmless(value))


def _harmless(value: Any) -> Any:
    if isinstance(value, str):
        return value if isinstance(value, Enum) else visible(value)
    if isinstance(value, Mapping):
        return {_harmless(key): _harmless(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_harmless, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _harmless(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    if hasattr(value, "model_copy"):  # pydantic's models, without importing pydantic
        return value.model_copy(update={name: _harmless(item) for name, item in value})
    return value
