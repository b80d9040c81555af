"""Steps read from a log by a pattern that may be hostile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.api.patterns import check_progress
from powerflow.errors import InputError
from powerflow.gangs import log_matcher
from powerflow.gangs.log_matcher import Matcher
from powerflow.gangs.log_progress import LogProgress, Steps

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
    assert log.first == 1
    assert log.offset == len(text)


def test_a_last_line_without_an_end_counts_when_nothing_follows(matcher: Matcher) -> None:
    log = LogProgress(PATTERN, matcher)
    log.feed(b"step 3", 6)
    assert log.steps is None
    log.finish()
    assert log.steps == Steps(3, None)


def test_a_pattern_that_would_go_back_for_ever_is_matched_in_linear_time(matcher: Matcher) -> None:
    log = LogProgress(r"(?P<step>(a+)+)$", matcher)
    assert log.feed(b"a" * 60 + b"!\n", 62)
    assert (log.given_up, log.steps) == ("", None)


#: Linear, and slow: RE2 follows hundreds of ways at once.
SLOW = r"(?P<step>(a|b|ab)*a(a|b){600}c)"
MANY = "".join(Random(1).choice("ab") for _ in range(1999)).encode() + b"\n"


def test_a_pattern_that_takes_too_long_is_given_up(matcher: Matcher) -> None:
    log = LogProgress(SLOW, matcher)
    assert log.feed(MANY * 60, 120_000)
    assert log.given_up == "takes too long"
    other = LogProgress(PATTERN, matcher)  # others are read on
    other.feed(b"step 4\n", 7)
    assert other.steps == Steps(4, None)


def test_who_asks_waits_a_moment_only_and_gets_the_answer_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_matcher, "WAIT_S", 0.0)
    matcher = Matcher()
    slow, quick = LogProgress(SLOW, matcher), LogProgress(PATTERN, matcher)
    began = time.process_time()
    assert not slow.feed(MANY * 60, 120_000), "still being matched"
    assert not quick.feed(b"step 4\n", 7)
    assert time.process_time() - began < 1.0, "it is another process that works"
    until = time.monotonic() + 60
    while not (slow.collect() and quick.collect()) and time.monotonic() < until:
        time.sleep(0.01)
    assert slow.given_up == "takes too long"
    assert quick.steps == Steps(4, None)
    matcher.close()


def test_a_pattern_of_an_older_version_that_cannot_be_read_is_given_up(matcher: Matcher) -> None:
    log = LogProgress(r"(?P<step>\d+)(?=/)", matcher)
    log.feed(b"4/5\n", 4)
    assert "RE2" in log.given_up


def test_a_matcher_that_is_killed_is_started_again(matcher: Matcher) -> None:
    log = LogProgress(PATTERN, matcher)
    log.feed(b"step 4\n", 7)
    assert matcher._process is not None
    matcher._process.kill()
    log.feed(b"step 5\n", 14)
    assert (log.steps, log.given_up) == (Steps(5, None), "")


HUGE = [
    "(?i)(?P<step>x)" + "".join(f"[{chr(0x100 + k)}-\uffff]" for k in range(190)),
    "(?P<step>x)" + r"\pL" * 337,
    "(?P<step>x)" + r"[\pL\PN]" * 100,
    "(?P<step>x)" + "(a{1,30}){1,30}" * 60,
    "(?P<step>" * 100,
    "(?P<step>x)" + "(" * 450 + ")" * 450,
    "(?P<step>\ud800)",
]


@pytest.mark.parametrize("pattern", HUGE)
def test_reading_a_pattern_takes_no_time_whatever_it_is(pattern: str) -> None:
    began = time.process_time()
    with contextlib.suppress(InputError):
        check_progress(pattern)
    assert time.process_time() - began < 1.0  # some milliseconds; `re` takes many seconds over the first


@pytest.mark.parametrize("pattern", ["(", r"step (\d+)", "(?P<total>x)", r"(?P<step>\d+)(?=/)", r"(?P<step>(a)\1)"])
def test_patterns_that_cannot_be_used_are_refused(pattern: str) -> None:
    with pytest.raises(InputError, match=r"is not a regular expression|no group named step"):
        check_progress(pattern)


def test_a_pattern_with_a_step_is_fine() -> None:
    check_progress(PATTERN)
