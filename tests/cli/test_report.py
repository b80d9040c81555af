"""``powerflow report``: one period for a reader who was not there; every number adds up from one line for each job."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from powerflow.api.governance import SignalOrder
from powerflow.api.predictions import PredictionsRecord
from powerflow.api.records import Caller, JobState, Role
from tests.cli.shell import ADA, Shell

OPS, BOB = Caller("ops", Role.OPERATOR), Caller("bob", Role.USER)
NOVEMBER_S, DECEMBER_S = 1_761_955_200.0, 1_764_547_200.0  # 2025-11-01 and 2025-12-01, UTC
ARGV = ("report", "--period", "2025-11", "--zone", "UTC")


@pytest.fixture
def november(shell: Shell) -> Shell:
    """Jobs 1 and 2 completed in November after 2 and 4 h, job 3 in December; of job 4 no energy is known."""
    from powerflow.api.job_spec import JobSpec

    shell.cluster.estimated = None
    named = (("resnet50", "vision", ADA), ("bert", "text", BOB), ("=cmd|x <b>", "vision", BOB), ("lost", "", ADA))
    for name, project, owner in named:
        shell.cluster.submit(JobSpec(run="true", name=name, project=project), owner)
    used: dict[str, dict[str, Any]] = {
        "1": {"energy_j": 7.2e6, "submitted_s": NOVEMBER_S - 3600.0, "ended_s": NOVEMBER_S + 3600.0},
        "2": {"energy_j": 3.6e6, "submitted_s": NOVEMBER_S, "ended_s": NOVEMBER_S + 4 * 3600.0},
        "3": {"energy_j": 1.8e6, "submitted_s": NOVEMBER_S, "ended_s": DECEMBER_S + 60.0},
    }
    for job_id, fields in used.items():
        shell.cluster.end(job_id, JobState.COMPLETED)
        shell.cluster.change(job_id, **fields)
    return shell


def lines(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))


def test_the_result_is_first_and_groups_have_their_sums(november: Shell) -> None:
    said = november(*ARGV)
    assert said.splitlines()[0] == "4.5 kWhᵉ for 4 jobs in 2025‑11"  # 2 + 1 + 0.5 kWh, and 1 kWh of idle GPUs
    found = november.json(*ARGV)
    assert (found["since_s"], found["until_s"], found["over"]) == (NOVEMBER_S, DECEMBER_S, True)
    assert [(at["name"], at["jobs"], at["energy_j"]) for at in found["projects"]] == [
        ("vision", 2, 9e6),
        ("text", 1, 3.6e6),
        ("", 1, None),
    ]
    assert [(at["name"], at["completed"], at["mean_jct_s"]) for at in found["users"]] == [
        ("ada", 1, 7200.0),
        ("bob", 1, 14_400.0),  # its other job completed in December
    ]
    assert (found["total"]["completed"], found["total"]["mean_jct_s"]) == (2, 10_800.0)


def test_the_csv_has_a_line_for_each_job_and_adds_up_to_the_total(november: Shell, tmp_path: Path) -> None:
    november.cluster.set_signal(SignalOrder("tariff", constant=0.25, currency="EUR"), OPS)
    file = tmp_path / "november.csv"
    total = november.json(*ARGV, "--csv", str(file))["total"]
    rows = lines(file)
    assert [row["id"] for row in rows] == ["1", "2", "3", "4", "idle"]
    assert sum(float(row["J"] or 0.0) for row in rows) == total["energy_j"] == 16.2e6
    assert sum(float(row["cost"] or 0.0) for row in rows) == pytest.approx(total["cost"]) == pytest.approx(1.125)
    assert sum(float(row["GPU-h"]) for row in rows) * 3600.0 == total["gpu_s"]
    assert (rows[3]["J"], rows[3]["kWh"], rows[3]["cost"]) == ("", "", ""), "unknown, not 0"
    assert rows[2]["name"] == "'=cmd|x <b>", "no spreadsheet runs it"
    assert (rows[2]["completed"], rows[2]["JCT_s"]) == ("0", "")


def test_one_project_or_user_has_no_idle_gpus(november: Shell, tmp_path: Path) -> None:
    file = tmp_path / "bob.csv"
    found = november.json(*ARGV, "--project", "vision", "--user", "bob", "--csv", str(file))
    assert (found["idle"], found["total"]["energy_j"]) == (None, 1.8e6)
    assert [row["id"] for row in lines(file)] == ["3"]
    assert found["same_numbers"][-1].endswith("--project vision --user bob")
    assert "nothing" not in november(*ARGV, "--user", "bob")
    note = "no job of project visoin has been submitted yet"
    assert "No GPU was charged in 2025‑11" in november(*ARGV, "--project", "visoin", notes=[note])


def test_what_is_not_known_is_said(november: Shell) -> None:
    said = november(*ARGV)
    assert "No tariff is set, so costs are not known: powerflow signal set tariff" in said
    assert "No carbon signal is set" in said
    assert "of which no energy is known (*): 1." in said
    assert "Not known: none of the days of this period is in the latest simulation" in said
    assert "No prediction for a job that completed in this period is on record" in said
    november.cluster.set_signal(SignalOrder("tariff", constant=0.25, currency="EUR"), OPS)
    assert "No tariff is set" not in november(*ARGV)


def test_savings_are_told_with_what_is_known_of_them(november: Shell) -> None:
    from powerflow.api.stages import SavingsRecord

    cluster = november.cluster
    cluster.predicted = PredictionsRecord(0, 1, 2, 2, 3.6e6, 5.4e6, 10, 0.9, 0.7, 4, 100.0, 80.0, 10.0, 9.0)
    told = " ".join(november.json(*ARGV)["savings"])
    assert "4 jobs ran as their owners asked" in told
    assert "their energy by -20.0\u202f% and their completion times by -10.0\u202f%" in told
    assert "1 kWh in all; they used 1.5 kWhᵉ (+50.0\u202f%)" in told
    assert "Of 10 jobs with 80 % intervals, 70\u202f% were inside by energy and 90\u202f% by completion time" in told
    for made_s, shown in ((NOVEMBER_S + 1.0, True), (DECEMBER_S + 6 * 86_400.0, True), (NOVEMBER_S - 1.0, False)):
        cluster.estimated = SavingsRecord(made_s, 3, 120, 5000.0, 9e8, 4000.0, 7.2e8)
        assert (november.json(*ARGV)["simulated"] is not None) == shown
    cluster.estimated = SavingsRecord(DECEMBER_S, 3, 120, 5000.0, 9e8, 4000.0, 7.2e8)
    assert "-20.0\u202f% energy" in november(*ARGV)
    assert november.json(*ARGV, "--project", "vision")["simulated"] is None, "it is of all jobs"


def test_the_named_commands_give_the_same_numbers(november: Shell) -> None:
    import shlex

    found = november.json(*ARGV)
    by_project, by_user, by_job, done = (shlex.split(command)[1:] for command in found["same_numbers"])
    for argv, key in ((by_project, "projects"), (by_user, "users"), (by_job, "jobs")):
        accounts = november.json(*argv)["accounts"]
        told = {at.get("id") or at["name"] or "–": at["energy_j"] or 0.0 for at in found[key]}
        assert {at["name"]: at["energy_j"] for at in accounts[:-2]} == told
        assert accounts[-1]["energy_j"] == found["total"]["energy_j"]
    assert [job["id"] for job in november.json(*done)["jobs"]] == ["2", "1"]


@pytest.mark.parametrize(("language", "head"), [("en", "What is not known"), ("ja", "不明なこと")])
def test_the_page_is_one_file_in_both_languages(november: Shell, tmp_path: Path, language: str, head: str) -> None:
    file = tmp_path / "november.html"
    november(*ARGV, "--language", language, "--report", str(file))
    page = file.read_text("utf-8")
    assert f'<html lang="{language}">' in page
    assert head in page
    assert "=cmd|x &lt;b&gt;" in page
    assert "powerflow acct --by project --since 2025-11-01T00:00:00+00:00 --until 2025-12-01T00:00:00+00:00" in page
    assert "<script src" not in page


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--period", "2025-13"], "--period: '2025-13' is not a period; write a month (2026-11), a week"),
        (["--period", "2999-01"], "--period: 2999-01 has not begun yet"),
        (["--period", "2025-11-02..2025-11-01"], "--period: the period ends before it begins; write 2025-11-01..2025"),
        (["--period", "2025-11", "--zone", "Mars/Base"], "--zone: 'Mars/Base' is not a time zone"),
        ([], "Missing option '--period'"),
    ],
)
def test_a_period_that_cannot_be_read_is_said(shell: Shell, argv: list[str], said: str) -> None:
    assert said in shell("report", *argv, code=2)
