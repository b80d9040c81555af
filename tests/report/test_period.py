"""The report of a period: where a period begins and ends, and that all its sums are those of hourly records."""

from __future__ import annotations

import math
import string
from collections.abc import Iterator
from datetime import date, datetime, timedelta, tzinfo
from itertools import count
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from powerflow.api.accounts import Accounts
from powerflow.api.job_spec import JobSpec
from powerflow.api.predictions import PredictionsRecord
from powerflow.energy.signal import constant
from powerflow.report.period import ReportPeriod, report_period
from powerflow.report.period_report import PeriodReport, period_report
from powerflow.report.period_words import texts
from powerflow.store.accounting import priced
from powerflow.store.models import Charge
from powerflow.store.store import Store

BERLIN, KOLKATA, UTC = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata"), ZoneInfo("UTC")
LATE_S = datetime(2027, 6, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "zone", "since", "until", "hours"),
    [
        ("2026-11", BERLIN, "2026-11-01T00:00+01:00", "2026-12-01T00:00+01:00", 30 * 24),
        ("2026-12", UTC, "2026-12-01T00:00+00:00", "2027-01-01T00:00+00:00", 31 * 24),
        ("2026-W48", BERLIN, "2026-11-23T00:00+01:00", "2026-11-30T00:00+01:00", 7 * 24),
        ("2026-W53", UTC, "2026-12-28T00:00+00:00", "2027-01-04T00:00+00:00", 7 * 24),
        ("2026-11-20..2026-11-27", UTC, "2026-11-20T00:00+00:00", "2026-11-28T00:00+00:00", 8 * 24),
        ("2026-10-25", BERLIN, "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00", 25),  # clocks go back
    ],
)
def test_a_period_goes_from_midnight_to_midnight(text: str, zone: tzinfo, since: str, until: str, hours: int) -> None:
    found = report_period(text, zone, LATE_S)
    assert [found.moment(at_s).isoformat(timespec="minutes") for at_s in (found.since_s, found.until_s)] == [
        since,
        until,
    ]
    assert (found.until_s - found.since_s) / 3600.0 == hours
    assert found.over
    assert not found.split_hours


def test_a_period_that_is_not_over_ends_now_and_one_off_the_hour_says_so() -> None:
    now_s = datetime(2026, 11, 28, 12, 30, tzinfo=UTC).timestamp()
    found = report_period("2026-11", UTC, now_s)
    assert (found.until_s, found.over, found.split_hours) == (now_s, False, False)
    assert report_period("2026-11", KOLKATA, LATE_S).split_hours


def reported(store: Store, period: ReportPeriod, project: str | None = None) -> PeriodReport:
    items, notes = store.charges.accounts(period.since_s, period.until_s, "job"), ()
    hours = store.charges.hourly(period.since_s, period.until_s, "job")
    with_costs, _ = priced(items, hours, [constant("tariff", 0.2, "EUR"), constant("carbon", 400.0)])
    accounts = Accounts(period.since_s, period.until_s, "job", with_costs, notes, "EUR")
    nothing = PredictionsRecord(0.0, 1.0, 0, 0, 0.0, 0.0, 0, None, None, 0, 0.0, 0.0, 0.0, 0.0)
    return period_report(period, accounts, project=project, emulated=False, predictions=nothing, simulated=None)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Four jobs of two users, in two projects and in none; each example charges them at another time."""
    made = Store(f"sqlite:///{tmp_path_factory.mktemp('period') / 'store.db'}")
    for number in range(4):
        project = ("vision", "", "text", "vision")[number]
        made.submit(JobSpec(run="true", project=project), ("ada", "bob")[number % 2], 0.0)
    yield made
    made.close()


MONTH = count()
CHARGE = st.tuples(
    st.integers(0, 4),  # the job; 0: idle GPUs
    st.floats(-50.0, 130.0),  # hours since the middle day began
    st.floats(0.1, 40.0),  # its length in hours
    st.floats(1.0, 1e6),
)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(CHARGE, min_size=1, max_size=8))
def test_jobs_projects_users_and_days_add_up(store: Store, charged: list[tuple[int, float, float, float]]) -> None:
    """The jobs of three days are those of each day; groups are those of `acct`; cost and CO2 follow the joules."""
    day = date(2000, 1, 10) + timedelta(days=30 * next(MONTH))
    start_s = datetime(day.year, day.month, day.day, tzinfo=BERLIN).timestamp()
    store.charges.add(
        [
            Charge(start_s + 3600 * at, start_s + 3600 * (at + length), "g", str(job) if job else None, used_j, length)
            for job, at, length, used_j in charged
        ]
    )
    before, after = (day + timedelta(days=by) for by in (-1, 1))
    whole = reported(store, report_period(f"{before}..{after}", BERLIN, LATE_S))
    days = [reported(store, report_period(str(each), BERLIN, LATE_S)) for each in (before, day, after)]
    by_project = store.charges.accounts(whole.period.since_s, whole.period.until_s, "project")
    assert whole.idle is not None
    assert whole.total.energy_j == pytest.approx(sum(day.total.energy_j or 0.0 for day in days))
    for lines in (whole.projects, whole.users, [whole.line_of(job) for job in whole.jobs]):
        for key in ("gpu_s", "energy_j", "cost", "co2_g"):
            values = [getattr(line, key) or 0.0 for line in (*lines, whole.idle)]
            assert math.fsum(values) == pytest.approx(getattr(whole.total, key) or 0.0)
    assert {line.name: line.jobs for line in whole.projects} == {at.name: at.jobs for at in by_project[:-2]}
    joules = {line.name: line.energy_j for line in whole.projects}
    assert joules == pytest.approx({at.name: at.energy_j for at in by_project[:-2]})
    assert (whole.total.cost or 0.0) * 3.6e6 == pytest.approx(0.2 * (whole.total.energy_j or 0.0))


def test_every_text_is_there_in_both_languages_with_the_same_fields() -> None:
    def fields(words: str) -> set[str | None]:
        return {name for _, name, _, _ in string.Formatter().parse(words) if name is not None}

    for key, (english, japanese) in texts().items():
        assert fields(english) == fields(japanese), key
        assert japanese, key
