"""Sum up what the jobs of a period used, by project and by user, from one account for each job.

Every sum is made from the accounts that `PeriodReport.jobs` lists, so a table of these jobs adds up to every other
table of the report.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from powerflow.api.accounts import Account, Accounts
from powerflow.api.predictions import PredictionsRecord
from powerflow.api.records import JobState
from powerflow.api.stages import SavingsRecord
from powerflow.report.period import ReportPeriod
from powerflow.units import DAY_S

#: Days that a simulation of past days looks back at most (`powerflow.live.governance.savings.DAYS`).
SIMULATED_DAYS = 7


@dataclass(frozen=True, slots=True)
class PeriodLine:
    """What the jobs of a project or a user used in a period; or one job, or all jobs, or the idle GPUs.

    Attributes:
        name: Name of the project or the user; number of the job; "" for jobs without a project.
        jobs: Number of jobs that held GPUs in the period.
        completed: Number of those that completed in the period.
        mean_jct_s: Mean completion time of these, from submission to end; None if there are none.
        gpu_s: GPU-seconds that they held in the period.
        energy_j: Joules charged to them in the period; None if they held GPUs and no energy of them is known.
        unknown: Number of jobs that held GPUs and of which no energy is known.
        cost: What the energy cost by the tariff, in its currency; None without a tariff, or if the energy is unknown.
        co2_g: Grams of CO2 by the carbon signal; None without one, or if the energy is unknown.
    """

    name: str
    jobs: int
    completed: int
    mean_jct_s: float | None
    gpu_s: float
    energy_j: float | None
    unknown: int
    cost: float | None
    co2_g: float | None


@dataclass(frozen=True, slots=True)
class PeriodReport:
    """What a cluster, or a part of it, used in a period.

    Attributes:
        period: The period.
        project, user: Only jobs of this project and this user; None for all.
        currency: Currency of the costs; "" if it is not known.
        emulated: True if the GPUs are emulated, so that their joules come from a model.
        jobs: One account for each job that was charged in the period, most joules first.
        projects, users: What the jobs of each project and of each user used, most joules first.
        idle: What GPUs on which no job ran used; None if only some jobs are asked for.
        total: All jobs together, and idle GPUs.
        tariff, carbon: True if a tariff, and a carbon signal, are set.
        notes: How cost and CO2 were computed, one line for each signal, as the controller says it.
        predictions: How well predictions for jobs that completed in the period came true.
        simulated: The latest simulation of past days without and with PowerFlow, if some of these days lie in the
            period, and all jobs are asked for; else None.
    """

    period: ReportPeriod
    project: str | None
    user: str | None
    currency: str
    emulated: bool
    jobs: Sequence[Account]
    projects: Sequence[PeriodLine]
    users: Sequence[PeriodLine]
    idle: PeriodLine | None
    total: PeriodLine
    tariff: bool
    carbon: bool
    notes: Sequence[str]
    predictions: PredictionsRecord
    simulated: SavingsRecord | None

    def line_of(self, job: Account) -> PeriodLine:
        """Return one job as a line."""
        return _line(job.name, [job], self.period)


def period_report(
    period: ReportPeriod,
    accounts: Accounts,
    *,
    project: str | None = None,
    user: str | None = None,
    emulated: bool,
    predictions: PredictionsRecord,
    simulated: SavingsRecord | None,
) -> PeriodReport:
    """Sum up the accounts of jobs.

    Args:
        period: The period.
        accounts: Accounts of jobs for this period, with ``idle`` and ``total`` at their end.
        project, user: Only jobs of this project ("": without one) and of this user; None for all.
        emulated: True if the GPUs are emulated.
        predictions: How well predictions for these jobs came true.
        simulated: The latest simulation of past days; None if there is none.
    """
    chosen = [
        job
        for job in accounts.items[:-2]
        if (project is None or job.project == project) and (user is None or job.user == user)
    ]
    chosen.sort(key=lambda job: -job.energy_j)
    every = project is None and user is None
    idle = accounts.items[-2] if every else None
    whole = _line("total", chosen if idle is None else [*chosen, idle], period)
    touches = simulated is not None and (
        period.since_s < simulated.time_s and simulated.time_s - SIMULATED_DAYS * DAY_S < period.until_s
    )
    return PeriodReport(
        period=period,
        project=project,
        user=user,
        currency=accounts.currency,
        emulated=emulated,
        jobs=chosen,
        projects=_grouped(chosen, lambda job: job.project or "", period),
        users=_grouped(chosen, lambda job: job.user or "", period),
        idle=None if idle is None else _line("idle", [idle], period),
        total=whole,
        tariff=accounts.items[-1].cost is not None,
        carbon=accounts.items[-1].co2_g is not None,
        notes=accounts.notes,
        predictions=predictions,
        simulated=simulated if touches and every else None,
    )


def completed_in(job: Account, period: ReportPeriod) -> bool:
    """Return True if a job completed in a period."""
    ended = job.ended_s is not None and period.since_s <= job.ended_s < period.until_s
    return ended and job.state is JobState.COMPLETED


def energy_of(job: Account) -> float | None:
    """Return the joules of a job; None if it held GPUs and has no joules, because a GPU always draws power."""
    return None if job.gpu_s > 0 and job.energy_j <= 0 else job.energy_j


def _grouped(jobs: Iterable[Account], of: Callable[[Account], str], period: ReportPeriod) -> Sequence[PeriodLine]:
    groups: dict[str, list[Account]] = defaultdict(list)
    for job in jobs:
        groups[of(job)].append(job)
    lines = [_line(name, own, period) for name, own in groups.items()]
    return sorted(lines, key=lambda line: (-(line.energy_j or 0.0), line.name))


def _line(name: str, accounts: Sequence[Account], period: ReportPeriod) -> PeriodLine:
    done = [job for job in accounts if completed_in(job, period)]
    jct_s = [job.ended_s - job.submitted_s for job in done if job.ended_s is not None and job.submitted_s is not None]
    known = [job for job in accounts if energy_of(job) is not None]
    return PeriodLine(
        name=name,
        jobs=sum(job.jobs for job in accounts),
        completed=len(done),
        mean_jct_s=math.fsum(jct_s) / len(jct_s) if jct_s else None,
        gpu_s=math.fsum(job.gpu_s for job in accounts),
        energy_j=math.fsum(job.energy_j for job in known) if known or not accounts else None,
        unknown=sum(job.jobs for job in accounts if energy_of(job) is None),
        cost=_sum([job.cost for job in known]),
        co2_g=_sum([job.co2_g for job in known]),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    """Return the sum of amounts; None if one is not known, or there are none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) if known and len(known) == len(values) else None
