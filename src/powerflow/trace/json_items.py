"""Read the items of a large JSON array one at a time, each with the line number at which it starts.

The standard library can only read a whole document at once. Here only a part of the text is in memory, at least as long
as the largest item, and ``json.JSONDecoder.raw_decode`` reads one item after the other from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn, TextIO

from powerflow.errors import InputError

_READ_CHARS = 1 << 16
_LARGEST_ITEM_CHARS = 1 << 24  # no job takes 16 MiB, so a larger item means a broken document
_BLANK = " \t\r\n"
_DECODER = json.JSONDecoder()


def array_items(stream: TextIO) -> Iterator[tuple[int, Any]]:
    """Yield each item of a JSON array with its line number: (line, value).

    Raises:
        InputError: The document is not JSON, or not an array.
    """
    window = _Window(stream)
    window.expect("[")
    yield from window.items()
    window.end()


def member_items(stream: TextIO, member: str) -> Iterator[tuple[int, Any]]:
    """Yield each item of an array in a JSON document with its line number: (line, value).

    The document is either an array, or an object whose member ``member`` is an array. If the file has several documents
    (the output of a command, appended day by day), they are read one after the other.

    Raises:
        InputError: A document is not JSON, is neither an array nor an object, or has no such member.
    """
    window = _Window(stream)
    if window.next_char() == "[":
        while True:
            window.expect("[")
            yield from window.items()
            if not window.next_char():
                return
    while True:
        yield from _member_items(window, member)
        if not window.next_char():
            return


def _member_items(window: _Window, member: str) -> Iterator[tuple[int, Any]]:
    window.expect("{")
    found = False
    while window.next_char() != "}":
        name = window.value()
        window.expect(":")
        if name == member and not found:
            window.expect("[")
            yield from window.items()
            found = True
        else:
            window.value()
        if window.next_char() != "}":
            window.expect(",")
    window.expect("}")
    if not found:
        raise InputError(f'has no "{member}"')


class _Window:
    """The part of a JSON document that is in memory, with the current position in it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""
        self._at = 0
        self._line = 1
        self._ended = False

    def next_char(self) -> str:
        """Return the next character that is not blank, without moving past it; "" at the end of the document."""
        while True:
            while self._at < len(self._text):
                char = self._text[self._at]
                if char not in _BLANK:
                    return char
                self._line += char == "\n"
                self._at += 1
            if not self._more(_READ_CHARS):
                return ""

    def expect(self, char: str) -> None:
        """Move past ``char``, or raise an error if the next character is another one."""
        if self.next_char() != char:
            self._broken(f"{char} expected")
        self._at += 1

    def end(self) -> None:
        """Raise an error if anything but blanks follows."""
        if self.next_char():
            self._broken("text after the end")

    def items(self) -> Iterator[tuple[int, Any]]:
        """Yield the items of an array, each with its line number, and move past the closing bracket.

        The position must be behind the opening bracket.
        """
        if self.next_char() == "]":
            self._at += 1
            return
        while True:
            self.next_char()
            line = self._line
            yield line, self.value()
            if self.next_char() == "]":
                self._at += 1
                return
            self.expect(",")

    def value(self) -> Any:
        """Return one JSON value and move past it; read more text until the value is complete."""
        self.next_char()
        reach = _READ_CHARS
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except ValueError as error:  # JSONDecodeError, or a number of too many digits
                if len(self._text) - self._at > _LARGEST_ITEM_CHARS or not self._more(reach):
                    self._broken(error.msg if isinstance(error, json.JSONDecodeError) else "number too long")
            except RecursionError:
                self._broken("nested too deeply")
            else:
                # a number cut by the end of the window would be read wrong: "12" of 123, "1" of 1e+5
                if len(self._text) - end > 2 or not self._more(reach):
                    self._line += self._text.count("\n", self._at, end)
                    self._at = end
                    return value
            reach *= 2  # doubling keeps the work proportional to the item

    def _more(self, chars: int) -> bool:
        """Drop the text before the current position, and read more text; return False at the end of the document."""
        if self._ended:
            return False
        chunk = self._stream.read(chars)
        if not chunk:
            self._ended = True
            return False
        self._text = self._text[self._at :] + chunk
        self._at = 0
        return True

    def _broken(self, why: str) -> NoReturn:
        raise InputError(f"is not JSON ({why.lower()}, in the item at line {self._line})")
