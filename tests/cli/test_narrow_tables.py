"""On a terminal of 80 characters, tables keep what matters."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console, RenderableType

from powerflow.api.accounts import EndedJob
from powerflow.api.governance import BudgetRecord, CapRecord
from powerflow.api.records import JobRecord, JobState
from powerflow.api.stages import Stage, StageList, StageRecord
from powerflow.cli.cluster import budget, cap, history, mode
from powerflow.cli.cluster.job_table import job_table
from powerflow.cli.columns import chosen, fitted_table
from powerflow.cli.when import minute

START_S, END_S = 1_790_000_000.0, 1_790_010_800.0
CAP = CapRecord(12, "row:rack-0,rack-1", 60_000.0, "in force", START_S, END_S, None, None, "operator", START_S, 44e3)


def drawn(found: RenderableType, width: int) -> list[str]:
    out = Console(file=io.StringIO(), width=width)
    out.print(found)
    assert isinstance(out.file, io.StringIO)
    lines = out.file.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    return lines


def test_of_jobs_the_reason() -> None:
    """Also beside jobs that run, whose power and progress need room."""
    why = "cannot start: there is no interpreter /no/such/python3"
    name = "a-long-name-of-a-job"
    lost = JobRecord("18", name, "operator", "", JobState.FAILED, "normal", "none", START_S, exit=why)
    trains = replace(lost, id="17", state=JobState.RUNNING, exit="", reason="started", power_w=624.0, progress=0.3)
    head, _, _, line, *_ = drawn(job_table([trains, lost], 80, END_S), 80)
    assert head.split()[-1] == "why"
    assert "cannot start: there…" in line
    used = (1, 60.0, 60.0, 7200.0, None, "", 0, 0, False)
    ended = EndedJob("18", name, "operator", "", JobState.FAILED, why, START_S, START_S, END_S, *used)
    shown = fitted_table([ended], chosen(history._USUAL, history._columns(), ""), 80)
    head, _, line = drawn(shown, 80)
    assert "reason" in head
    assert "cannot start: there" in line


def test_of_a_cap_its_state_and_times() -> None:
    judged = replace(CAP, under_after_s=3.2, over_s=5.0, judged_s=5000.0, emulated=True)
    head, _, line, *_ = drawn(cap._draw([judged], 80), 80)
    assert head.split() == ["cap", "scope", "state", "most", "draws", "now", "from", "until"]
    for text in ("in force", "60 kW", minute(START_S), minute(END_S)):
        assert text in line
    wide = "\n".join(drawn(cap._draw([judged], 140), 140))
    assert "0.10% of the time" in wide
    assert "operator" in wide


def test_of_stages_the_stage() -> None:
    vision = StageRecord(
        "vision-and-language", Stage.CANARY, "operator", START_S, "", 12, 10, 0.8, 0.8, 3, -0.123, 0.02
    )
    everybody = StageRecord("", Stage.ENFORCE, "", None)
    head, _, first, second, *_ = drawn(mode._draw(StageList([everybody, vision]), 80), 80)
    assert head.split()[:3] == ["projects", "stage", "since"]
    assert first.split()[:3] == ["all", "others", "enforce"]
    assert "canary" in second
    assert minute(START_S) in second


def test_of_budgets_what_is_used_and_expected() -> None:
    day = BudgetRecord(
        "vision", 1.44e9, "day", "Europe/Berlin", "2026-11-23", START_S, END_S, 5e8, 0.347, 1.3e9, 0.002, 1234.0,
        True, True, 1.0, (), "operator", START_S,
    )  # fmt: skip
    text = "\n".join(drawn(budget._draw([day], 80), 80))
    for words in ("project vision", "2026-11-23", "400 kWh", "138.9 kWh", "34.7%", "361.1 kWh"):
        assert words in text
