from __future__ import annotations

import json
from pathlib import Path

import pytest

from powerflow.cli.main import main
from tests.cli.logs import write_log


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(write_log(tmp_path))


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["simulate", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_says_what_came_of_it(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, log, "--cluster", "2x8:A100", "--policy", "fifo")
    assert (code, err) == (0, "")
    assert "fifo, 40 jobs" in out
    assert "mean job completion time" in out
    assert "simulated, not measured" in out
    assert "modelled: catalogue models on A100" in out


def test_json_has_a_version_and_adds_up(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, log, "--cluster", "2x8:A100", "--lambda", "1e-3", "--json")
    assert code == 0
    document = json.loads(out)
    assert (document["version"], document["kind"], document["policy"]) == (1, "simulate", "prices")
    assert document["lambda_s_per_j"] == 1e-3
    assert document["jobs"] == 40
    assert document["reference_j"] is None
    assert document["jobs_j"] + document["idle_j"] == pytest.approx(document["metrics"]["energy_j"], rel=1e-9)
    assert document["metrics"]["jct_mean_s"] > document["metrics"]["wait_mean_s"] >= 0


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = str(write_log(tmp_path, jobs=12))
    common = (log, "--cluster", "2x8:A100", "--json", "--belief", "online", "--mtbf", "40")
    first, again, other = (run(capsys, *common, "--seed", seed)[1] for seed in ("3", "3", "4"))
    assert first == again
    assert first != other


def test_shares_of_projects_decide_who_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "two.csv"
    rows = [f"{name}-{k},0,1,20000,{name}" for name in ("left", "right") for k in range(8)]
    path.write_text("\n".join(["id,submit_s,gpus,duration_s,project", *rows]) + "\n")

    def mean_s(*options: str) -> float:
        code, out, err = run(capsys, str(path), "--cluster", "1x4:A100", "--policy", "fifo", "--json", *options)
        assert (code, err) == (0, "")
        document = json.loads(out)
        assert document["facts"].get("Fair share", "") == ("shares right 3; each other project 1" if options else "")
        mean: float = document["metrics"]["jct_mean_s"]
        return mean

    assert mean_s("--share", "right=3") != mean_s()
    code, _, err = run(capsys, str(path), "--cluster", "1x4:A100", "--share", "right=3", "--share", "right=2")
    assert (code, err.count("\n")) == (2, 1)
    assert "project right has two shares" in err


def test_meets_a_share_of_fifos_energy(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, log, "--cluster", "2x8:A100", "--energy", "75%", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["metrics"]["energy_j"] <= 0.75 * document["reference_j"]
    assert document["metrics"]["energy_j"] > 0.70 * document["reference_j"]
    assert document["lambda_s_per_j"] > 0
    assert document["horizon_s"] > 0
    assert "runs for at most 75%" in document["facts"]["Price of energy"]


def test_meets_an_amount(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, log, "--cluster", "2x8:A100", "--json")
    free_kwh = json.loads(out)["metrics"]["energy_j"] / 3.6e6
    code, out, _ = run(capsys, log, "--cluster", "2x8:A100", "--json", "--energy", f"{0.9 * free_kwh}kWh")
    assert code == 0
    document = json.loads(out)
    assert document["metrics"]["energy_j"] <= 0.9 * free_kwh * 3.6e6
    assert document["horizon_s"] == document["end_s"]


def test_more_than_enough_energy_needs_no_price(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, log, "--cluster", "2x8:A100", "--json", "--energy", "1GWh")
    assert code == 0
    assert json.loads(out)["lambda_s_per_j"] == 0


def test_report_is_one_file(log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "out.html"
    code, out, _ = run(capsys, log, "--cluster", "2x8:A100", "--report", str(page))
    assert code == 0
    assert f"report: {page}" in out
    assert page.read_text("utf-8").startswith("<!")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "out.html"]


def test_quiet_says_nothing(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, log, "--cluster", "2x8:A100", "--quiet") == (0, "", "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--energy", "80%", "--lambda", "1e-3"], "--energy and --lambda are both given"),
        (["--energy", "much"], "'much' is not an amount of energy"),
        (["--energy", "0%"], "not more than 0"),
        (["--energy", "2%"], "does not reach 2.0%; the lowest it reached is"),
        (["--energy", "1Wh"], "does not reach 0.001 kWh; the lowest it reached is"),
        (["--energy", "80%", "--policy", "srtf"], "does not use an energy price"),
        (["--lambda", "1e-3", "--policy", "greedy"], "does not use an energy price"),
        (["--lambda", "-1"], "λ is -1.0"),
        (["--lambda", "nan"], "λ is nan"),
        (["--policy", "fifi"], "unknown policy 'fifi'"),
        (["--load", "-0.8"], "load is -0.8"),
        (["--load", "0"], "load is 0.0"),
        (["--belief", "hope"], "belief 'hope'"),
        (["--sizes", "huge"], "sizes 'huge'"),
        (["--sizes", "unknown", "--policy", "srtf"], "needs the sizes of"),
        (["--pause", "-1"], "pause_s is -1"),
        (["--mtbf", "0"], "node_mtbf_h is 0"),
        (["--most-gpus", "0"], "--most-gpus"),
        (["--seed", "-1"], "--seed"),
        (["--share", "vision"], "'vision' is not a project and its share"),
        (["--share", "vision=nan"], "'vision=nan' is not a project and its share"),
        (["--share", "vision=-2"], "'vision=-2' is not a project and its share"),
        (["--share", "=2"], "'=2' is not a project and its share"),
        (["--share", "vision=2"], "no job is of project 'vision'"),
        (["--cluster", "0x8:A100"], "0 nodes"),
        (["--cluster", "1x2:A100"], "more than the cluster's 2 GPUs"),
    ],
)
def test_refuses_in_one_line_and_writes_nothing(
    options: list[str], said: str, log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "out.html"
    cluster = [] if "--cluster" in options else ["--cluster", "2x8:A100"]
    code, out, err = run(capsys, log, *cluster, "--report", str(page), *options)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


@pytest.mark.parametrize(("name", "cluster"), [("none.csv", "2x8:A100"), ("log.csv", "2x8:Z80")])
def test_no_such_thing_is_not_found(
    name: str, cluster: str, log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, str(tmp_path / name), "--cluster", cluster)
    assert (code, out) == (3, "")
    assert err.count("\n") == 1


def test_a_report_that_cannot_be_written_is_known_before_the_run(
    log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("powerflow.simulate.run.Simulation.run", lambda *args, **kwargs: pytest.fail("it ran"))
    code, _, err = run(capsys, log, "--cluster", "2x8:A100", "--report", str(tmp_path / "none" / "out.html"))
    assert code == 3
    assert "its folder does not exist" in err


def test_interrupted_leaves_nothing_half_written(
    log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **kwargs: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("powerflow.simulate.run.Simulation.run", interrupt)
    page = tmp_path / "out.html"
    page.write_text("from yesterday")
    code, out, err = run(capsys, log, "--cluster", "2x8:A100", "--report", str(page))
    assert (code, out, err) == (130, "", "powerflow: interrupted\n")
    assert page.read_text() == "from yesterday"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "out.html"]
