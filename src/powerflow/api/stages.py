"""Define how much PowerFlow may do for a project: requests and records of rollout stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from powerflow.api.field import NOTHING_ELSE, Field
from powerflow.api.governance import NAME, Sure


class Stage(StrEnum):
    """Rollout stage of a project: how much PowerFlow does for its jobs."""

    OBSERVE = "observe"
    REPLAY = "replay"
    SHADOW = "shadow"
    CANARY = "canary"
    ENFORCE = "enforce"

    @property
    def acts(self) -> bool:
        """True if PowerFlow decides for jobs in this stage; False if jobs run exactly as their owners asked."""
        return self in (Stage.CANARY, Stage.ENFORCE)


@dataclass(frozen=True, slots=True)
class StageOrder:
    """Request to set the rollout stage of some projects; of all projects if ``projects`` is None.

    ``sure`` is True to set it even if caps or budgets would not be kept any more, or jobs would pause or restart.
    """

    __pydantic_config__ = NOTHING_ELSE

    stage: Stage
    projects: Annotated[Sequence[Annotated[str, Field(pattern=NAME)]], Field(min_length=1, max_length=1000)] | None = (
        None
    )
    sure: Sure = False


@dataclass(frozen=True, slots=True)
class StageRecord:
    """Stage of a project, and results of the jobs that completed in it (in the last 30 days).

    Attributes:
        project: Name of the project; "" stands for all projects that have no stage of their own.
        stage, by: The stage, and who set it. ``powerflow`` means that PowerFlow ended stage canary because of bad
            results.
        set_s: When the stage was set; None if nobody has set one since the controller's first start.
        why: Why PowerFlow returned the project to an earlier stage.
        ended: Number of jobs completed since the stage was set.
        judged: Number of these jobs whose time and energy were predicted when they started.
        within_time, within_energy: Shares of the judged jobs whose completion time, and whose energy, was inside the
            predicted 80 % interval.
        compared: Number of jobs that ran as their owners asked, and for which PowerFlow's own choice was logged.
        energy_change, jct_change: Predicted change of energy and mean completion time of the compared jobs with
            PowerFlow's choices: -0.2 is 20 % less.
    """

    project: str
    stage: Stage
    by: str
    set_s: float | None
    why: str = ""
    ended: int = 0
    judged: int = 0
    within_time: float | None = None
    within_energy: float | None = None
    compared: int = 0
    energy_change: float | None = None
    jct_change: float | None = None


@dataclass(frozen=True, slots=True)
class SavingsRecord:
    """Result of simulating the last days of this cluster twice, without and with PowerFlow. All values are modelled.

    Attributes:
        time_s: When the days were simulated.
        days, jobs: Number of days and of jobs.
        asked_jct_s, asked_j: Mean completion time, and joules of all jobs, without PowerFlow: first come, first served,
            with the GPUs that owners asked for.
        acted_jct_s, acted_j: The same values, if PowerFlow decides for all jobs.
    """

    time_s: float
    days: int
    jobs: int
    asked_jct_s: float
    asked_j: float
    acted_jct_s: float
    acted_j: float


@dataclass(frozen=True, slots=True)
class StageList:
    """Stage of all projects, stages of single projects, and the latest simulation of this cluster's past days."""

    items: Sequence[StageRecord]
    replayed: SavingsRecord | None = None
