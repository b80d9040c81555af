"""Moments to come and lengths of time, as people type them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from powerflow.cli.when import coming, past, stamp
from powerflow.errors import InputError
from powerflow.units import parse_length

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


def test_the_next_time_of_day() -> None:
    now_s = at("2026-11-25 16:30")
    assert coming("17:00", "--from", now_s) == at("2026-11-25 17:00")
    assert coming("16:30", "--from", now_s) == at("2026-11-26 16:30")
    assert coming("+15m", "--from", now_s) == now_s + 900.0
    assert coming("2026-12-01 06:00", "--from", now_s) == at("2026-12-01 06:00")


def test_a_day_on_which_clocks_change_is_no_24_hours() -> None:
    evening_s = at("2026-10-24 18:00")
    assert coming("17:00", "--from", evening_s) - evening_s == 24 * 3600.0  # 23 h by the clock, and the hour twice


@pytest.mark.parametrize(("text", "seconds"), [("3h", 10_800.0), ("90 m", 5400.0), ("1.5min", 90.0), ("1d", 86_400.0)])
def test_lengths(text: str, seconds: float) -> None:
    assert parse_length(text, "--for") == seconds


@pytest.mark.parametrize("text", ["", "3", "0h", "-1h", "h", "1w"])
def test_what_is_no_length(text: str) -> None:
    with pytest.raises(InputError, match="--for"):
        parse_length(text, "--for")


@pytest.mark.parametrize("text", ["", "25:00", "soon", "2026-13-01", "+x", "1-1"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(InputError, match="--from"):
        coming(text, "--from", 0.0)


def test_the_past_and_how_it_is_written() -> None:
    now_s = at("2026-11-25 16:30")
    assert past("24h", "--since", now_s) == now_s - 86_400.0
    assert past("2026-11-01", "--since", now_s) == at("2026-11-01 00:00")
    assert past("99999d", "--since", now_s) == 0.0
    assert stamp(now_s) == "2026-11-25 16:30:00"
    assert stamp(1e24) == stamp(math.inf) == "a time after the last year of the calendar"
    with pytest.raises(InputError, match="--since"):
        past("lately", "--since", now_s)
