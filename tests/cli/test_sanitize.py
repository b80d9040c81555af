"""What others wrote cannot steer a terminal, however it comes and wherever it is shown."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from powerflow.cli.output import console
from powerflow.cli.sanitize import LogText, line, visible

#: Classes of characters that turn the direction of writing.
TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@given(st.text())
def test_no_control_character_is_left(text: str) -> None:
    for shown in (visible(text), line(text)):
        assert not {c for c in shown if unicodedata.category(c) == "Cc"} - {"\n", "\t"}
        assert not {c for c in shown if unicodedata.bidirectional(c) in TURNS}
    assert not {"\n", "\t"} & set(line(text))


@given(st.lists(st.sampled_from(["a", "\r", "\n", "\r\n", "\x1b"]), max_size=12), st.integers(0, 12))
def test_a_log_in_pieces_is_the_log_as_a_whole(parts: list[str], at: int) -> None:
    whole, cut = LogText(), LogText()
    text = "".join(parts)
    said = cut.piece(text[:at], last=False) + cut.piece(text[at:], last=True)
    assert said == whole.piece(text, last=True)


def test_tables_and_lines_are_shown_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name")
    table.add_row("\x1b]0;evil\x07")
    out = console()
    out.file = io.StringIO()
    out.print(table)
    out.print("note: \x1b[2J\x9b2J", Text("\x1b[8m"))
    said = out.file.getvalue()
    assert r"\x1b]0;" in said
    assert r"note: \x1b[2J\x9b2J" in said
    assert not [c for c in said if unicodedata.category(c) == "Cc" and c != "\n"]
