from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from powerflow.cli.main import main
from powerflow.cli.options import shares, split
from powerflow.errors import InputError
from powerflow.simulate.frontier import Sweep
from tests.cli.logs import write_log


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(write_log(tmp_path, jobs=12))


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main([*argv])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(autouse=True)
def no_slow_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """One price is enough to see that the bound arrives; the search for good prices has tests of its own."""
    few = partial(Sweep, bound=(0.1,))
    monkeypatch.setattr("powerflow.simulate.compare.Sweep", few)
    monkeypatch.setattr("powerflow.simulate.frontier.Sweep", few)


def test_prints_the_table_and_writes_the_page(log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "out.html"
    options = ("--policies", "prices,fifo", "--seeds", "1", "--processes", "1", "--report", str(page))
    picture = tmp_path / "frontier.svg"
    code, out, err = run(capsys, "compare", log, "--cluster", "2x8:A100", *options, "--picture", str(picture))
    assert (code, err) == (0, "")
    assert "100 %" in out.replace("\u202f", " ")
    assert "FIFO" in out
    assert "simulated, not measured" in out
    assert f"report: {page}" in out
    assert page.read_text("utf-8").startswith("<!")
    assert picture.read_text("utf-8").startswith("<svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frontier.svg", "log.csv", "out.html"]


def test_json(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--policies", "prices,srtf+clock:0.7", "--seeds", "2", "--levels", "100%,0.85", "--processes", "1")
    code, out, _ = run(capsys, "compare", log, "--cluster", "2x8:A100", "--json", *options)
    assert code == 0
    document = json.loads(out)
    assert (document["version"], document["kind"]) == (1, "compare")
    assert document["levels"] == [1.0, 0.85]
    assert [(row["policy"], row["level"]) for row in document["rows"]] == [
        ("prices", 1.0),
        ("srtf+clock:0.7", 1.0),
        ("prices", 0.85),
        ("srtf+clock:0.7", 0.85),
    ]
    first = document["rows"][0]
    assert first["vs_prices"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert first["vs_bound"]["mean"] >= 1.0
    assert first["vs_bound"]["low"] is None  # of one seed there is no interval
    assert first["metrics"]["jct_mean_s"]["mean"] > 0
    points = document["frontiers"][0]["points"]
    assert {point["seed"] for point in points} == {0, 1}
    assert any(point["on_frontier"] for point in points)
    assert document["bound"][0].keys() == {"energy_j", "jct_mean_s"}
    assert document["report"] is None


def test_the_page_is_written_where_it_was_asked_for(
    log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--policies", "prices,fifo", "--seeds", "1", "--processes", "1", "--report", "page.html"]
    code, out, err = run(capsys, "compare", log, "--cluster", "2x8:A100", *options)
    assert (code, err) == (0, "")
    assert "report: page.html" in out
    assert (tmp_path / "page.html").read_text("utf-8").startswith("<!")


def test_a_log_needs_a_cluster(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "compare", log)
    assert code == 2
    assert err.startswith("powerflow: --cluster: no cluster is given; give --cluster 16x8:A100")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--seeds", "0"], "0 seeds"),
        (["--policies", "fifi"], "unknown policy 'fifi'"),
        (["--policies", "fifo,,srtf"], "has an empty part"),
        (["--levels", "0"], "not a share above 0"),
        (["--levels", "all"], "not a share above 0"),
        (["--levels", "80"], "--levels: 80 would be 8,000 %; write 80% or a share"),
        (["--load", "80"], "--load: 80 would be 80 times the GPUs there are; 1 keeps all GPUs busy; write 0.8"),
        (["--load", "-1"], "load is -1.0"),
        (["--belief", "hope"], "belief 'hope'"),
        (["--sizes", "unknown", "--policies", "srtf"], "needs the sizes of"),
        (["--processes", "0"], "--processes"),
        (["--share", "vision=0"], "'vision=0' is not a project and its share"),
    ],
)
def test_refuses_in_one_line_and_writes_nothing(
    options: list[str], said: str, log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "out.html"
    code, out, err = run(capsys, "compare", log, "--cluster", "2x8:A100", "--report", str(page), *options)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_more_logs_than_seeds_is_refused(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "compare", log, log, "--cluster", "2x8:A100", "--seeds", "1")
    assert code == 2
    assert "2 logs for 1 seeds" in err


def test_interrupted_ends_its_processes_and_leaves_no_file(tmp_path: Path) -> None:
    log = write_log(tmp_path, jobs=400)
    page = tmp_path / "out.html"
    argv = ["compare", str(log), "--cluster", "2x8:A100", "--processes", "2", "--report", str(page)]
    program = f"import sys; from powerflow.cli.main import main; sys.exit(main({argv!r}))"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        while len(_members(process.pid)) < 4 and process.poll() is None:  # it, its two workers, the resource tracker
            time.sleep(0.05)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (out, err) == (b"", b"powerflow: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
    for _ in range(200):
        if not _members(process.pid):
            break
        time.sleep(0.05)
    assert _members(process.pid) == []


def _members(session: int) -> list[int]:
    """Processes of a session that are alive."""
    alive = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            alive.append(int(entry.name))
    return alive


def test_words_between_commas() -> None:
    assert split(" a, b:1 ,c+zeus:0.5", "--policies") == ["a", "b:1", "c+zeus:0.5"]
    with pytest.raises(InputError, match="--policies"):
        split("a,", "--policies")


def test_shares_as_numbers_or_percent() -> None:
    assert shares("1.0, 90%,0.9,85 %", "--levels") == [1.0, 0.9, 0.85]
    with pytest.raises(InputError, match="'inf'"):
        shares("inf", "--levels")
