"""Shapes of the REST API that are not records already, and one example of each record."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from powerflow.api.governance import (
    AuditRecord,
    BudgetRecord,
    CapRecord,
    ModeRecord,
    Outlook,
    SavingsRecord,
    SignalRecord,
    Stage,
)
from powerflow.api.job_spec import JobSpec
from powerflow.api.records import (
    Account,
    DecisionRecord,
    EventRecord,
    Explanation,
    GpuRecord,
    JobDetail,
    JobOption,
    JobRecord,
    JobState,
    LogChunk,
    NodeRecord,
    Top,
)
from powerflow.energy.budget import LEAST_J, MOST_J, Period
from powerflow.energy.kinds import Kind
from powerflow.energy.signal import MAX_AGE_S, MOST_VALUE

#: What may be asked for by name. Nothing else gets further than this.
JobId = Annotated[str, Path(pattern=r"^[0-9]{1,18}$", description="Number of a job.", examples=["12"])]
NodeName = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", description="Name of a node.", examples=["n1"])
]
NAME = r"^[A-Za-z0-9_][A-Za-z0-9._@-]{0,127}$"
CURSOR = r"^[1-9][0-9]{0,8}$"
KEY = r"^[!-~]{1,255}$"


class JobPage(BaseModel):
    """Some jobs, newest first. ``next`` is the ``after`` of the next page; null at the end."""

    items: list[JobRecord]
    next: str | None


class EventPage(BaseModel):
    """Some events, oldest first. ``after`` is the number to go on from, now or later."""

    items: list[EventRecord]
    after: int


class NodeList(BaseModel):
    """All nodes."""

    items: list[NodeRecord]


class ModeList(BaseModel):
    """Stages, and what the last replay of this cluster's own days found."""

    items: list[ModeRecord]
    replayed: SavingsRecord | None = None


class ModeBody(BaseModel):
    """A stage as an operator sets it: `powerflow.api.governance.ModeOrder`."""

    model_config = ConfigDict(extra="forbid")

    stage: Stage
    projects: list[Annotated[str, Field(pattern=NAME)]] | None = Field(default=None, min_length=1, max_length=1000)


class DecisionPage(BaseModel):
    """Some decisions on a job, oldest first. ``after`` is the number to go on from, now or later."""

    items: list[DecisionRecord]
    after: int


class BudgetList(BaseModel):
    """Energy budgets."""

    items: list[BudgetRecord]


class BudgetBody(BaseModel):
    """A budget as an operator asks for it: `powerflow.api.governance.BudgetOrder`."""

    model_config = ConfigDict(extra="forbid")

    amount_j: float = Field(ge=LEAST_J, le=MOST_J, allow_inf_nan=False)
    period: Period
    zone: str = Field(default="UTC", max_length=64, examples=["Europe/Berlin"])
    project: str = Field(default="", pattern=f"^$|{NAME}")


class WhoseBudget(BaseModel):
    """Whose budget is meant; "" is the cluster's."""

    model_config = ConfigDict(extra="forbid")

    project: str = Field(default="", pattern=f"^$|{NAME}")


class SignalList(BaseModel):
    """Signals."""

    items: list[SignalRecord]


class SignalBody(BaseModel):
    """A signal as an operator asks for it: `powerflow.api.governance.SignalOrder`."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    csv: str | None = Field(default=None, max_length=1_000_000)
    url: str | None = Field(default=None, max_length=2048, pattern=r"^https?://")
    constant: float | None = Field(default=None, ge=-MOST_VALUE, le=MOST_VALUE, allow_inf_nan=False)
    source: str = Field(default="", max_length=512)
    fallback: float | None = Field(default=None, ge=-MOST_VALUE, le=MOST_VALUE, allow_inf_nan=False)
    max_age_s: float = Field(default=MAX_AGE_S, ge=1, le=1e9, allow_inf_nan=False)
    weight: float = Field(default=1.0, ge=0, le=1000, allow_inf_nan=False)


class WhichSignal(BaseModel):
    """Which signal is meant."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind


class CapList(BaseModel):
    """Power caps."""

    items: list[CapRecord]


class CapBody(BaseModel):
    """A power cap as an operator asks for it: `powerflow.api.governance.CapOrder`."""

    model_config = ConfigDict(extra="forbid")

    watts: float | None = Field(default=None, ge=1, le=1e10, allow_inf_nan=False)
    share: float | None = Field(default=None, ge=0.001, le=100, allow_inf_nan=False)
    scope: str = Field(default="cluster", max_length=4096)
    start_s: float | None = Field(default=None, ge=0, le=1e11, allow_inf_nan=False)
    end_s: float | None = Field(default=None, ge=0, le=1e11, allow_inf_nan=False)
    deadline_s: float | None = Field(default=None, ge=0, le=1e11, allow_inf_nan=False)
    ramp_w_per_s: float | None = Field(default=None, ge=0.001, le=1e10, allow_inf_nan=False)


class Lift(BaseModel):
    """Whose caps are to end."""

    model_config = ConfigDict(extra="forbid")

    scope: str = Field(default="cluster", max_length=4096, examples=["rack:rack-0"])


class CapCsv(BaseModel):
    """The compliance record of a cap: lines of ``time_s,watts,allowed_w``."""

    number: int
    csv: str


class AuditPage(BaseModel):
    """Some entries of the audit, oldest first. ``after`` is the number to go on from, now or later."""

    items: list[AuditRecord]
    after: int


class AccountList(BaseModel):
    """Accounts of a window; ``idle`` is what no job was charged, ``total`` is everything.

    ``notes`` say which signals ``cost`` and ``co2_g`` come from, and how much of them is a fallback.
    """

    since_s: float
    until_s: float
    by: str
    items: list[Account]
    notes: list[str] = []


class Drain(BaseModel):
    """Why a node is taken out of use."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="", max_length=512, examples=["fan is loud"])


class Health(BaseModel):
    """Whether the controller's loop turns; what else it says of itself stands beside it."""

    model_config = ConfigDict(extra="allow")

    ok: bool
    version: str


JOB = JobRecord(
    id="12",
    name="resnet50-a",
    user="ada",
    project="vision",
    state=JobState.RUNNING,
    priority="normal",
    rescale="in-place",
    submitted_s=1_790_000_000.0,
    started_s=1_790_000_031.5,
    gpus_asked="1..8",
    gpus=2,
    gpu_type="A100",
    clock_mhz=1110.0,
    clock_read_mhz=1110.0,
    nodes=("n1",),
    power_w=402.0,
    energy_j=180_900.0,
    reason="grown from 1 to 2 GPUs",
    steps=4012.0,
    steps_total=20_000.0,
    progress=0.2006,
    step_time_s=0.112,
    eta_s=1_790_001_821.0,
    rescales=1,
    model_error=0.03,
    emulated=True,
)
RANK = {"name": "12.2.0", "state": "running", "node": "n1", "pid": 4242, "code": None, "phase": "syncing", "step": 4012}
SPEC = JobSpec.model_validate(
    {"name": "resnet50-a", "run": "python train.py", "gpus": "1..8", "rescale": "in-place", "project": "vision"}
)
CAP = CapRecord(
    number=3,
    scope="cluster",
    watts=60_000.0,
    state="in force",
    start_s=1_790_000_000.0,
    end_s=1_790_010_800.0,
    deadline_s=None,
    ramp_w_per_s=None,
    by="root",
    set_s=1_789_990_000.0,
    power_w=58_900.0,
    under_after_s=0.0,
    over_s=1.0,
    judged_s=3600.0,
    worst_over_w=120.0,
    mean_w=58_700.0,
    before_w=79_800.0,
)
BUDGET = BudgetRecord(
    project="",
    amount_j=1.44e9,
    period="day",
    zone="Europe/Berlin",
    window="2026-09-21",
    start_s=1_789_941_600.0,
    end_s=1_790_028_000.0,
    spent_j=0.8e9,
    share=0.5556,
    forecast_j=1.43e9,
    price=0.0021,
    limit_w=21_000.0,
    limited=False,
    knows_days=True,
    bias=1.03,
    outlook=[Outlook(0.0, 1.8e9, False), Outlook(0.0059, 1.3e9, True)],
    by="root",
    set_s=1_789_000_000.0,
)
SIGNAL = SignalRecord(
    kind="tariff",
    source="day-ahead.csv",
    value=0.31,
    fell_back="",
    mean=0.28,
    weight=1.0,
    fallback=0.3,
    until_s=1_790_035_200.0,
    by="root",
    set_s=1_789_990_000.0,
)
MODE = ModeRecord(
    project="vision",
    stage=Stage.SHADOW,
    by="root",
    set_s=1_789_990_000.0,
    ended=120,
    judged=110,
    within_time=0.81,
    within_energy=0.79,
    compared=118,
    energy_change=-0.17,
    jct_change=-0.22,
)
DECISION = DecisionRecord(
    number=41,
    time_s=1_790_000_460.0,
    job_id="12",
    would=False,
    why="started",
    reason="started on 2 GPUs at 1110 MHz",
    gpus=2,
    clock_mhz=1110.0,
    jct_s=5400.0,
    jct_low_s=5000.0,
    jct_high_s=6100.0,
    energy_j=1.9e6,
    energy_low_j=1.7e6,
    energy_high_j=2.2e6,
)
AUDIT = AuditRecord(9, 1_789_990_000.0, "root", "127.0.0.1", "cap set", "cluster", {"watts": 60_000.0})
EXAMPLES: tuple[tuple[Any, Any], ...] = (
    (JobRecord, JOB),
    (JobPage, JobPage(items=[JOB], next="12")),
    (JobDetail, JobDetail(JOB, SPEC, {"n1": [0, 1]}, [RANK])),
    (
        Explanation,
        Explanation(
            job_id="12",
            sentence="grown from 1 to 2 GPUs",
            why="grown",
            decided_s=1_790_000_460.0,
            gpu_price=0.41,
            energy_price=0.002,
            now=JobOption(2, 1110.0, 0.112, 402.0, 45.0),
            options=[JobOption(1, 1110.0, 0.198, 205.0, 40.6)],
        ),
    ),
    (LogChunk, LogChunk("12.2.0", "step 4012 loss 1.93\n", 20, False)),
    (EventPage, EventPage(items=[EventRecord(7, 1_790_000_000.0, "submitted", "12", "ada submitted job 12")], after=7)),
    (NodeRecord, NodeRecord("n1", "A100", "up", [GpuRecord(0, "GPU-0", "12", 201.0, 1110.0, 1110.0, 0.97)], True)),
    (
        Top,
        Top(
            time_s=1_790_000_500.0,
            gpus=8,
            gpus_busy=2,
            power_w=852.0,
            jobs_power_w=402.0,
            energy_j=426_000.0,
            jobs_energy_j=180_900.0,
            idle_energy_j=245_100.0,
            queued=0,
            running=1,
            held=0,
            policy="prices",
            energy_price=0.002,
            budget="none",
            emulated=True,
            jobs=[JOB],
            next_decision_s=1_790_000_520.0,
        ),
    ),
    (
        AccountList,
        AccountList(since_s=0.0, until_s=1_790_000_500.0, by="user", items=[Account("ada", 1, 937.0, 180_900.0, None)]),
    ),
    (NodeList, NodeList(items=[NodeRecord("n1", "A100", "up", [], True)])),
    (ModeList, ModeList(items=[MODE])),
    (DecisionPage, DecisionPage(items=[DECISION], after=41)),
    (BudgetRecord, BUDGET),
    (BudgetList, BudgetList(items=[BUDGET])),
    (SignalRecord, SIGNAL),
    (SignalList, SignalList(items=[SIGNAL])),
    (CapRecord, CAP),
    (CapList, CapList(items=[CAP])),
    (CapCsv, CapCsv(number=3, csv="time_s,watts,allowed_w\n1790000000.000,58900.0,60000.0\n")),
    (AuditPage, AuditPage(items=[AUDIT], after=9)),
    (Health, Health(ok=True, version="0.1.0")),
)


@cache
def example(shape: Any) -> Any:
    """The example of a shape, as plain JSON."""
    value = next(value for known, value in EXAMPLES if known is shape)
    return TypeAdapter(shape).dump_python(value, mode="json", by_alias=True)
