"""`powerflow poc` as a user has it: a log of sacct, and the file of a watch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from powerflow.cli.main import main
from tests.poc.made_up_site import CLUSTER, Truth, site_trace, truth_of, write_log, write_watch

QUICK = ("--belief", "oracle", "--sizes", "known", "--processes", "1", "--tz", "UTC")
TRACE = site_trace()


@pytest.fixture(scope="module")
def truth() -> Truth:
    return truth_of(TRACE, 1)


@pytest.fixture
def site(truth: Truth, tmp_path: Path) -> Path:
    write_log(TRACE, tmp_path / "log.txt")
    write_watch(truth.measured(), tmp_path / "w.db")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], site: Path, *argv: str) -> tuple[int, str, str]:
    given = ("--file" in argv, "--cluster" in argv)
    defaults = (("--file", str(site / "w.db")), ("--cluster", CLUSTER))
    words = [word for known, pair in zip(given, defaults, strict=True) if not known for word in pair]
    code = main(["poc", str(site / "log.txt"), *QUICK, *words, *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_one_page_and_json_that_adds_up(site: Path, truth: Truth, capsys: pytest.CaptureFixture[str]) -> None:
    page = site / "p.html"
    price = ["--tariff", "31", "--currency", "JPY", "--carbon", "430", "--high", "qos=high"]
    code, out, err = run(capsys, site, *price, "--json", "--language", "ja", "--report", str(page))
    assert (code, err) == (0, "")
    document: dict[str, Any] = json.loads(out)
    assert (document["validated"], document["refusals"], document["emulated"]) == (True, [], False)
    measured_j = sum(run.energy_j for run in truth.measured())
    assert document["measured"]["energy_j"] == pytest.approx(measured_j)
    assert document["measured"]["gpu_hours_share"] == pytest.approx(1.0, abs=1e-4)
    kept, free = document["scenarios"]
    assert (kept["gpus_as_asked"], free["gpus_as_asked"]) == (True, False)
    saved = kept["at_equal_time"]
    assert saved["money"]["mean"] == pytest.approx(31 * saved["energy_j"]["mean"] / 3.6e6)
    assert saved["co2_kg"]["low"] == pytest.approx(0.43 * saved["energy_j"]["low"] / 3.6e6)
    assert saved["energy_share"]["mean"] * document["site_j"] == pytest.approx(saved["energy_j"]["mean"])
    assert kept["high_priority"]["jobs"] == 7
    assert kept["high_priority_delay"]["jobs"] == 7
    assert 0 <= kept["high_priority_delayed_share"] <= 0.2
    assert {user["name"] for user in kept["users"]} == {"ada", "bob", "eve", "kim"}
    html = page.read_text("utf-8")
    assert '<html lang="ja">' in html
    assert f"{saved['energy_j']['low'] / 3.6e6:.3g}〜" in html
    assert str(site) not in html


@pytest.mark.parametrize("language", ["en", "ja"])
def test_refused_in_one_line_with_a_page(
    language: str, site: Path, truth: Truth, capsys: pytest.CaptureFixture[str]
) -> None:
    write_watch(truth.measured(0.1), site / "few.db")
    page = site / "p.html"
    code, out, err = run(
        capsys, site, "--file", str(site / "few.db"), "--language", language, "--report", str(page), "--quiet"
    )
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert "of the log's GPU-hours have measured joules, less than 50" in err
    assert "let powerflow watch run on all GPUs for 7 days" in err
    assert "powerflow watch" in page.read_text("utf-8")


def test_another_time_zone_is_named(site: Path, truth: Truth, capsys: pytest.CaptureFixture[str]) -> None:
    late = [replace(each, start_s=each.start_s + 9 * 3600) for each in truth.measured()]
    write_watch(late, site / "late.db")
    code, _, err = run(capsys, site, "--file", str(site / "late.db"), "--json")
    assert code == 4
    assert "9 h later than in the log: give its time zone with --tz" in err


def test_names_control_no_terminal_and_no_page(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[31m<script>alert(1)</script>"
    jobs = tuple(replace(job, user=evil if job.user == "ada" else job.user) for job in TRACE.jobs)
    write_log(replace(TRACE, jobs=jobs), site / "log.txt")
    code, out, err = run(capsys, site, "--report", str(site / "p.html"))
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    html = (site / "p.html").read_text("utf-8")
    assert "\x1b" not in html
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--tariff", "-1"], 2, "--tariff: -1.0 is not a valid rate"),
        (["--cluster", "1x8:A100+1x8:V100"], 4, "take one partition at a time"),
        (["--cluster", "much"], 2, "much"),
        (["--high", "qos=urgent"], 2, "no job of the log has qos=urgent; it has normal, high"),
        (["--high", "urgent"], 2, "write qos=high"),
        (["--language", "fr"], 2, "--language"),
        (["--file", "none.db"], 3, "run powerflow watch first"),
        (["--file", "log.txt"], 1, "cannot be used"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(
    options: list[str],
    code: int,
    said: str,
    site: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(site)
    found, out, err = run(capsys, site, *options, "--report", "p.html")
    assert (found, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1
    assert not (site / "p.html").exists()
