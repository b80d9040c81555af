"""Define the stages, budgets, power caps and signals that operators set, and the audit (log) of these changes.

Classes named ``…Order`` are requests; pydantic checks their fields. Classes named ``…Record`` are answers. Times are
Unix seconds (UTC), energies joules, and power is in watts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from powerflow.api.field import NOTHING_ELSE, Field
from powerflow.energy.kinds import CURRENCY, LEAST_J, MAX_AGE_S, MOST_J, MOST_VALUE, Kind, Period

if TYPE_CHECKING:
    from powerflow.api.records import Caller


#: Names of users, projects and ranks in a request.
NAME = r"^[A-Za-z0-9_][A-Za-z0-9._@-]{0,127}$"

Project = Annotated[str, Field(pattern=f"^$|{NAME}")]
Value = Annotated[float, Field(ge=-MOST_VALUE, le=MOST_VALUE, allow_inf_nan=False)]
UnixTime = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
Scope = Annotated[str, Field(max_length=4096)]
Sure = Annotated[bool, Field(strict=True)]
ReasonText = Annotated[str, Field(max_length=512, examples=["fan is loud"])]

#: Least and largest share of a project.
LEAST_SHARE, MOST_SHARE = 0.001, 1000.0


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One audit entry: who changed what, when, and from which address.

    Later entries have a higher ``number``. ``fields`` are the values that were set, as plain JSON. ``text`` says it in
    one sentence; the event for the same act has the same text.
    """

    number: int
    time_s: float
    user: str
    address: str
    action: str
    target: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


def audited(
    caller: Caller, now_s: float, action: str, target: str, fields: Mapping[str, Any] | None = None
) -> AuditRecord:
    """Return an audit entry for an action of a caller, without number and text, which the store sets."""
    return AuditRecord(0, now_s, caller.user, caller.address, action, target, fields or {})


@dataclass(frozen=True, slots=True)
class CapRecord:
    """One power cap, and how well power has stayed below it. None means "not known yet".

    Attributes:
        scope: The part of the cluster: ``cluster``, ``rack:…``, ``row:…`` or ``nodes:…``.
        watts: Most power that the scope may draw.
        state: announced (it need not be kept yet), in force, ended, or lifted (an operator has ended it).
        start_s, end_s, deadline_s, ramp_w_per_s: The cap as an operator set it. Without an end, the cap holds until an
            operator lifts it.
        by, set_s: Who set the cap, and when.
        power_w: Power that the scope draws now.
        under_after_s: Seconds from the time when the cap had to be met until power was at or below the cap.
        over_s, judged_s: Seconds with power above the cap, and all seconds since the cap had to be met.
        worst_over_w: Largest number of watts above the cap.
        mean_w: Mean power since the cap had to be met.
        before_w, after_w: Highest power in the hour before the cap and in the hour after it.
        emulated: True if the GPUs are emulated, so that their watts are computed, not measured.
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
    """Request to set a power cap: exactly one of ``watts`` and ``share``.

    Attributes:
        watts: Most power that the scope may draw.
        share: Most power that the scope may draw, as a share of its present power.
        scope: The part of the cluster: ``cluster``, ``rack:NAME``, ``row:RACK,RACK`` or ``nodes:NODE,NODE``.
        start_s, end_s: When the cap begins and ends. Without a start, the cap begins now. Without an end, it holds
            until an operator lifts it.
        deadline_s: When power must be below the cap; None means at the start. From the start to the deadline, power
            goes down.
        ramp_w_per_s: How fast power may change, in watts per second; None for no limit.
        sure: True to set the cap even if it cannot be kept or would pause jobs.
    """

    __pydantic_config__ = NOTHING_ELSE

    watts: Annotated[float, Field(ge=1, le=1e10, allow_inf_nan=False)] | None = None
    share: Annotated[float, Field(ge=0.001, le=100, allow_inf_nan=False)] | None = None
    scope: Scope = "cluster"
    start_s: UnixTime | None = None
    end_s: UnixTime | None = None
    deadline_s: UnixTime | None = None
    ramp_w_per_s: Annotated[float, Field(ge=0.001, le=1e10, allow_inf_nan=False)] | None = None
    sure: Sure = False


@dataclass(frozen=True, slots=True)
class CapScope:
    """Request to lift the power caps of one part of the cluster."""

    __pydantic_config__ = NOTHING_ELSE

    scope: Annotated[Scope, Field(examples=["rack:rack-0"])] = "cluster"


@dataclass(frozen=True, slots=True)
class DrainOrder:
    """Request to drain a node. ``sure`` is True to drain it even if this would pause, restart or end jobs."""

    __pydantic_config__ = NOTHING_ELSE

    reason: ReasonText = ""
    sure: Sure = False


@dataclass(frozen=True, slots=True)
class OffReason:
    """Request to declare a node off, with the reason."""

    __pydantic_config__ = NOTHING_ELSE

    reason: ReasonText = ""


@dataclass(frozen=True, slots=True)
class CapCsv:
    """Power over time under a cap, as CSV text with the columns ``time_s,watts,allowed_w``."""

    number: int
    csv: str


@dataclass(frozen=True, slots=True)
class BudgetOrder:
    """Request to set an energy budget: joules per ``day`` or ``month``.

    ``project`` is "" for a budget of the cluster. Days and months begin at midnight in the IANA time zone ``zone``.
    ``sure`` is True to set the budget even if it cannot be kept or would pause jobs.
    """

    __pydantic_config__ = NOTHING_ELSE

    amount_j: Annotated[float, Field(ge=LEAST_J, le=MOST_J, allow_inf_nan=False)]
    period: Period
    zone: Annotated[str, Field(max_length=64, examples=["Europe/Berlin"])] = "UTC"
    project: Project = ""
    sure: Sure = False


@dataclass(frozen=True, slots=True)
class BudgetScope:
    """Request to remove the energy budget of a project, or of the cluster if the project is ""."""

    __pydantic_config__ = NOTHING_ELSE

    project: Project = ""


@dataclass(frozen=True, slots=True)
class ShareOrder:
    """Request to set the share of a project: what it is entitled to, compared with other projects (1 unless set)."""

    __pydantic_config__ = NOTHING_ELSE

    project: Annotated[str, Field(pattern=NAME, examples=["vision"])]
    share: Annotated[float, Field(ge=LEAST_SHARE, le=MOST_SHARE, allow_inf_nan=False, examples=[2.0])]


@dataclass(frozen=True, slots=True)
class ShareRecord:
    """The share of one project that an operator has set; projects without a record have the share 1."""

    project: str
    share: float
    by: str
    set_s: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """Forecast for a budget: the energy used at the end of its day or month, at one energy price.

    ``price`` is λ_E from now on (s/J). ``fits`` is True if the energy is within the budget.
    """

    price: float
    expected_j: float
    fits: bool


@dataclass(frozen=True, slots=True)
class BudgetRecord:
    """One energy budget of the cluster or a project, and how much of it is used. Energies are in joules.

    Attributes:
        project: Name of the project; "" for the cluster.
        amount_j, period, zone: The budget as an operator set it.
        window, start_s, end_s: The present day or month, its start and its end.
        spent_j, share: Energy used in the window, in joules and as a share of the budget.
        forecast_j: Energy that is expected to be used at the end of the window.
        price: λ_E that the budget sets, in seconds per joule. A job's price is that of the cluster plus that of its
            project.
        limit_w: Power that the budget allows now. At this power, the rest of the budget lasts two hours, or until the
            window ends if that is sooner.
        limited: True if ``limit_w`` keeps jobs from getting GPUs or higher clocks.
        knows_days: True if past days have been simulated (replayed). Before that, ``limit_w`` alone keeps the budget.
        bias: Metered energy divided by the energy that replays predicted.
        outlook: Forecasts at several prices; empty before the first replay.
        by, set_s: Who set the budget, and when.
        emulated: True if the GPUs are emulated, so that their joules are computed, not measured.
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
    """Request to set a signal from exactly one of ``csv`` (the text of the series), ``url`` and ``constant``.

    Attributes:
        kind: tariff (money per kWh) or carbon (g CO2 per kWh).
        source: Name that is shown for a series given as CSV.
        fallback: Value for times without data; None for the mean of the series.
        max_age_s: How many seconds a value of the series is valid.
        weight: How much the signal changes the price of a joule. With 0 it is used in accounts only.
        currency: Currency of a tariff, such as EUR; "" if it is not known.
    """

    __pydantic_config__ = NOTHING_ELSE

    kind: Kind
    csv: Annotated[str, Field(max_length=1_000_000)] | None = None
    url: Annotated[str, Field(max_length=2048, pattern=r"^https?://")] | None = None
    constant: Value | None = None
    source: Annotated[str, Field(max_length=512)] = ""
    fallback: Value | None = None
    max_age_s: Annotated[float, Field(ge=1, le=1e9, allow_inf_nan=False)] = MAX_AGE_S
    weight: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = 1.0
    currency: Annotated[str, Field(pattern=CURRENCY)] = ""


@dataclass(frozen=True, slots=True)
class SignalKind:
    """Request to remove a signal: the tariff or the carbon signal."""

    __pydantic_config__ = NOTHING_ELSE

    kind: Kind


@dataclass(frozen=True, slots=True)
class SignalRecord:
    """One signal, and its present value.

    Attributes:
        kind, source, weight, fallback: The signal as an operator set it.
        value: The present value, in money or g CO2 per kWh.
        fell_back: Why the present value is the fallback or is old; "" if the series has a valid value.
        mean: Mean over the last week.
        until_s: When the last value of the series stops being valid; None for never.
        by, set_s: Who set the signal, and when.
        currency: Currency of a tariff; "" if it is not known.
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
    currency: str = ""
