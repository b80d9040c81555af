"""``powerflow history``: jobs that have ended, as people and as scripts read them."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from powerflow.api.governance import SignalOrder
from powerflow.api.records import Caller, JobState, Role
from tests.cli.shell import ADA, Shell

OPS = Caller("ops", Role.OPERATOR)


@pytest.fixture
def past(shell: Shell) -> Shell:
    """Three jobs with joules, one that ran without a joule, one that never ran, and one that still runs."""
    from powerflow.api.job_spec import JobSpec

    now, cluster = shell.cluster.now_s, shell.cluster
    for name, project in (("resnet50", "vision"), ("bert", "text"), ("tiny", "vision"), ("lost", ""), ("never", "")):
        cluster.submit(JobSpec(run="true", name=name, project=project), ADA)
    ended: dict[str, dict[str, Any]] = {
        "1": {"energy_j": 7.2e6, "started_s": now - 90_000.0, "ended_s": now - 3600.0},
        "2": {"energy_j": 50.0, "started_s": now - 101.0, "ended_s": now - 100.0, "rescales": 2},
        "3": {"energy_j": 3600.0, "started_s": now - 3000.0, "ended_s": now - 2000.0},
        "4": {"started_s": now - 12.0, "ended_s": now - 10.0},
        "5": {"ended_s": now - 5.0},
    }
    states = {"2": JobState.FAILED, "5": JobState.CANCELLED}
    for job_id, fields in ended.items():
        cluster.end(job_id, states.get(job_id, JobState.COMPLETED), "exit code 1" if job_id == "2" else "completed")
        cluster.change(job_id, submitted_s=now - 90_010.0, **fields)
    cluster.run(cluster.submit(JobSpec(run="true", name="runs"), ADA)[0].id)
    return shell


def columns(line: str) -> list[str]:
    return line.replace("\u202f", "_").split()


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_newest_is_first_and_nothing_that_runs_is_there(past: Shell) -> None:
    lines = past("history").splitlines()
    assert " ".join(lines[0].split()) == "id name user project state reason started ended ran GPUs J kWh"
    assert [line.split()[0] for line in lines[2:7]] == ["5", "4", "2", "3", "1"]
    assert lines[6].split()[:5] == ["1", "resnet50", "ada", "vision", "completed"]
    assert columns(lines[6])[-4:] == ["1-00:00:00", "2", "7_200_000", "2.000"]
    assert "exit code 1" in lines[4]
    assert "emulated: from a model" in lines[-1]


def test_a_second_has_its_joules_and_what_is_not_known_is_said(past: Shell) -> None:
    shown = {line[0]: columns(line) for line in past("history", "-o", "id,J,kWh", "--no-header").splitlines()}
    assert shown["2"] == ["2", "50", "<0.001"]
    assert shown["3"] == ["3", "3_600", "0.001"]
    assert shown["4"] == ["4", "unknown", "unknown"], "it ran: 0 J would be wrong"
    assert shown["5"] == ["5", "0", "0.000"], "it never ran"


def test_cost_has_its_currency(past: Shell) -> None:
    assert "cost" not in past("history")
    past.cluster.set_signal(SignalOrder("tariff", constant=0.25, currency="EUR"), OPS)
    lines = past("history", "--limit", "5", "--sort", "cost", "-o", "id,cost").splitlines()
    assert lines[0].split() == ["id", "cost", "EUR"]
    assert [line.split() for line in lines[2:7]] == [
        ["5", "0.00"],
        ["2", "<0.01"],
        ["3", "<0.01"],
        ["1", "0.50"],
        ["4", "unknown"],
    ]
    first = rows_of(past("history", "--csv", "--sort=-cost"))[0]
    assert (first["cost"], first["currency"]) == ("0.5", "EUR")


def test_csv_has_full_numbers_utc_and_one_line_for_each_job(past: Shell) -> None:
    past.cluster.change("2", exit="first line\nsecond, \x1b[31m")
    rows = rows_of(past("history", "--csv"))
    assert [row["id"] for row in rows] == ["5", "4", "2", "3", "1"]
    assert len(past("history", "--csv").splitlines()) == 6
    assert rows[2]["reason"] == "first line\\nsecond, \\x1b[31m"
    assert rows[4]["J"] == "7200000.0"
    assert rows[4]["ended"].endswith("+00:00")
    assert (rows[1]["J"], rows[0]["started"]) == ("", "")
    assert past("history", "--csv", "--no-header", "-o", "NAME,gpus", "--user", "ada", "--limit", "1") == "never,0\n"


@pytest.mark.parametrize(
    ("argv", "ids"),
    [
        (["--state", "failed"], ["2"]),
        (["--state", "failed", "--state", "cancelled"], ["5", "2"]),
        (["--project", "vision"], ["3", "1"]),
        (["--user", "bob"], []),
        (["--since", "30m"], ["5", "4", "2"]),
        (["--since", "2h", "--until", "30m"], ["3", "1"]),
        (["--sort", "-J"], ["1", "3", "2", "5", "4"]),
        (["--sort", "ran", "--limit", "2"], ["2", "4"]),
        (["--sort", "name"], ["2", "4", "5", "1", "3"]),
        (["--sort", "id"], ["1", "2", "3", "4", "5"]),
    ],
)
def test_filters_and_orders(past: Shell, argv: list[str], ids: list[str]) -> None:
    assert [job["id"] for job in past.json("history", *argv)["jobs"]] == ids


def test_more_jobs_than_a_page_are_all_listed(shell: Shell) -> None:
    from powerflow.api.job_spec import JobSpec

    for _ in range(1002):
        shell.cluster.end(shell.cluster.submit(JobSpec(run="true"), ADA)[0].id)
    assert [job["id"] for job in shell.json("history")["jobs"]] == [str(number) for number in range(1002, 0, -1)]


@pytest.mark.parametrize("width", [50, 80, 100, 160])
def test_a_narrow_terminal_shows_fewer_fields_but_those_that_were_asked_for(
    past: Shell, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = past("history").splitlines()
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines[2:7]] == ["5", "4", "2", "3", "1"]
    every = past("history", "-o", "id,name,user,project,state,reason,submitted,started,ended,J").splitlines()
    assert " ".join(every[0].split()) == "id name user project state reason submitted started ended J"
    assert all("-" in line and ":" in line for line in every[2:7])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["-o", "id,colour"], "--fields: there is no field 'colour'; choose from id, name,"),
        (["--sort", "size"], "--sort: there is no field 'size'"),
        (["--sort", "id,name"], "--sort: the list is sorted by one field"),
        (["--state", "running"], "--state: a job that is running has not ended; powerflow queue lists such jobs"),
        (["--since", "1h", "--until", "2h"], "--until: the window ends before it begins"),
        (["-o", "id,,name"], "has an empty part"),
    ],
)
def test_what_cannot_be_listed_is_said_in_a_line(shell: Shell, argv: list[str], said: str) -> None:
    assert said in shell("history", *argv, code=2)


def test_acct_by_job_has_name_user_and_state(past: Shell) -> None:
    lines = past("acct", "--by", "job").splitlines()
    assert lines[2].split()[:4] == ["job", "name", "user", "state"]
    row = next(line.split() for line in lines if line.startswith("2 "))
    assert row[:4] == ["2", "bert", "ada", "failed"]
    account = next(each for each in past.json("acct", "--by", "job")["accounts"] if each["name"] == "2")
    assert (account["job_name"], account["user"], account["state"]) == ("bert", "ada", "failed")
    assert "name" not in past("acct", "--by", "user").splitlines()[2].split()
