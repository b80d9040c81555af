"""``powerflow replay`` from the outside."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from powerflow.cli.main import main
from powerflow.trace.record import Trace
from powerflow.trace.write import write_trace
from tests.simulate.small import small_trace
from tests.simulate.test_replay_log import logged

QUICK = ("--belief", "oracle", "--sizes", "known", "--processes", "1")


def written(trace: Trace, path: Path) -> str:
    """All of one model: there is less to tabulate."""
    trace = replace(trace, jobs=tuple(replace(job, model="cifar10", global_batch=512) for job in trace.jobs))
    with path.open("w", encoding="utf-8", newline="") as stream:
        write_trace(trace, stream)
    return str(path)


@pytest.fixture
def log(tmp_path: Path) -> str:
    """A site that runs EASY."""
    return written(logged("easy", jobs=50), tmp_path / "log.csv")


@pytest.fixture
def strange(tmp_path: Path) -> str:
    """A site that makes everybody wait for an hour more than any policy that we know."""
    trace = logged("easy", jobs=50)
    jobs = tuple(replace(job, wait_s=(job.wait_s or 0.0) + 3600.0) for job in trace.jobs)
    return written(replace(trace, jobs=jobs), tmp_path / "strange.csv")


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    cluster = () if "--cluster" in argv else ("--cluster", "2x8:A100")
    code = main(["replay", *QUICK, *argv, *cluster])
    out, err = capsys.readouterr()
    return code, out, err


def test_says_how_well_it_is_reproduced_and_what_would_be_saved(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, log, "--tariff", "0.25", "--carbon", "380")
    assert (code, err) == (0, "")
    assert "Reproduced: EASY backfilling is off by 0\u202f% of the mean wait and 0\u202f% of the utilisation" in out
    assert "Recommended to begin with" in out
    assert "kg of CO2" in out
    assert "in money" in out
    assert "UNVALIDATED" not in out
    for modelled in ("completion time (modelled; 95 % intervals)", "Costs: modelled", "All numbers are modelled"):
        assert modelled in " ".join(out.split())  # a title is wrapped to the width of its table


def test_money_and_co2_only_where_asked(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, log)
    assert "money" not in out
    assert "CO2" not in out


def test_json_adds_up(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, log, "--tariff", "0.25", "--carbon", "380", "--json")
    assert code == 0
    document = json.loads(out)
    assert (document["version"], document["kind"], document["policy"]) == (1, "replay", "easy")
    assert document["modelled"] is document["validated"] is True
    assert document["refusal"] is None
    assert document["reproductions"][0]["error"] == 0
    assert sum(week["jobs"] for week in document["reproductions"][0]["weeks"]) == 50
    for way in document["savings"]["ways"]:
        saved_kwh = way["energy_j"]["mean"] / 3.6e6
        assert way["money"]["mean"] == pytest.approx(0.25 * saved_kwh)
        assert way["co2_kg"]["high"] == pytest.approx(0.38 * way["energy_j"]["high"] / 3.6e6)
        assert way["energy_share"]["mean"] * document["savings"]["site_j"] == pytest.approx(way["energy_j"]["mean"])


def test_same_seed_same_bytes_other_seed_other_bytes(
    log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    seen = []
    for seed in ("3", "3", "4"):
        data = run(capsys, log, "--seed", seed, "--json", "--report", str(page))[1]
        seen.append((data, page.read_text("utf-8")))
    assert seen[0] == seen[1]
    assert all(one != other for one, other in zip(seen[0], seen[2], strict=True))


def test_claims_nothing_where_it_is_not_reproduced(
    strange: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    code, out, err = run(capsys, strange, "--report", str(page))
    assert code == 4
    assert "no savings are reported: no policy reproduces the log within 10%: the best, " in err
    assert err.count("\n") == 1
    assert "How well is the log reproduced?" in out
    assert "What PowerFlow would have saved" not in out
    html = page.read_text("utf-8")
    assert "no savings are reported" in html
    assert '"savings":' not in html
    for words in ("something else held it back", "add Timelimit to sacct -o", "in the log, "):
        assert words in out
        assert words in html
    code, out, _ = run(capsys, strange, "--json")
    document = json.loads(out)
    assert code == 4
    assert document["savings"] is None
    assert document["validated"] is False
    assert any("held it back" in words for words in document["misses"])
    assert document["reproductions"][0]["error"] > 0.1


def test_unvalidated_estimates_are_labelled_everywhere(
    strange: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    code, out, err = run(capsys, strange, "--unvalidated", "--report", str(page))
    assert (code, err) == (0, "")
    assert "the following is UNVALIDATED: no policy reproduces" in out
    assert "UNVALIDATED: what PowerFlow would have saved" in out
    assert "UNVALIDATED: Recommended" in out or "UNVALIDATED: No way" in out
    assert page.read_text("utf-8").count("UNVALIDATED") >= 3
    _, out, _ = run(capsys, strange, "--unvalidated", "--json")
    assert json.loads(out)["validated"] is False
    assert json.loads(out)["savings"] is not None


def test_a_log_without_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, written(small_trace(), tmp_path / "log.csv"))
    assert code == 4
    assert "the log does not say when jobs started" in err
    assert "The site's policy: EASY backfilling, assumed" in out


def test_report_is_one_file_that_fetches_nothing(log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "out.html"
    code, out, _ = run(capsys, log, "--report", str(page))
    assert code == 0
    assert f"report: {page}" in out
    html = page.read_text("utf-8")
    assert html.startswith("<!")
    assert "Recommended to begin with" in html
    assert str(tmp_path) not in html
    assert "src=" not in re.sub(r"<script.*?</script>", "", html, flags=re.S)
    assert '"savings":' in html
    assert re.search(r"<h1>PowerFlow would have saved about [\d.]+ % of the energy and [\d.]+ % of the time", html)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "out.html"]


def test_quiet_says_nothing(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, log, "--quiet") == (0, "", "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tariff", "-1"], "--tariff: -1.0 is not a valid rate"),
        (["--carbon", "nan"], "--carbon: nan is not a valid rate"),
        (["--cluster", "1x2:A100"], "hold more than the cluster's 2 GPUs"),
        (["--cluster", "2x8:A100+1x4:T4"], "replay one partition at a time"),
        (["--cluster", "much"], "much"),
        (["--format", "swf"], "log.csv"),
        (["--tz", "Mars"], "--tz"),
        (["--seed", "-1"], "--seed"),
        (["--processes", "0"], "--processes"),
    ],
)
def test_refuses_in_one_line_and_writes_nothing(
    options: list[str], said: str, log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, log, *options, "--report", str(tmp_path / "out.html"))
    assert code in (1, 2, 3)
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_beliefs_are_checked(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    for option, value, said in (("--belief", "hope", "belief 'hope'"), ("--sizes", "huge", "sizes 'huge'")):
        code = main(["replay", log, "--cluster", "2x8:A100", "--processes", "1", option, value])
        assert code == 2
        assert said in capsys.readouterr().err


def test_interrupted_leaves_nothing_half_written(
    log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **kwargs: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("powerflow.simulate.run.Simulation.run", interrupt)
    page = tmp_path / "out.html"
    page.write_text("from yesterday")
    assert run(capsys, log, "--report", str(page)) == (130, "", "powerflow: interrupted\n")
    assert page.read_text() == "from yesterday"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "out.html"]
