"""One example of each answer, for the OpenAPI document."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args, get_origin

from pydantic import TypeAdapter

from powerflow.api.governance import (
    AuditRecord,
    BudgetRecord,
    CapCsv,
    CapRecord,
    Outlook,
    SignalRecord,
    Stage,
    StageList,
    StageRecord,
)
from powerflow.api.job_spec import JobSpec
from powerflow.api.records import (
    Account,
    Accounts,
    DecisionRecord,
    EventRecord,
    Explanation,
    GpuRecord,
    Items,
    JobDetail,
    JobOption,
    JobRecord,
    JobState,
    LogChunk,
    NodeRecord,
    NumberedPage,
    Page,
    Top,
)
from powerflow.service.schemas import Health

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
STAGE = StageRecord(
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
EXAMPLES: tuple[Any, ...] = (
    JOB,
    JobDetail(JOB, SPEC, {"n1": [0, 1]}, [RANK]),
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
    DECISION,
    LogChunk("12.2.0", "step 4012 loss 1.93\n", 20, False),
    EventRecord(7, 1_790_000_000.0, "submitted", "12", "ada submitted job 12"),
    NodeRecord("n1", "A100", "up", [GpuRecord(0, "GPU-0", "12", 201.0, 1110.0, 1110.0, 0.97)], True),
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
    Accounts(0.0, 1_790_000_500.0, "user", [Account("ada", 1, 937.0, 180_900.0, None)]),
    StageList([STAGE]),
    BUDGET,
    SIGNAL,
    CAP,
    CapCsv(3, "time_s,watts,allowed_w\n1790000000.000,58900.0,60000.0\n"),
    AuditRecord(9, 1_789_990_000.0, "root", "127.0.0.1", "cap set", "cluster", {"watts": 60_000.0}),
    Health(ok=True, version="0.1.0"),
)


@cache
def example(answer: Any) -> Any:
    """Return the example of an answer's type as plain JSON; a list's has the example of its items."""
    container, item = get_origin(answer), next(iter(get_args(answer)), answer)
    value = next(each for each in EXAMPLES if type(each) is item)
    if container is Items:
        value = Items([value])
    elif container is Page:
        value = Page([value], value.id)
    elif container is NumberedPage:
        value = NumberedPage([value], value.number)
    return TypeAdapter(answer).dump_python(value, mode="json", by_alias=True)
