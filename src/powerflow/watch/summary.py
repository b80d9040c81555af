"""Sum up what was watched: energy, money and CO2 of jobs, users, accounts, partitions or months, and GPUs held idle."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from powerflow.energy.signal import Signal
from powerflow.units import HOUR_S, J_PER_KWH
from powerflow.watch.clock_room import ClockRoom, clock_room
from powerflow.watch.grouping import GroupBy
from powerflow.watch.ledger import JobRow
from powerflow.watch.months import Month, months
from powerflow.watch.owners import WatchedJob
from powerflow.watch.watcher import SETTLE_S, STEP_S, HourUse, NodeHour

#: From this share of its time on, a job counts as one that lies wholly in the window.
_WHOLE = 0.99
#: The energy of a job is there this long after its start at the latest: after `SETTLE_S` and two steps, seconds.
_SETTLED_S = SETTLE_S + 2 * STEP_S
#: Number of jobs in the lists of those that cost most, and of those whose clock could go down as tables show it.
DEAREST = 10


@dataclass(frozen=True, slots=True)
class SignalRates:
    """What a kilowatt-hour costs and emits over time; None leaves it out."""

    tariff: Signal | None = None
    carbon: Signal | None = None


@dataclass(slots=True)
class UseLine:
    """What one job, or all jobs of a user, account, partition or month, have used in a time window.

    Attributes:
        name: Its name; "" for a job without this piece of information.
        jobs: Number of jobs; a job that ran in two months counts in both.
        held_s: GPU-seconds that they held.
        measured_s: GPU-seconds of these for which there are readings.
        energy_j, low_j, high_j: Energy of the measured time, and its bounds, joules.
        idle_s, idle_j: GPU-seconds held idle (for 10 minutes and more), and their energy.
        judged_s: GPU-seconds of which it is known whether they were idle.
        money, idle_money: Cost of the energy, and of the idle part; None without a tariff.
        co2_g: Emissions, grams; None without a carbon intensity.
        user, label: Of a job: its user, and the name that its user gave it.
        job: The job, if the line is one.
    """

    name: str
    jobs: int = 0
    held_s: float = 0.0
    measured_s: float = 0.0
    energy_j: float = 0.0
    low_j: float = 0.0
    high_j: float = 0.0
    idle_s: float = 0.0
    idle_j: float = 0.0
    judged_s: float = 0.0
    money: float | None = None
    idle_money: float | None = None
    co2_g: float | None = None
    user: str = ""
    label: str = ""
    job: WatchedJob | None = None

    @property
    def partly(self) -> bool:
        """True if there are readings for a part of the held time only."""
        return 0 < self.measured_s < 0.95 * self.held_s

    def add(self, other: UseLine) -> None:
        """Add another line to this one."""
        for name in ("jobs", "held_s", "measured_s", "energy_j", "low_j", "high_j", "idle_s", "idle_j", "judged_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("money", "idle_money", "co2_g"):
            mine, more = getattr(self, name), getattr(other, name)
            setattr(self, name, more if mine is None else mine if more is None else mine + more)


@dataclass(frozen=True, slots=True)
class JobRoom:
    """A job whose clock could go down at little loss; its words are "" where they are not known."""

    id: str
    name: str
    user: str
    account: str
    partition: str
    energy_j: float
    room: ClockRoom


@dataclass(frozen=True, slots=True)
class WatchSummary:
    """What was watched in a time window.

    Attributes:
        since_s, until_s: The window, Unix seconds.
        by: What a line is.
        lines: The lines, the one with the most energy first; months in order of time.
        total: Sum of all jobs.
        nobody: GPUs that nobody held.
        unknown: GPUs of which it is not known who held them.
        dearest: The jobs with the most energy.
        rooms: Jobs whose clock could go down at little loss, the one with the most energy first.
        currency: Currency of the money; "" if it is not known.
        emulated: True if some of the GPUs are emulated.
        notes: What the numbers leave out.
    """

    since_s: float
    until_s: float
    by: GroupBy
    lines: Sequence[UseLine]
    total: UseLine
    nobody: UseLine
    unknown: UseLine
    dearest: Sequence[UseLine]
    rooms: Sequence[JobRoom]
    currency: str = ""
    emulated: bool = False
    notes: Sequence[str] = field(default=())


def summarise(
    rows: Iterable[JobRow],
    others: Mapping[NodeHour, HourUse],
    since_s: float,
    until_s: float,
    by: GroupBy,
    rates: SignalRates = SignalRates(),  # frozen
    idle_w: float = math.nan,
    *,
    known_until_s: float = math.inf,
    emulated: bool = False,
) -> WatchSummary:
    """Sum up the jobs of a time window.

    The energy of a job that lies partly outside is taken hour by hour, and so is that of a job in several months; of an
    hour that a border cuts, by time.

    Args:
        rows: The jobs that ran in the window.
        others: What GPUs drew that no job had, by node and hour.
        since_s, until_s: The window, Unix seconds.
        by: What a line is.
        rates: What a kilowatt-hour costs and emits.
        idle_w: Idle power of one GPU, watts; nan if it is not known.
        known_until_s: Up to this moment it was watched, Unix seconds: the last hour is no longer than that.
        emulated: True if some of the GPUs are emulated.
    """
    jobs = [(row, _job_line(row, since_s, until_s, known_until_s, rates)) for row in rows]
    jobs = [(row, line) for row, line in jobs if line.held_s > 0 or line.energy_j > 0]
    lines: dict[str, UseLine] = {}
    total = UseLine("all jobs")
    for row, line in jobs:
        total.add(line)
        if by is GroupBy.JOB:
            lines[row.job.key] = line
        elif by is not GroupBy.MONTH:
            name = getattr(row.job, by.value)
            lines.setdefault(name, UseLine(name)).add(line)
    calendar = months(since_s, min(until_s, known_until_s)) if by is GroupBy.MONTH else []
    for row, _ in jobs if calendar else ():
        for month in filter(partial(_touches, row), calendar):
            part = _job_line(row, month.since_s, month.until_s, known_until_s, rates)
            if part.held_s > 0 or part.energy_j > 0:
                lines.setdefault(month.name, UseLine(month.name)).add(part)
    nobody, unknown = UseLine("nobody"), UseLine("not known")
    for (_, hour, known), use in others.items():
        inside = _overlap(hour, since_s, until_s, end_s=known_until_s)
        if inside:
            part = UseLine("", held_s=use.gpu_s * inside, measured_s=use.gpu_s * inside, energy_j=use.energy_j * inside)
            part.low_j, part.high_j = use.low_j * inside, use.high_j * inside
            (nobody if known else unknown).add(_priced(part, {hour: part.energy_j}, rates))
    rooms = [
        JobRoom(row.job.id, row.job.name, row.job.user, row.job.account, row.job.partition, line.energy_j, room)
        for row, line in jobs
        if (room := clock_room(row.use, idle_w)) is not None
    ]
    return WatchSummary(
        since_s,
        until_s,
        by,
        sorted(lines.values(), key=(lambda line: line.name) if calendar else _most),
        total,
        nobody,
        unknown,
        sorted((line for _, line in jobs), key=_most)[:DEAREST],
        sorted(rooms, key=lambda each: -each.energy_j),
        rates.tariff.currency if rates.tariff else "",
        emulated,
        [*_month_notes(calendar, lines, total), *_notes(jobs, total, known_until_s)],
    )


def _touches(row: JobRow, month: Month) -> bool:
    """Return False if neither the job's time nor an hour of its energy lies in a month."""
    end_s = math.inf if row.job.end_s is None else max(row.job.end_s, (max(row.use.hours, default=0) + 1) * HOUR_S)
    return row.job.start_s - HOUR_S < month.until_s and month.since_s < end_s


def _month_notes(calendar: Sequence[Month], lines: Mapping[str, UseLine], total: UseLine) -> list[str]:
    """Return notes on months of which only a part lies in the window, and on jobs across the border of two months."""
    notes = []
    across = sum(lines[month.name].jobs for month in calendar if month.name in lines) - total.jobs
    if across > 0:
        notes.append(
            "a job that runs across the border of a month counts in both, by its energy of each hour; whether it was"
            " idle in each of them is not known"
        )
    if calendar and not calendar[0].begins:
        notes.append(f"{calendar[0].name} counts from {_minute(calendar[0].since_s)} on")
    if calendar and not calendar[-1].ends:
        notes.append(f"{calendar[-1].name} counts up to {_minute(calendar[-1].until_s)}")
    return notes


def _minute(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s):%Y-%m-%d %H:%M}"


def _most(line: UseLine) -> tuple[float, str]:
    return -line.energy_j, line.name


def _job_line(row: JobRow, since_s: float, until_s: float, known_until_s: float, rates: SignalRates) -> UseLine:
    job, use = row.job, row.use
    end_s = min(until_s, known_until_s) if job.end_s is None else job.end_s
    begin_s = job.start_s if math.isinf(use.from_s) else max(job.start_s, use.from_s)  # the first reading of it
    held_s = max(min(end_s, until_s) - max(job.start_s, since_s), 0.0) * row.gpus
    hours = {hour: joules * _overlap(hour, since_s, until_s, begin_s, end_s) for hour, joules in use.hours.items()}
    inside_j = sum(hours.values())
    share = inside_j / use.energy_j if use.energy_j > 0 else 0.0
    watched_s = max(end_s - begin_s, 0.0)
    inside_s = max(min(end_s, until_s) - max(begin_s, since_s), 0.0)
    time_share = inside_s / watched_s if watched_s > 0 else 0.0
    line = UseLine(job.id, 1, held_s, use.gpu_s * time_share, user=job.user, label=job.name, job=job)
    for name in ("energy_j", "low_j", "high_j"):
        setattr(line, name, getattr(use, name) * share)
    if time_share > _WHOLE:  # it is not kept when a GPU was idle, so nothing is said of a part of the time
        for name in ("idle_s", "idle_j", "judged_s"):
            setattr(line, name, getattr(use, name))
    return _priced(line, hours, rates)


def _overlap(hour: int, since_s: float, until_s: float, start_s: float = -math.inf, end_s: float = math.inf) -> float:
    """Return the part of an hour's energy that lies in a window; a job draws only while it runs."""
    begin, end = max(hour * HOUR_S, start_s), min((hour + 1) * HOUR_S, end_s)
    if end <= begin:  # readings that are late put a little into the next hour
        return 1.0 if since_s <= hour * HOUR_S < until_s else 0.0
    return max(min(end, until_s) - max(begin, since_s), 0.0) / (end - begin)


def _priced(line: UseLine, hours: Mapping[int, float], rates: SignalRates) -> UseLine:
    """Return a line with what the energy of its hours costs and emits."""
    if rates.tariff is not None:
        line.money = _over(hours, rates.tariff)
        line.idle_money = line.money * (line.idle_j / line.energy_j if line.energy_j > 0 else 0.0)
    if rates.carbon is not None:
        line.co2_g = _over(hours, rates.carbon)
    return line


def _over(hours: Mapping[int, float], signal: Signal) -> float:
    return sum(
        joules / J_PER_KWH * signal.mean(hour * HOUR_S, (hour + 1) * HOUR_S) for hour, joules in hours.items() if joules
    )


def _notes(jobs: Sequence[tuple[JobRow, UseLine]], total: UseLine, known_until_s: float) -> list[str]:
    notes, rows = [], [row for row, _ in jobs]
    cut = sum(line.measured_s > 0 and line.judged_s <= 0 < row.use.judged_s for row, line in jobs)
    if cut:
        notes.append(f"{cut} jobs lie partly outside of this time: whether they were idle inside is not known")
    fresh = [row.use.gpu_s <= 0 and row.job.start_s > known_until_s - _SETTLED_S for row in rows]
    if any(fresh):
        notes.append(f"{sum(fresh)} jobs began only just: their energy comes about four minutes after their start")
    unknown = sum(row.use.gpu_s <= 0 for row in rows) - sum(fresh)
    if unknown:
        notes.append(
            f"{unknown} of {len(rows)} jobs have no readings: their energy is not known, and is not in these sums"
        )
    early = sum(row.use.gpu_s > 0 and row.use.from_s - row.job.start_s > 60.0 for row in rows)
    if early:
        notes.append(f"{early} jobs ran before they were watched: only what they drew since then is known")
    if total.measured_s > 0 and total.judged_s < 0.5 * total.measured_s:
        notes.append("whether GPUs were held idle is not known for most of the time: their utilisation is not reported")
    if rows and not any(row.use.sm_active[1] for row in rows):
        notes.append(
            "which clocks could go down is not known: the activity of the multiprocessors is not reported"
            " (dcgm-exporter does: DCGM_FI_PROF_SM_ACTIVE)"
        )
    return notes
