"""What operators set, and how it stands: budgets, power caps, signals, and the audit of who set what.

Plain data between the controller and the REST API, with the units of `powerflow.api.records`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from powerflow.energy.budget import Period
from powerflow.energy.kinds import Kind

if TYPE_CHECKING:
    from powerflow.api.records import Caller


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """Who set what, when, from where. ``number`` rises; ``fields`` are plain JSON: what it was set to."""

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
    """The audit's entry of what a caller does; its number is given when it is kept."""
    return AuditRecord(0, now_s, caller.user, caller.address, action, target, fields or {})


@dataclass(frozen=True, slots=True)
class CapRecord:
    """One power cap, and how it was kept so far (None: nothing can be said yet).

    Attributes:
        scope: ``cluster``, ``rack:…``, ``row:…`` or ``nodes:…``.
        watts: What the scope may draw.
        state: announced, in force or over.
        start_s, end_s, deadline_s, ramp_w_per_s: As it was set; no end: until it is lifted.
        by, set_s: Who set it, and when.
        power_w: What the scope draws now.
        under_after_s: Seconds from when it was due until power was at or below it.
        over_s, judged_s: Seconds above it, of so many since it was due.
        worst_over_w: Most watts above it.
        mean_w: Mean power in that time.
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
    """A cap as an operator asks for it. Times are Unix seconds; None: now, until it is lifted, at once.

    Attributes:
        watts: What the scope may draw.
        share: Or this share of what it draws now.
        scope: ``cluster``, ``rack:NAME``, ``row:RACK,RACK`` or ``nodes:NODE,NODE``.
        start_s, end_s: From when to when.
        deadline_s: By when it must be met, if later than the start.
        ramp_w_per_s: How fast power may be made to change.
    """

    watts: float | None = None
    share: float | None = None
    scope: str = "cluster"
    start_s: float | None = None
    end_s: float | None = None
    deadline_s: float | None = None
    ramp_w_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class BudgetOrder:
    """A budget as an operator asks for it: joules per ``day`` or ``month``, of the cluster ("") or a project."""

    amount_j: float
    period: Period
    zone: str = "UTC"
    project: str = ""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is expected to have been used at the end of the window if energy cost ``price`` (s/J) from now on."""

    price: float
    expected_j: float
    fits: bool


@dataclass(frozen=True, slots=True)
class BudgetRecord:
    """One budget, and how it stands. Energies in joules.

    Attributes:
        project: Whose; "": the cluster's.
        amount_j, period, zone: As it was set.
        window, start_s, end_s: The present day or month, and from when to when it goes.
        spent_j, share: What has been used in it, and as a share of the budget.
        forecast_j: What is expected to have been used at its end.
        price: λ_E that it sets, seconds per joule; a project's is on top of the cluster's.
        limit_w: Watts that it allows now: what is left of it, spread over what is left of its window, at least 2 h.
        limited: Whether that limit holds jobs back.
        knows_days: Whether past days have been replayed; before that the limit alone keeps it.
        bias: What was metered over what replays said.
        outlook: At a few prices; empty before days have been replayed.
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
    """A signal as an operator asks for it: exactly one of ``csv`` (its text), ``url`` and ``constant``.

    Attributes:
        kind: tariff (money per kWh) or carbon (g CO2 per kWh).
        source: What to call a CSV.
        fallback: What holds where the series says nothing; None: its mean.
        max_age_s: Values hold no longer than this.
        weight: How much it moves the price of a joule; 0: it is for accounts alone.
    """

    kind: Kind
    csv: str | None = None
    url: str | None = None
    constant: float | None = None
    source: str = ""
    fallback: float | None = None
    max_age_s: float = 7200.0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class SignalRecord:
    """One signal, and what it says now.

    Attributes:
        kind, source, weight, fallback: As it was set.
        value: What holds now, in money or g CO2 per kWh.
        fell_back: Why that is the fallback, or why it is not fresh; "": it is.
        mean: Over the last week.
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
    """How far PowerFlow is let in."""

    OBSERVE = "observe"
    REPLAY = "replay"
    SHADOW = "shadow"
    CANARY = "canary"
    ENFORCE = "enforce"

    @property
    def acts(self) -> bool:
        """Whether jobs are acted on; else they run as their owners asked."""
        return self in (Stage.CANARY, Stage.ENFORCE)


@dataclass(frozen=True, slots=True)
class ModeOrder:
    """A stage as an operator sets it: of these projects, or (None) of everybody without exception."""

    stage: Stage
    projects: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class ModeRecord:
    """The stage of a project, and what came of jobs that have completed since it was set, at most 30 days ago.

    Attributes:
        project: Whose; "": of all that have none of their own.
        stage, by: Which, and who set it; ``powerflow`` where a canary went back by itself.
        set_s: When; None where nobody has set any since the first start.
        why: And why it did.
        ended: Jobs completed since then.
        judged: Those for which an interval was given when they started.
        within_time, within_energy: Share of these whose JCT and energy lay within their 80 % intervals.
        compared: Jobs for which it is known what PowerFlow would have done when they started.
        energy_change, jct_change: What their energy and mean JCT would have been, against as they ran, both as
            predicted: -0.2 is 20 % less.
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
    """The last days of this cluster, replayed in the simulator as asked and with PowerFlow acting: a model's word.

    Attributes:
        time_s: When that was.
        days, jobs: How many.
        asked_jct_s, asked_j: Mean completion time, and joules of all jobs, first come, first served, as asked.
        acted_jct_s, acted_j: The same with PowerFlow acting.
    """

    time_s: float
    days: int
    jobs: int
    asked_jct_s: float
    asked_j: float
    acted_jct_s: float
    acted_j: float


@dataclass(frozen=True, slots=True)
class Modes:
    """All stages, and what the last replay of this cluster's own days found."""

    items: Sequence[ModeRecord]
    replayed: SavingsRecord | None = None
