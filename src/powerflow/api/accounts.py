"""Define records of what jobs have used: accounts of a time window, and jobs that have ended.

Units: seconds (times of day are Unix seconds, UTC) and joules. None means "not known".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from powerflow.api.records import JobState


@dataclass(frozen=True, slots=True)
class Account:
    """GPU time and energy charged to a user, a project or a job in a time window.

    ``fair_share`` is the share of a project, if operators have set any shares (`ShareRecord`). The account of a job has
    also the job's name, user, project and state, and when it was submitted and ended (None: it has not ended).

    ``idle`` and ``total`` are accounts, too. ``cost`` (in the tariff's currency) is None without a tariff, and
    ``co2_g`` (in grams) is None without a carbon signal. Both are computed hour by hour.
    """

    name: str
    jobs: int
    gpu_s: float
    energy_j: float
    mean_jct_s: float | None
    cost: float | None = None
    co2_g: float | None = None
    fair_share: float | None = None
    job_name: str | None = None
    user: str | None = None
    state: JobState | None = None
    project: str | None = None
    submitted_s: float | None = None
    ended_s: float | None = None


@dataclass(frozen=True, slots=True)
class Accounts:
    """All accounts of a time window.

    Attributes:
        since_s, until_s: The window, in Unix seconds.
        by: Group of each account: ``user``, ``project`` or ``job``.
        items: The accounts; after them ``idle`` (the energy of idle GPUs) and ``total``.
        notes: One line for each signal: its source, and for which share of joules its fallback value was used.
        currency: Currency of the costs; "" if it is not known.
    """

    since_s: float
    until_s: float
    by: str
    items: Sequence[Account]
    notes: Sequence[str] = ()
    currency: str = ""


@dataclass(frozen=True, slots=True)
class EndedJob:
    """One job that has ended, and what it used.

    Attributes:
        id: The job's number, as text.
        exit: How the job ended, in plain words.
        started_s: When the job ran for the first time; None if it never ran.
        gpus: Number of GPUs of the last placement; 0 if the job never ran, None if this is not known any more.
        run_s: Seconds for which the job ran; None if it never ran, or if this is not known.
        gpu_s: GPU-seconds charged to the job.
        energy_j: Energy charged to the job; None if the job ran and no energy of it is known.
        cost: What this energy cost by the tariff; None without a tariff, or if the energy is not known.
        currency: Currency of the cost; "" if it is not known.
        rescales: How often the job's number of GPUs changed.
        failures: How often the job has failed.
        emulated: True if the job's GPUs are emulated, so that its joules are computed, not measured.
    """

    id: str
    name: str
    user: str
    project: str
    state: JobState
    exit: str
    submitted_s: float
    started_s: float | None
    ended_s: float
    gpus: int | None
    run_s: float | None
    gpu_s: float
    energy_j: float | None
    cost: float | None
    currency: str
    rescales: int
    failures: int
    emulated: bool
