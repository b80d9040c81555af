"""Steps read from a log by a pattern that may be hostile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.errors import InputError
from powerflow.live.progress_log import LogProgress, Matcher, Steps, check_progress

PATTERN = r"step (?P<step>[\d,]+)(?:/(?P<total>\d+))?"


@pytest.fixture(scope="module")
def matcher() -> Iterator[Matcher]:
    matcher = Matcher()
    yield matcher
    matcher.close()


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 200), max_size=8))
def test_the_last_step_counts_however_the_log_is_cut(matcher: Matcher, cuts: list[int]) -> None:
    text = "".join(f"epoch 1 step {step}/90 loss 0.1\n" for step in range(1, 7)).encode() + b"\xff step x\nstep 1,007\r"
    log = LogProgress(PATTERN, matcher)
    ends = [*sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for begin, end in zip([0, *ends], ends, strict=False):
        log.feed(text[begin:end], end)
    assert log.steps == Steps(1007, 90)
    assert log.offset == len(text)


def test_a_last_line_without_an_end_counts_when_nothing_follows(matcher: Matcher) -> None:
    log = LogProgress(PATTERN, matcher)
    log.feed(b"step 3", 6)
    assert log.steps is None
    log.finish()
    assert log.steps == Steps(3, None)


def test_a_pattern_that_never_ends_is_given_up(matcher: Matcher) -> None:
    log = LogProgress(r"(?P<step>(a+)+)$", matcher)
    log.feed(b"a" * 60 + b"!\n", 62)
    assert log.given_up
    other = LogProgress(PATTERN, matcher)  # others are read on
    other.feed(b"step 4\n", 7)
    assert other.steps == Steps(4, None)


@pytest.mark.parametrize("pattern", ["(", r"step (\d+)", "(?P<total>x)"])
def test_patterns_that_cannot_be_used_are_refused(pattern: str) -> None:
    with pytest.raises(InputError, match="progress"):
        check_progress(pattern)


def test_a_pattern_with_a_step_is_fine() -> None:
    check_progress(PATTERN)
