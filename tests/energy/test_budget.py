"""Windows of budgets in local time, how they stand, and when somebody is told."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.energy.budget import Budget, BudgetWindow, Standing, warnings_due, window_at, windows
from powerflow.errors import InputError

HOUR = 3600.0
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns"]


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("zone", "moment", "start", "hours"),
    [
        ("Europe/Berlin", "2026-03-29T12:00Z", "2026-03-28T23:00Z", 23),
        ("Europe/Berlin", "2026-10-25T12:00Z", "2026-10-24T22:00Z", 25),
        ("Europe/Berlin", "2026-03-30T12:00Z", "2026-03-29T22:00Z", 24),
        ("America/New_York", "2026-03-08T12:00Z", "2026-03-08T05:00Z", 23),
        ("America/New_York", "2026-11-01T12:00Z", "2026-11-01T04:00Z", 25),
        ("Asia/Kolkata", "2026-03-29T12:00Z", "2026-03-28T18:30Z", 24),
        ("Australia/Lord_Howe", "2026-10-04T00:00Z", "2026-10-03T13:30Z", 23.5),
        ("Australia/Lord_Howe", "2026-04-05T00:00Z", "2026-04-04T13:00Z", 24.5),
        # clocks skip midnight itself: the day begins at 01:00
        ("America/Havana", "2024-03-10T12:00Z", "2024-03-10T05:00Z", 23),
        # midnight comes twice: the day begins at the first
        ("America/Havana", "2024-11-03T12:00Z", "2024-11-03T04:00Z", 25),
    ],
)
def test_days_begin_at_local_midnight_and_last_as_long_as_they_do(
    zone: str, moment: str, start: str, hours: float
) -> None:
    window = window_at(Budget(1.0, "day", zone), at(moment))
    assert (window.start_s, window.length_s) == (at(start), hours * HOUR)


@pytest.mark.parametrize(
    ("month", "hours"), [("2026-02", 28 * 24), ("2028-02", 29 * 24), ("2026-03", 31 * 24 - 1), ("2026-10", 31 * 24 + 1)]
)
def test_months_have_their_days_and_their_changes_of_clocks(month: str, hours: float) -> None:
    window = window_at(Budget(1.0, "month", "Europe/Berlin"), at(f"{month}-15T00:00Z"))
    assert (window.length_s, window.name) == (hours * HOUR, month)


def test_a_day_that_never_was_is_no_window() -> None:
    # Samoa went from the 29th to the 31st of December 2011
    budget = Budget(1.0, "day", "Pacific/Apia")
    names = [window.name for window in windows(budget, at("2011-12-29T12:00Z"), at("2012-01-01T12:00Z"))]
    assert names == ["2011-12-29", "2011-12-31", "2012-01-01", "2012-01-02"]


@given(
    st.sampled_from(ZONES),
    st.sampled_from(["day", "month"]),
    st.integers(int(at("2020-01-01T00:00Z")), int(at("2035-01-01T00:00Z"))),
)
@settings(max_examples=60, deadline=None)
def test_windows_leave_no_gap_and_do_not_overlap(zone: str, period: str, now_s: int) -> None:
    budget = Budget(1.0, period, zone)  # type: ignore[arg-type]
    found = list(windows(budget, now_s, now_s + 90 * 24 * HOUR))
    assert found[0].start_s <= now_s < found[0].end_s
    assert found[-1].end_s >= now_s + 90 * 24 * HOUR
    for before, after in pairwise(found):
        assert before.end_s == after.start_s
        assert before.name < after.name
    for window in found:
        assert window_at(budget, window.start_s) == window_at(budget, window.end_s - 1) == window


@pytest.mark.parametrize("amount", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_amount_is_refused(amount: float) -> None:
    with pytest.raises(InputError, match="is not a valid budget"):
        Budget(amount, "day")


def test_what_is_no_period_or_zone_is_refused() -> None:
    with pytest.raises(InputError, match="unknown period 'week'"):
        Budget(1.0, "week")  # type: ignore[arg-type]
    for zone in ("Mars/Olympus", "../etc/passwd", ""):
        with pytest.raises(InputError, match="unknown time zone"):
            Budget(1.0, "day", zone)


def test_warnings_come_once_each_and_say_what_matters() -> None:
    budget = Budget(100 * 3.6e6, "day", "UTC", "vision")
    window = window_at(budget, at("2026-11-23T18:00Z"))
    standing = Standing(window, budget.amount_j, 91 * 3.6e6, 101 * 3.6e6)
    due = warnings_due(budget, at("2026-11-23T18:00Z"), standing, frozenset({0.85}))
    assert [warned.at for warned in due] == [0.90]
    assert str(due[0]) == (
        "budget of project vision for 2026-11-23: 91.0% used (91 kWh of 100 kWh) with 6.0 h to go;"
        " 101 kWh expected at the end"
    )
    assert warnings_due(budget, window.end_s, standing, {0.85, 0.9}) == []


def test_a_standing_knows_what_is_left() -> None:
    window = BudgetWindow(0.0, 86400.0, "x")
    within, beyond = Standing(window, 100.0, 60.0, 90.0), Standing(window, 100.0, 104.0, 110.0)
    assert (within.share, beyond.share) == (0.6, 1.04)
