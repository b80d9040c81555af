"""Describe jobs that have ended for the API: what they used, and what that cost."""

from __future__ import annotations

from collections.abc import Sequence

from powerflow.api.accounts import EndedJob
from powerflow.energy.signal import Signal
from powerflow.store.ended import EndedJobs
from powerflow.store.models import StoredJob
from powerflow.store.store import Store
from powerflow.units import HOUR_S, J_PER_KWH


def ended_jobs(jobs: Sequence[StoredJob], store: Store, tariff: Signal | None, *, emulated: bool) -> Sequence[EndedJob]:
    """Return the records of jobs that have ended.

    Args:
        jobs: The jobs.
        store: Has what they had and used.
        tariff: What a kWh costs; None if no tariff is set.
        emulated: True if the cluster's GPUs are emulated.
    """
    ids = [job.id for job in jobs]
    gpus, cost = store.decisions.last_gpus(ids), _costs(ids, store.ended, tariff)
    found = []
    for job in jobs:
        assert job.ended_s is not None
        ran = job.started_s is not None
        known = job.energy_j > 0 or not ran  # a GPU always draws power
        found.append(
            EndedJob(
                id=job.id,
                name=job.name,
                user=job.user,
                project=job.spec.project,
                state=job.state,
                exit=job.exit,
                submitted_s=job.submitted_s,
                started_s=job.started_s,
                ended_s=job.ended_s,
                gpus=gpus.get(job.id) if ran else 0,
                run_s=job.run_s or None,
                gpu_s=job.gpu_s,
                energy_j=job.energy_j if known else None,
                cost=cost.get(job.id, 0.0) if known and tariff is not None else None,
                currency=tariff.currency if tariff is not None else "",
                rescales=job.rescales,
                failures=job.failures,
                emulated=emulated,
            )
        )
    return found


def _costs(ids: Sequence[str], store: EndedJobs, tariff: Signal | None) -> dict[str, float]:
    """Return what the energy of each job cost, hour by hour; nothing without a tariff."""
    if tariff is None:
        return {}
    hours = store.hourly(ids)
    price = {
        hour: tariff.mean(hour * HOUR_S, (hour + 1) * HOUR_S)
        for rows in hours.values()
        for hour in {h for h, _ in rows}
    }
    return {job: sum(energy_j * price[hour] for hour, energy_j in rows) / J_PER_KWH for job, rows in hours.items()}
