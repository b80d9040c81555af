"""The commands with which operators set things: caps, budgets, signals, stages; the audit; and a job's story."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from powerflow.cli.main import main
from tests.cli.shell import Shell

# --- power caps and the audit ---


def test_a_cap_is_set_shown_recorded_lifted_and_audited(operator: Shell) -> None:
    assert operator("cap", "show") == "no power caps\n"
    assert operator("audit") == "there are no changes yet\n"
    said = operator("cap", "set", "60kW", "--from", "+1h", "--for", "3h", "--ramp", "6kW/min")
    assert said.startswith("cap 1: cluster may draw at most 60 kW from ")
    cap = operator.json("cap", "show")["caps"][0]
    assert cap["end_s"] - cap["start_s"] == pytest.approx(3 * 3600.0)
    assert (cap["watts"], cap["ramp_w_per_s"], cap["by"]) == (60_000.0, 100.0, "ops")
    assert "60 kW" in operator("cap", "show")
    assert operator("cap", "record", "1").startswith("time_s,watts,allowed_w\n")
    assert json.loads(operator("cap", "record", "1", "--as", "json"))["cap"]["number"] == 1
    assert operator("cap", "lift") == "there is no power cap on cluster any more\n"
    assert "cap set" in operator("audit")
    assert operator.json("audit")["audit"][0]["user"] == "ops"


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("cap", "set", "sixty"), 2, "POWER: 'sixty' is not an amount of power"),
        (("cap", "set", "60kW", "--from", "teatime"), 2, "--from: 'teatime' is not a time"),
        (("cap", "set", "60kW", "--for", "long"), 2, "--for: 'long' is not a length of time"),
        (("cap", "set", "60kW", "--for", "3h", "--until", "17:00"), 2, "give one of the two"),
        (("cap", "set", "60kW", "--ramp", "1"), 2, "--ramp: '1' is not a ramp"),
        (("cap", "lift", "rack:r9"), 3, "there is no power cap on rack:r9"),
        (("cap", "record", "7"), 3, "there is no power cap 7"),
        (("cap", "record", "7", "--as", "json"), 3, "there is no power cap 7"),
    ],
)
def test_what_cannot_be_capped_is_said_in_a_line(operator: Shell, argv: Sequence[str], code: int, said: str) -> None:
    assert said in operator(*argv, code=code)


def test_audit_and_events_are_filtered_and_cut_to_the_newest(operator: Shell) -> None:
    for watts in ("60kW", "50kW", "40kW"):
        operator("cap", "set", watts)
    assert [line.split()[3:5] for line in operator("audit", "-n", "2").splitlines()] == [["cap", "set"], ["cap", "set"]]
    assert operator("audit", "-n", "1").endswith("cap on cluster set by ops: 40 kW, from 127.0.0.1\n")
    assert operator.json("audit", "-n", "2")["audit"][-1]["fields"]["watts"] == 40_000.0
    assert len(operator.json("audit", "-n", "0")["audit"]) == 3
    assert operator("audit", "--action", "budget set") == "there are no such changes\n"
    assert operator("audit", "--user", "nobody") == "there are no such changes\n"
    assert "no job 9" in operator("audit", "--job", "9", code=3)
    assert "--since: 'teatime' is not a time" in operator("events", "--since", "teatime", code=2)
    assert "--until: ends before --since begins" in operator("events", "--since", "1h", "--until", "2h", code=2)
    for _ in range(3):
        operator("submit", "--run", "python train.py")
    operator.cluster.run("2")
    assert [line.split()[2:4] for line in operator("events", "-n", "2").splitlines()] == [["job", "3"], ["job", "2"]]
    assert operator("events", "--kind", "started").count("\n") == 1
    assert operator("events", "--job", "3").count("\n") == 1
    assert operator("events", "--since", "2001-01-01", "--until", "2001-01-02", notes=["no event matches"]) == ""


def test_a_user_may_neither_cap_nor_audit(shell: Shell) -> None:
    assert "operator" in shell("cap", "set", "60kW", code=4)
    assert "operator" in shell("audit", code=4)


# --- energy budgets and signals -----------------------------------------------------------------------------------


def test_a_budget_is_set_shown_forecast_and_dropped(operator: Shell) -> None:
    assert operator("budget", "show") == "no energy budgets\n"
    assert operator("budget", "forecast") == "no energy budgets\n"
    said = operator("budget", "set", "400kWh", "--per", "month", "--zone", "Europe/Berlin")
    assert said.startswith("the cluster may use 400 kWh per month (Europe/Berlin): 25.0% of 20")
    assert " used, 360 kWh expected by " in said
    notes = ["no job of project vision has been submitted yet"]
    said = operator("budget", "set", "40kWh", "--project", "vision", notes=notes)
    assert said.startswith("project vision may use 40 kWh per day")
    cluster, vision = operator.json("budget", "show")["budgets"]
    assert (cluster["amount_j"], cluster["period"], vision["project"]) == (1.44e9, "month", "vision")
    shown = operator("budget", "show")
    assert "project vision" in shown
    assert "400 kWh" in shown
    assert "2 s/kJ" in shown
    assert "too much" in operator("budget", "forecast")
    assert operator("budget", "drop", "--project", "vision") == "project vision has no energy budget any more\n"
    assert len(operator.json("budget", "show")["budgets"]) == 1


def test_a_signal_is_set_from_a_file_an_address_or_a_number(operator: Shell, tmp_path: Path) -> None:
    assert operator("signal", "show") == "no signals\n"
    file = tmp_path / "day-ahead.csv"
    file.write_text("time,value\n2026-11-23T17:00+01:00,0.31\n")
    assert f"from {file}" in operator("signal", "set", "tariff", str(file), "--fallback", "0.3", "--max-age", "3h")
    assert operator("signal", "set", "carbon", "380").startswith("carbon: 380 gCO2/kWh now")
    assert [signal["kind"] for signal in operator.json("signal", "show")["signals"]] == ["tariff", "carbon"]
    assert "https://example.org/co2.csv" in operator("signal", "set", "carbon", "https://example.org/co2.csv")
    assert "always" in operator("signal", "show")
    assert operator("signal", "drop", "tariff") == "there is no tariff signal any more\n"


def test_a_share_is_set_and_shown(operator: Shell) -> None:
    assert operator("share", "show") == "all projects have a share of 1\n"
    notes = ["no job of project vision has been submitted yet"]
    assert operator("share", "set", "vision", "2", notes=notes) == "project vision has a share of 2\n"
    (record,) = operator.json("share", "show")["shares"]
    assert (record["project"], record["share"], record["by"]) == ("vision", 2.0, "ops")
    assert "vision" in operator("share", "show")


@pytest.mark.parametrize("share", ["0", "nan", "inf", "many", "1e9", "1e-9"])
def test_what_is_no_share_is_said_in_a_line(operator: Shell, share: str) -> None:
    said = operator("share", "set", "vision", share, code=2)
    assert said.count("\n") == 1
    assert f"SHARE: '{share}' is not a share; give a number from 0.001 to 1000" in said


def test_a_share_below_0_and_a_project_that_is_no_name_are_refused(operator: Shell) -> None:
    assert "'-1' is not a share" in operator("share", "set", "--", "vision", "-1", code=2)
    said = operator("share", "set", "all of them", "2", code=2)
    assert said.count("\n") == 1
    assert "project" in said


def test_a_user_may_not_set_shares(shell: Shell) -> None:
    assert "operator" in shell("share", "set", "vision", "2", code=4)


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("budget", "set", "much"), 2, "AMOUNT: 'much' is not an amount of energy"),
        (("budget", "set", "80%"), 2, "write an amount such as 300kWh"),
        (("budget", "set", "4kWh", "--zone", "Mars/Olympus"), 2, "unknown time zone"),
        (("budget", "drop"), 3, "there is no such energy budget"),
        (("signal", "set", "tariff", "nowhere.csv"), 3, "nowhere.csv: cannot be read"),
        (("signal", "set", "tariff", "/dev/zero"), 2, "/dev/zero: is no file"),
        (("signal", "set", "tariff", "nan"), 2, "SOURCE: nan is not a valid value"),
        (("signal", "set", "tariff", "1e309"), 2, "SOURCE: inf is not a valid value"),
        (("signal", "set", "carbon", "300", "--fallback", "inf"), 2, "--fallback: inf is not a valid value"),
        (("budget", "drop", "--project", ""), 2, "no project is named"),
        (("budget", "set", "400kWh", "--project", ""), 2, "no project is named"),
        (("budget", "set", "1e-300kWh"), 2, "give an amount from 1 Wh"),
        (("budget", "set", "1e300kWh"), 2, "give an amount from 1 Wh"),
        (("signal", "set", "tariff", "1", "--max-age", "old"), 2, "--max-age: 'old' is not a length of time"),
        (("signal", "drop", "carbon"), 3, "there is no carbon signal"),
    ],
)
def test_what_is_no_budget_or_signal_is_said_in_a_line(
    operator: Shell, argv: Sequence[str], code: int, said: str
) -> None:
    assert said in operator(*argv, code=code)


def test_a_user_may_set_neither(shell: Shell) -> None:
    assert "operator" in shell("budget", "set", "400kWh", code=4)
    assert "operator" in shell("signal", "set", "carbon", "380", code=4)


def test_this_machines_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    from powerflow.cli.cluster.budget import own_zone

    monkeypatch.setenv("TZ", ":Asia/Tokyo")
    assert own_zone() == "Asia/Tokyo"
    monkeypatch.delenv("TZ")
    assert own_zone()


# --- stages, and a job's story ------------------------------------------------------------------------------------


def test_stages_are_set_and_shown(operator: Shell) -> None:
    assert "enforce" in operator("mode")
    assert "observe" in operator("mode", "observe")
    notes = [f"no job of project {name} has been submitted yet" for name in ("vision", "speech")]
    shown = operator("mode", "canary", "--projects", "vision,speech", notes=notes)
    assert [line.split()[0] for line in shown.splitlines()[2:5]] == ["all", "vision", "speech"]
    modes = operator.json("mode")["modes"]
    assert [(at["project"], at["stage"]) for at in modes] == [
        ("", "observe"),
        ("vision", "canary"),
        ("speech", "canary"),
    ]
    assert len(operator.json("mode", "enforce")["modes"]) == 1


def test_of_a_project_that_has_jobs_nothing_is_noted(operator: Shell, tmp_path: Path) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text("run: python train.py\nproject: vision\n")
    operator("submit", str(spec))
    operator("mode", "canary", "--projects", "vision")
    operator("budget", "set", "40kWh", "--project", "vision")


def test_what_is_no_stage_is_said_in_a_line(operator: Shell, shell: Shell) -> None:
    assert "'[STAGE]': 'everything' is not one of 'observe', " in operator("mode", "everything", code=2)
    assert "'a b' is no name; use letters, digits and ._@-" in operator("mode", "shadow", "--projects", "a b", code=2)
    assert "no project is named" in operator("mode", "enforce", "--projects", "", code=2)
    assert "no stage is given" in operator("mode", "--projects", "vision", code=2)


def test_a_user_may_not_change_the_stage(shell: Shell) -> None:
    assert "operator" in shell("mode", "observe", code=4)


def test_history_tells_a_jobs_story(shell: Shell, tmp_path: Path) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text("run: python train.py\n")
    shell("submit", str(spec))
    told = shell("explain", "1", "--history")
    assert "started on 2 GPUs" in told
    assert "would run on 1 GPU" in told
    assert "0:01:30" in told
    assert [row["would"] for row in shell.json("explain", "1", "--history")["decisions"]] == [False, True]
    assert "there is no job 9" in shell("explain", "9", "--history", code=3)


# --- what would stop jobs -----------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """Somebody who types this."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def at_work(operator: Shell) -> Shell:
    """A node on which a job runs, so that the fake cluster asks before it drains it."""
    operator("submit", "--run", "python train.py")
    operator.cluster.run("1", node="n1")
    return operator


def drained(shell: Shell) -> bool:
    return ("n1", "drained") in [(node["name"], node["state"]) for node in shell.json("node", "list")["nodes"]]


def test_what_stops_jobs_needs_yes(at_work: Shell) -> None:
    said = at_work("node", "drain", "n1", code=4)
    assert said == "powerflow: job 1 would be paused; nothing was changed; --yes makes the change\n"
    assert not drained(at_work)
    assert at_work("node", "drain", "n1", "--yes") == "n1 is drained\n"
    assert drained(at_work)


@pytest.mark.parametrize(
    ("typed", "done"), [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_a_terminal_is_asked(at_work: Shell, monkeypatch: pytest.MonkeyPatch, typed: str, done: bool) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert main(["node", "drain", "n1"]) == (0 if done else 4)
    _, err = at_work.capsys.readouterr()
    assert err.startswith("powerflow: job 1 would be paused\nDo it anyway? [y/N] ")
    assert err.endswith("nothing was changed\n") is not done
    assert drained(at_work) is done
