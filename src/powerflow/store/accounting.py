"""Sum energy and GPU time by hour and job, and compute the accounts of users, projects and jobs from these sums.

A charge is the joules and GPU-seconds of one GPU over a time span. Only sums per hour and job are stored, so that a
year of a thousand GPUs needs little space. Idle GPUs are charged to job number 0, which is not a real job.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Update, bindparam, case, func, select, update

from powerflow.api.accounts import Account
from powerflow.api.records import JobState
from powerflow.energy.signal import Signal
from powerflow.errors import InputError
from powerflow.store import mappers
from powerflow.store.database import Database
from powerflow.store.mappers import number
from powerflow.store.models import Charge
from powerflow.store.schema import charges, jobs
from powerflow.store.statements import put_setting, states_of
from powerflow.units import HOUR_S, J_PER_KWH, prose

#: Name of an account (None: idle GPUs), hour since 1970, joules.
Hour = tuple[str | None, int, float]

_NOBODY = 0


def hourly(rows: Sequence[Charge]) -> list[dict[str, Any]]:
    """Return rows of the table ``charges``: the joules and GPU-seconds that charges add to each hour and job.

    A charge over several hours is split by time. If the machine's clock was set back during a charge, so that it ends
    before it begins, all of it belongs to the hour of its end.

    Raises:
        ValueError: A charge contains a number that is not finite.
    """
    sums: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in rows:
        if not all(map(math.isfinite, (row.start_s, row.end_s, row.energy_j, row.gpu_s))):
            raise ValueError(f"cannot charge {row}")
        payer = _NOBODY if row.job_id is None else number(row.job_id)
        for hour, share in _shares(min(row.start_s, row.end_s), row.end_s):
            sums[payer, hour][0] += row.energy_j * share
            sums[payer, hour][1] += row.gpu_s * share
    return [
        {"job_id": payer, "hour": hour, "energy_j": joules, "gpu_s": gpu_s}
        for (payer, hour), (joules, gpu_s) in sums.items()
    ]


def _shares(start_s: float, end_s: float) -> Iterator[tuple[int, float]]:
    """Yield each hour that a span of time touches, and the share of the span in that hour; the shares sum to 1."""
    first, last = int(start_s // HOUR_S), int(end_s // HOUR_S)
    if first == last:
        yield first, 1.0
        return
    for hour in range(first, last + 1):
        inside_s = min(end_s, (hour + 1) * HOUR_S) - max(start_s, hour * HOUR_S)
        if inside_s > 0:
            yield hour, inside_s / (end_s - start_s)


class Charges:
    """Energy and GPU time charged to jobs, in one store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, rows: Sequence[Charge], put: Mapping[str, Any] | None = None) -> None:
        """Add joules and GPU-seconds to the hours in which they were used, and to the totals of their jobs.

        Args:
            rows: The charges. A charge over several hours is split by time.
            put: Settings to store in the same transaction, by key. Store the state of the energy meter here; then each
                joule is charged exactly once.

        Raises:
            NotFound: A charge names a job that does not exist.
        """
        if not rows:
            return
        statement = self._database.upsert(charges, ("job_id", "hour"), ("energy_j", "gpu_s"), add=True)
        hours = hourly(rows)
        with self._database.write_claimed() as connection:
            states_of(connection, (row.job_id for row in rows if row.job_id is not None))
            connection.execute(statement, hours)
            added = [
                {"number": number(row.job_id), "more_energy_j": row.energy_j, "more_gpu_s": row.gpu_s}
                for row in rows
                if row.job_id is not None
            ]
            if added:
                connection.execute(_more_of_jobs(), added)
            for key, value in (put or {}).items():
                put_setting(self._database, connection, key, value)

    def accounts(self, since_s: float, until_s: float, by: str) -> list[Account]:
        """Return the accounts of a time window, most joules first, and after them ``idle`` and ``total``.

        The window is widened to whole hours. An account's ``jobs`` is the number of jobs with charges in the window.
        Its ``mean_jct_s`` is the mean completion time of those of them that have completed. Accounts of jobs have the
        jobs' names, users, projects, states and times.

        Args:
            since_s, until_s: The window, in Unix seconds.
            by: Group of each account: ``user``, ``project`` ("" has the jobs without a project) or ``job``.

        Raises:
            InputError: ``by`` is not one of these three words.
        """
        if by not in ("user", "project", "job"):
            raise InputError(f"cannot account by {by!r}", fix="give user, project or job")
        name, inside = _name(by), _inside(since_s, until_s)
        joules, gpu_s = func.sum(charges.c.energy_j), func.sum(charges.c.gpu_s)
        spent = select(charges.c.job_id, joules.label("energy_j"), gpu_s.label("gpu_s")).where(inside)
        of_job = spent.group_by(charges.c.job_id).subquery()
        jct_s = case((jobs.c.state == JobState.COMPLETED.value, jobs.c.ended_s - jobs.c.submitted_s))
        sums = (func.count(), func.sum(of_job.c.gpu_s), func.sum(of_job.c.energy_j), func.sum(jct_s), func.count(jct_s))
        query = select(name, *sums).join_from(of_job, jobs, of_job.c.job_id == jobs.c.id).group_by(name).order_by(name)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            of_jobs = _names(connection, inside) if by == "job" else {}
            idle_row = connection.execute(select(gpu_s, joules).where(inside, charges.c.job_id == _NOBODY)).one()
        named = [
            Account(
                str(name), count, used_s, used_j, jct_sum_s / ended if ended else None, **of_jobs.get(str(name), {})
            )
            for name, count, used_s, used_j, jct_sum_s, ended in rows
        ]
        named.sort(key=lambda account: -account.energy_j)
        idle = Account("idle", 0, idle_row[0] or 0.0, idle_row[1] or 0.0, None)
        ended = sum(row[5] for row in rows)
        total = Account(
            "total",
            sum(account.jobs for account in named),
            math.fsum(account.gpu_s for account in (*named, idle)),
            math.fsum(account.energy_j for account in (*named, idle)),
            math.fsum(row[4] for row in rows if row[5]) / ended if ended else None,
        )
        return [*named, idle, total]

    def hourly(self, since_s: float, until_s: float, by: str) -> list[Hour]:
        """Return the joules of each account in each hour of a time window, which is widened to whole hours."""
        name, inside, joules = _name(by), _inside(since_s, until_s), func.sum(charges.c.energy_j)
        query = select(name, charges.c.hour, joules).join_from(charges, jobs, charges.c.job_id == jobs.c.id)
        idle = select(charges.c.hour, charges.c.energy_j).where(inside, charges.c.job_id == _NOBODY)
        with self._database.read() as connection:
            rows = connection.execute(query.where(inside).group_by(name, charges.c.hour)).all()
            idle_rows = connection.execute(idle).all()
        return [
            *((str(who), int(hour), float(energy_j)) for who, hour, energy_j in rows),
            *((None, int(hour), float(energy_j)) for hour, energy_j in idle_rows),
        ]

    def totals(self) -> tuple[float, float, float]:
        """Return the joules metered since the store was created: in total, of jobs, and of idle GPUs."""
        of_jobs = case((charges.c.job_id != _NOBODY, charges.c.energy_j), else_=0.0)
        of_idle = case((charges.c.job_id == _NOBODY, charges.c.energy_j), else_=0.0)
        with self._database.read() as connection:
            jobs_j, idle_j = connection.execute(select(func.sum(of_jobs), func.sum(of_idle))).one()
        return (jobs_j or 0.0) + (idle_j or 0.0), jobs_j or 0.0, idle_j or 0.0


def _name(by: str) -> ColumnElement[Any]:
    return jobs.c.id if by == "job" else jobs.c[by]


def _names(connection: Connection, inside: ColumnElement[bool]) -> dict[str, dict[str, Any]]:
    """Return the name, user, project, state and times of each job with charges in a window, by job id."""
    query = select(jobs).where(jobs.c.id.in_(select(charges.c.job_id).where(inside)))
    found: dict[str, dict[str, Any]] = {}
    for row in connection.execute(query).mappings():
        job = mappers.job_of(row)
        found[job.id] = {
            "job_name": job.name,
            "user": job.user,
            "state": job.state,
            "project": row["project"],  # as the accounts of projects have it, also where the spec cannot be read
            "submitted_s": job.submitted_s,
            "ended_s": job.ended_s,
        }
    return found


def _inside(since_s: float, until_s: float) -> ColumnElement[bool]:
    return (charges.c.hour >= int(since_s // HOUR_S)) & (charges.c.hour * HOUR_S < until_s)


def priced(
    items: Sequence[Account], hours: Sequence[Hour], signals: Sequence[Signal]
) -> tuple[Sequence[Account], Sequence[str]]:
    """Add cost and CO2, computed hour by hour, to accounts; return them with a note on each signal.

    Args:
        items: Accounts from `Charges.accounts`.
        hours: Joules by account and hour from `Charges.hourly`, for the same window.
        signals: Tariff and carbon intensity: at most one signal of each kind.
    """
    notes: list[str] = []
    for signal in signals:
        rate = {hour: signal.mean(hour * HOUR_S, (hour + 1) * HOUR_S) for hour in {hour for _, hour, _ in hours}}
        known = {hour: not signal.at((hour + 0.5) * HOUR_S).fell_back for hour in rate}
        amount: dict[str | None, float] = defaultdict(float)
        for name, hour, energy_j in hours:
            amount[name] += energy_j * rate[hour] / J_PER_KWH
        total_j = math.fsum(energy_j for *_, energy_j in hours)
        fallback_j = math.fsum(energy_j for _, hour, energy_j in hours if not known[hour])
        amounts = [*(amount[item.name] for item in items[:-2]), amount[None], math.fsum(amount.values())]
        share = fallback_j / total_j if total_j else 0.0
        if signal.kind == "tariff":
            what, items = "cost", [replace(item, cost=value) for item, value in zip(items, amounts, strict=True)]
        else:
            what, items = "CO2", [replace(item, co2_g=value) for item, value in zip(items, amounts, strict=True)]
        fallback = f"{prose(signal.fallback, 6)} {signal.unit}"
        rest = f"; {share:.1%} of the joules with its fallback, {fallback}" if share else ""
        notes.append(f"{what} by {signal.source}{rest}")
    return items, notes


@cache  # to build it takes longer than to run it, and the controller runs it every second
def _more_of_jobs() -> Update:
    """Return the statement that adds to the totals of jobs."""
    more = {name: jobs.c[name] + bindparam(f"more_{name}") for name in ("energy_j", "gpu_s")}
    return update(jobs).where(jobs.c.id == bindparam("number")).values(more)
