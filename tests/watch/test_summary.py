"""Sums over jobs, users and hours; what is idle, what could run slower, what is not known."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from powerflow.energy.signal import Signal, constant
from powerflow.units import J_PER_KWH
from powerflow.watch.clock_room import clock_room
from powerflow.watch.grouping import GroupBy
from powerflow.watch.ledger import JobRow
from powerflow.watch.months import months, year_of_months
from powerflow.watch.owners import WatchedJob
from powerflow.watch.summary import SignalRates, summarise
from powerflow.watch.use import JobUse
from powerflow.watch.watcher import HourUse, NodeHour

HOUR = 3600.0


def row(key: str, hours: dict[int, float], *, user: str = "ada", gpus: int = 2, **use: object) -> JobRow:
    """A job that ran in these hours of the epoch, on two GPUs, from the begin of the first to the end of the last."""
    start, end = min(hours) * HOUR, (max(hours) + 1) * HOUR
    total = sum(hours.values())
    values: dict[str, Any] = {
        "energy_j": total,
        "low_j": 0.9 * total,
        "high_j": 1.2 * total,
        "gpu_s": gpus * (end - start),
        "judged_s": gpus * (end - start),
        "hours": hours,
        "from_s": start,
        **use,
    }
    job = WatchedJob(f"slurm:{key}", key, start, end, name=f"n{key}", user=user, account="a", partition="gpu")
    return JobRow(job, JobUse(**values), gpus)


def test_users_are_summed_and_the_one_with_the_most_energy_is_first() -> None:
    rows = [row("1", {10: 1e6}), row("2", {10: 5e6}, user="bob"), row("3", {11: 2e6})]
    found = summarise(
        rows,
        {
            NodeHour("n1", 10): HourUse(4e5, 3.9e5, 4.2e5, 3600.0),
            NodeHour("n1", 10, False): HourUse(7.0, 7.0, 7.0, 9.0),
        },
        10 * HOUR,
        12 * HOUR,
        GroupBy.USER,
    )
    assert [(line.name, line.jobs, line.energy_j) for line in found.lines] == [("bob", 1, 5e6), ("ada", 2, 3e6)]
    assert (found.total.energy_j, found.total.held_s) == (8e6, 6 * HOUR)
    assert (found.nobody.energy_j, found.nobody.low_j, found.unknown.energy_j) == (4e5, 3.9e5, 7.0)
    assert [line.name for line in found.dearest] == ["2", "3", "1"]
    assert found.lines[0].low_j == pytest.approx(4.5e6)


def test_of_a_job_that_lies_partly_outside_its_hours_inside_count() -> None:
    found = summarise([row("1", {9: 1e6, 10: 3e6, 11: 2e6})], {}, 10 * HOUR, 11.5 * HOUR, GroupBy.JOB)
    (line,) = found.lines
    assert line.energy_j == pytest.approx(3e6 + 1e6)
    assert line.held_s == pytest.approx(2 * 1.5 * HOUR)
    assert line.measured_s == pytest.approx(2 * 1.5 * HOUR)
    assert line.judged_s == 0.0  # whether it was idle in this part is not known
    assert any("1 jobs lie partly outside" in note for note in found.notes)


def test_money_follows_the_tariff_hour_by_hour() -> None:
    tariff = Signal("tariff", "test", np.array([10 * HOUR, 11 * HOUR]), np.array([0.1, 0.5]), 9.0, HOUR, "EUR")
    rates = SignalRates(tariff, constant("carbon", 400.0))
    found = summarise(
        [row("1", {10: J_PER_KWH, 11: 2 * J_PER_KWH}, idle_j=1.5 * J_PER_KWH, idle_s=HOUR)],
        {},
        0,
        1e9,
        GroupBy.JOB,
        rates,
    )
    (line,) = found.lines
    assert line.money == pytest.approx(0.1 + 1.0)
    assert line.idle_money == pytest.approx(0.55)
    assert line.co2_g == pytest.approx(1200.0)
    assert found.currency == "EUR"


def test_what_is_not_known_is_said() -> None:
    unread = JobRow(WatchedJob("slurm:9", "9", 10 * HOUR, 11 * HOUR), JobUse(), 1)
    early = row("1", {10: 1e6}, from_s=10 * HOUR + 600.0, judged_s=0.0)
    found = summarise([unread, early], {}, 10 * HOUR, 11 * HOUR, GroupBy.USER)
    assert any("1 of 2 jobs have no readings" in note for note in found.notes)
    assert any("1 jobs ran before they were watched" in note for note in found.notes)
    assert any("held idle is not known" in note for note in found.notes)
    assert any("DCGM_FI_PROF_SM_ACTIVE" in note for note in found.notes)


def active(sm: float, memory: float = math.nan, power_w: float = 300.0) -> JobUse:
    memory_active = (0.0, 0.0) if math.isnan(memory) else (memory * 3600.0, 3600.0)
    return JobUse(
        power_w * 3600.0,
        gpu_s=3600.0,
        clock=(1400.0 * 3600.0, 3600.0),
        sm_active=(sm * 3600.0, 3600.0),
        memory_active=memory_active,
    )


def test_a_job_that_waits_for_its_input_could_run_at_a_lower_clock() -> None:
    """At most 0.2 of its time scales with the clock: at 0.8 of it the job takes at most 0.2 · 0.25 longer."""
    room = clock_room(active(0.2, 0.1), 60.0)
    assert room is not None
    assert room.bound_by == "input"
    assert room.lower_mhz == pytest.approx(1120.0)
    assert [*room.longer] == pytest.approx([0.075 * 0.25, 0.05])
    # 60 W stay; 240 W fall to 0.8 or 0.512 of it
    assert room.saves[0] == pytest.approx(1 - (60 + 240 * 0.8) / 300 * 1.05)
    assert room.saves[1] == pytest.approx(1 - (60 + 240 * 0.512) / 300 * (1 + 0.075 * 0.25))


def test_a_job_bound_by_memory_is_named_with_its_whole_doubt() -> None:
    room = clock_room(active(0.6, 0.75), 60.0)
    assert room is not None
    assert room.bound_by == "memory"
    assert room.longer[0] == 0.0
    assert room.longer[1] == pytest.approx(0.6 * 0.25)
    assert clock_room(active(0.9, 0.75), 60.0) is None  # it could draw more, if the memory is not what holds it up


@pytest.mark.parametrize("use", [active(0.9, 0.3), active(0.9), active(math.nan), JobUse()])
def test_a_job_that_computes_or_of_which_too_little_is_known_is_not_named(use: JobUse) -> None:
    assert clock_room(use, 60.0) is None


@pytest.fixture
def in_kolkata(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put this machine 5 h 30 min before UTC, so that months begin in the middle of an hour of the epoch."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_kolkata")
def test_a_job_across_the_border_of_a_month_is_cut_by_its_hours() -> None:
    """November begins at 18:30 UTC: half of the joules of that hour are October's, as half of its time is."""
    border_s = datetime(2026, 11, 1).timestamp()
    hour = int(border_s // HOUR)
    assert border_s == (hour + 0.5) * HOUR
    across = row("1", {hour - 1: 1e6, hour: 4e6, hour + 1: 2e6}, idle_s=100.0)
    before, after = row("2", {hour - 30: 3e6}), row("3", {hour + 30: 5e6})
    found = summarise([after, across, before], {}, border_s - 40 * HOUR, border_s + 50 * HOUR, GroupBy.MONTH)
    assert [(line.name, line.jobs) for line in found.lines] == [("2026-10", 2), ("2026-11", 2)]
    assert [line.energy_j for line in found.lines] == pytest.approx([3e6 + 1e6 + 2e6, 2e6 + 2e6 + 5e6])
    assert [line.held_s for line in found.lines] == [2 * 2.5 * HOUR, 2 * 2.5 * HOUR]
    assert [line.judged_s for line in found.lines] == [2 * HOUR, 2 * HOUR]  # not known of the one that was cut
    assert found.total.jobs == 3
    assert any("across the border of a month" in note for note in found.notes)
    assert "2026-10 counts from 2026-10-30 08:00 on" in found.notes
    assert "2026-11 counts up to 2026-11-03 02:00" in found.notes


@pytest.mark.parametrize("end", [-HOUR, 0.0, 1.0, 90.0, 40 * 86400.0])
def test_months_add_up_to_the_whole_also_with_energy_that_readings_brought_late(end: float) -> None:
    """A job that ended at midnight has some joules in the hour after its end, if readings are late."""
    border_s = datetime(2026, 11, 1).timestamp()
    hour = int(border_s // HOUR)
    last = int((border_s + end) // HOUR)
    hours = {each: 1e6 + each for each in range(hour - 3, last + 1)}
    job = WatchedJob("slurm:1", "1", (hour - 3) * HOUR, border_s + end)
    use = JobUse(sum(hours.values()), gpu_s=1.0, hours=hours, from_s=job.start_s)
    found = summarise([JobRow(job, use, 1)], {}, border_s - 80 * 86400, border_s + 80 * 86400, GroupBy.MONTH)
    assert sum(line.energy_j for line in found.lines) == pytest.approx(use.energy_j, rel=1e-12)
    assert found.total.energy_j == pytest.approx(use.energy_j, rel=1e-12)


def test_months_are_those_of_the_calendar() -> None:
    at = datetime(2026, 11, 28, 12).timestamp()
    assert year_of_months(at) == datetime(2025, 12, 1).timestamp()
    found = months(datetime(2026, 11, 1).timestamp(), datetime(2027, 2, 1).timestamp())
    assert [(each.name, each.begins, each.ends) for each in found] == [
        (name, True, True) for name in ("2026-11", "2026-12", "2027-01")
    ]
    assert months(at, at) == []
