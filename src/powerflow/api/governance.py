"""What operators set (stages, budgets, power caps, signals), how it stands, and the audit of who set what.

Requests are checked by pydantic in the service, by the constraints of their fields; records are plain data. Units are
those of `powerflow.api.records`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field

from powerflow.energy.budget import LEAST_J, MOST_J, Period
from powerflow.energy.kinds import MAX_AGE_S, MOST_VALUE, Kind

if TYPE_CHECKING:
    from powerflow.api.records import Caller


#: Names of users, projects and ranks in a request.
NAME = r"^[A-Za-z0-9_][A-Za-z0-9._@-]{0,127}$"

Project = Annotated[str, Field(pattern=f"^$|{NAME}")]
Value = Annotated[float, Field(ge=-MOST_VALUE, le=MOST_VALUE, allow_inf_nan=False)]
UnixTime = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
Scope = Annotated[str, Field(max_length=4096)]

_NOTHING_ELSE = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """Who set what, when, from where. ``number`` rises; ``fields`` are plain JSON: the values that were set."""

    number: int
    time_s: float
    user: str
    address: str
    action: str
    target: str
    fields: Mapping[str, Any] = field(default_factory=dict)


def audited(
    caller: Caller, now_s: float, action: str, target: str, fields: Mapping[str, Any] | None = None
) -> AuditRecord:
    """Return the audit entry of what a caller does; the store numbers it."""
    return AuditRecord(0, now_s, caller.user, caller.address, action, target, fields or {})


@dataclass(frozen=True, slots=True)
class CapRecord:
    """One power cap, and how it was kept so far (None: not known yet).

    Attributes:
        scope: ``cluster``, ``rack:…``, ``row:…`` or ``nodes:…``.
        watts: Most power that the scope may draw.
        state: announced, in force or over.
        start_s, end_s, deadline_s, ramp_w_per_s: As it was set. No end: it holds until it is lifted.
        by, set_s: Who set it, and when.
        power_w: Power that the scope draws now.
        under_after_s: Seconds from when the cap was due until power was at or below it.
        over_s, judged_s: Seconds above the cap, and all seconds since it was due.
        worst_over_w: Most watts above the cap.
        mean_w: Mean power since it was due.
        before_w, after_w: Highest power in the hour before and after.
        emulated: True when the GPUs are emulated, and their watts with them.
    """

    number: int
    scope: str
    watts: float
    state: str
    start_s: float
    end_s: float | None
    deadline_s: float | None
    ramp_w_per_s: float | None
    by: str
    set_s: float
    power_w: float
    under_after_s: float | None = None
    over_s: float | None = None
    judged_s: float | None = None
    worst_over_w: float | None = None
    mean_w: float | None = None
    before_w: float | None = None
    after_w: float | None = None
    emulated: bool = False


@dataclass(frozen=True, slots=True)
class CapOrder:
    """A request to set a power cap: exactly one of ``watts`` and ``share``.

    Attributes:
        watts: Most power that the scope may draw.
        share: The same, as a share of what the scope draws now.
        scope: ``cluster``, ``rack:NAME``, ``row:RACK,RACK`` or ``nodes:NODE,NODE``.
        start_s, end_s: When it begins and ends; None: now, and until it is lifted.
        deadline_s: When it must be met, if later than the start; until then power goes down.
        ramp_w_per_s: How fast power may change; None: at once.
    """

    __pydantic_config__ = _NOTHING_ELSE

    watts: Annotated[float, Field(ge=1, le=1e10, allow_inf_nan=False)] | None = None
    share: Annotated[float, Field(ge=0.001, le=100, allow_inf_nan=False)] | None = None
    scope: Scope = "cluster"
    start_s: UnixTime | None = None
    end_s: UnixTime | None = None
    deadline_s: UnixTime | None = None
    ramp_w_per_s: Annotated[float, Field(ge=0.001, le=1e10, allow_inf_nan=False)] | None = None


@dataclass(frozen=True, slots=True)
class CapScope:
    """A request to lift the power caps of a scope."""

    __pydantic_config__ = _NOTHING_ELSE

    scope: Annotated[Scope, Field(examples=["rack:rack-0"])] = "cluster"


@dataclass(frozen=True, slots=True)
class DrainReason:
    """A request to drain a node."""

    __pydantic_config__ = _NOTHING_ELSE

    reason: Annotated[str, Field(max_length=512, examples=["fan is loud"])] = ""


@dataclass(frozen=True, slots=True)
class CapCsv:
    """The compliance record of a power cap: lines of ``time_s,watts,allowed_w``."""

    number: int
    csv: str


@dataclass(frozen=True, slots=True)
class BudgetOrder:
    """A request to set an energy budget: joules per ``day`` or ``month``, of a project or (``project`` "") the cluster.

    ``zone`` is the IANA time zone in which days and months begin.
    """

    __pydantic_config__ = _NOTHING_ELSE

    amount_j: Annotated[float, Field(ge=LEAST_J, le=MOST_J, allow_inf_nan=False)]
    period: Period
    zone: Annotated[str, Field(max_length=64, examples=["Europe/Berlin"])] = "UTC"
    project: Project = ""


@dataclass(frozen=True, slots=True)
class BudgetScope:
    """A request to drop the energy budget of a project or (``project`` "") the cluster."""

    __pydantic_config__ = _NOTHING_ELSE

    project: Project = ""


@dataclass(frozen=True, slots=True)
class Outlook:
    """Energy that is expected to be used by the end of the window, if a joule costs ``price`` (s/J) from now on."""

    price: float
    expected_j: float
    fits: bool


@dataclass(frozen=True, slots=True)
class BudgetRecord:
    """One budget, and how it stands. Energies in joules.

    Attributes:
        project: Whose budget; "": the cluster's.
        amount_j, period, zone: As it was set.
        window, start_s, end_s: The present day or month, its start and its end.
        spent_j, share: Energy used in the window, and as a share of the budget.
        forecast_j: Energy that is expected to be used by the end of the window.
        price: λ_E that the budget sets, seconds per joule; that of a project is added to that of the cluster.
        limit_w: Power that the budget allows now: what is left of it over what is left of its window, at least 2 h.
        limited: Whether that limit holds jobs back.
        knows_days: Whether past days have been replayed; before that, only the limit keeps the budget.
        bias: Metered energy over the energy that replays predicted.
        outlook: The forecast at a few prices; empty before days have been replayed.
        by, set_s: Who set it, and when.
        emulated: True when the GPUs are emulated, and their joules with them.
    """

    project: str
    amount_j: float
    period: Period
    zone: str
    window: str
    start_s: float
    end_s: float
    spent_j: float
    share: float
    forecast_j: float
    price: float
    limit_w: float
    limited: bool
    knows_days: bool
    bias: float
    outlook: Sequence[Outlook]
    by: str
    set_s: float
    emulated: bool = False


@dataclass(frozen=True, slots=True)
class SignalOrder:
    """A request to set a signal: exactly one of ``csv`` (its text), ``url`` and ``constant``.

    Attributes:
        kind: tariff (money per kWh) or carbon (g CO2 per kWh).
        source: Name to show for a CSV.
        fallback: Value to use where the series has none; None: its mean.
        max_age_s: How long a value holds.
        weight: How much the signal changes the price of a joule; 0: it is used in accounts only.
    """

    __pydantic_config__ = _NOTHING_ELSE

    kind: Kind
    csv: Annotated[str, Field(max_length=1_000_000)] | None = None
    url: Annotated[str, Field(max_length=2048, pattern=r"^https?://")] | None = None
    constant: Value | None = None
    source: Annotated[str, Field(max_length=512)] = ""
    fallback: Value | None = None
    max_age_s: Annotated[float, Field(ge=1, le=1e9, allow_inf_nan=False)] = MAX_AGE_S
    weight: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = 1.0


@dataclass(frozen=True, slots=True)
class SignalKind:
    """A request to drop the signal of a kind."""

    __pydantic_config__ = _NOTHING_ELSE

    kind: Kind


@dataclass(frozen=True, slots=True)
class SignalRecord:
    """One signal, and its value now.

    Attributes:
        kind, source, weight, fallback: As it was set.
        value: The value now, in money or g CO2 per kWh.
        fell_back: Why that is the fallback or not fresh; "": it is fresh.
        mean: Mean over the last week.
        until_s: When its last value will be too old; None: never.
        by, set_s: Who set it, and when.
    """

    kind: Kind
    source: str
    value: float
    fell_back: str
    mean: float
    weight: float
    fallback: float
    until_s: float | None
    by: str
    set_s: float


class Stage(StrEnum):
    """Rollout stage of a project: how far PowerFlow acts on its jobs."""

    OBSERVE = "observe"
    REPLAY = "replay"
    SHADOW = "shadow"
    CANARY = "canary"
    ENFORCE = "enforce"

    @property
    def acts(self) -> bool:
        """Whether jobs are managed; else they run as their owners asked."""
        return self in (Stage.CANARY, Stage.ENFORCE)


@dataclass(frozen=True, slots=True)
class StageOrder:
    """A request to set the stage of some projects, or (``projects`` None) of all without exception."""

    __pydantic_config__ = _NOTHING_ELSE

    stage: Stage
    projects: Annotated[Sequence[Annotated[str, Field(pattern=NAME)]], Field(min_length=1, max_length=1000)] | None = (
        None
    )


@dataclass(frozen=True, slots=True)
class StageRecord:
    """The stage of a project, and how its jobs did that have completed since it was set, at most 30 days ago.

    Attributes:
        project: Which; "": all that have no stage of their own.
        stage, by: The stage, and who set it; ``powerflow`` where a canary went back by itself.
        set_s: When it was set; None where nobody has set one since the first start.
        why: Why a canary went back.
        ended: Jobs completed since then.
        judged: Those for which an interval was predicted when they started.
        within_time, within_energy: Share of these with a JCT, and an energy, inside the predicted 80 % interval.
        compared: Jobs for which it is known what PowerFlow would have done when they started.
        energy_change, jct_change: Change of their energy and mean JCT if PowerFlow had acted, both as predicted:
            -0.2 is 20 % less.
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
    """A replay of the last days of this cluster in the simulator: as asked, and managed by PowerFlow. All modelled.

    Attributes:
        time_s: When it was replayed.
        days, jobs: How many were replayed.
        asked_jct_s, asked_j: Mean completion time, and joules of all jobs, first come, first served, as asked.
        acted_jct_s, acted_j: The same with PowerFlow managing them.
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
    """Stages: of all projects, then of those that have their own; and the last replay of this cluster's own days."""

    items: Sequence[StageRecord]
    replayed: SavingsRecord | None = None
