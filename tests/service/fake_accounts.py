"""What the jobs of a cluster without a cluster have used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from powerflow.api.accounts import Account, Accounts, EndedJob
from powerflow.api.governance import SignalRecord
from powerflow.api.records import JobRecord


def accounts(
    jobs: Iterable[JobRecord], since_s: float, until_s: float, by: str, tariff: SignalRecord | None
) -> Accounts:
    """Return an account for each user, project or job: an hour of one GPU for each job."""
    groups: dict[str, list[JobRecord]] = {}
    for job in jobs:
        groups.setdefault(job.id if by == "job" else getattr(job, by) or "–", []).append(job)
    found = [_account(name, groups[name], by, tariff) for name in sorted(groups)]
    kwh = None if tariff is None else tariff.value
    idle = Account("idle", 0, 0.0, 3.6e6, None, kwh)
    total_j = sum(a.energy_j for a in found) + 3.6e6
    cost = None if tariff is None else total_j / 3.6e6 * tariff.value
    total = Account("total", sum(a.jobs for a in found), 0.0, total_j, None, cost)
    return Accounts(since_s, until_s, by, [*found, idle, total], (), tariff.currency if tariff else "")


def _account(name: str, own: list[JobRecord], by: str, tariff: SignalRecord | None) -> Account:
    ended = [job.ended_s - job.submitted_s for job in own if job.ended_s is not None]
    jct_s, used_j = sum(ended) / len(ended) if ended else None, sum(job.energy_j for job in own)
    cost = None if tariff is None else used_j / 3.6e6 * tariff.value
    of_job: dict[str, Any] = {}
    if by == "job":
        fields = ("user", "state", "project", "submitted_s", "ended_s")
        of_job = {"job_name": own[0].name} | {name: getattr(own[0], name) for name in fields}
    return Account(name, len(own), 3600.0 * len(own), used_j, jct_s, cost, **of_job)


def ended_job(job: JobRecord, tariff: SignalRecord | None) -> EndedJob:
    """Return what a job that has ended used."""
    ran = job.started_s is not None
    energy_j = job.energy_j if job.energy_j or not ran else None
    return EndedJob(
        id=job.id,
        name=job.name,
        user=job.user,
        project=job.project,
        state=job.state,
        exit=job.exit,
        submitted_s=job.submitted_s,
        started_s=job.started_s,
        ended_s=job.ended_s or 0.0,
        gpus=2 if ran else 0,
        run_s=None if job.started_s is None or job.ended_s is None else job.ended_s - job.started_s,
        gpu_s=3600.0 * ran,
        energy_j=energy_j,
        cost=None if tariff is None or energy_j is None else energy_j / 3.6e6 * tariff.value,
        currency=tariff.currency if tariff else "",
        rescales=job.rescales,
        failures=job.failures,
        emulated=job.emulated,
    )
