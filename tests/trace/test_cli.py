"""``powerflow trace`` as a person meets it: what it prints, what it writes, how it refuses."""

import json
from pathlib import Path

import pytest

from powerflow.cli.main import main
from powerflow.trace.read import read_trace
from tests.trace import examples


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "sacct.txt"
    path.write_text(examples.SACCT)
    return path


def test_info_tells_what_was_skipped_and_assumed(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "info", str(log)]) == 0
    said = capsys.readouterr().out
    assert "(sacct)" in said
    assert "skipped 4 lines:" in said
    assert "1 × not ended (first: line 5)" in said
    assert "note: times without an offset are read as UTC (assumed; --tz changes it)" in said


def test_info_json_has_null_for_what_is_missing(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "info", str(log), "--json", "--tz", "Europe/Berlin", "--format", "sacct"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["version"], document["kind"], document["format"]) == (1, "trace", "sacct")
    assert document["statistics"]["jobs"] == 3
    assert document["skipped_count"] == 4
    assert document["skipped_lines"][0] == {"line": 3, "why": "a step of a job, not a job"}
    pollux = log.with_name("pollux.csv")
    pollux.write_text(examples.POLLUX)
    assert main(["trace", "info", str(pollux), "--json"]) == 0
    statistics = json.loads(capsys.readouterr().out)["statistics"]
    assert statistics["duration_s"] is None
    assert statistics["gpu_hours"] is None


def test_convert_keeps_every_job(log: Path, tmp_path: Path) -> None:
    output = tmp_path / "jobs.csv"
    assert main(["trace", "convert", str(log), "-o", str(output)]) == 0
    assert read_trace(output).jobs == read_trace(log).jobs


def test_generate_is_the_same_bytes_for_the_same_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / name for name in ("a.csv", "b.csv")]
    for path in paths:
        words = ["trace", "generate", "-o", str(path), "--jobs", "90", "--seed", "7", "--profile", "helios", "--json"]
        assert main(words) == 0
    document = json.loads(capsys.readouterr().out.partition("\n}\n")[0] + "}")
    assert document["statistics"]["jobs"] == 90
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len(read_trace(paths[0]).jobs) == 90


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["info", "nothing.csv"], 3, "nothing.csv: there is no such file"),
        (["info", "."], 2, "is a directory"),
        (["convert", "{log}", "-o", "no/such/folder.csv"], 3, "its folder does not exist"),
        (["convert", "{log}", "-o", "out.csv", "--format", "swf"], 2, "not SWF"),
        (["generate", "-o", "out.csv", "--days", "0"], 2, "cannot span 0 days"),
        (["generate", "-o", "out.csv", "--profile", "mine"], 2, "unknown profile 'mine'"),
        (["generate", "-o", "out.csv", "--jobs", "1", "--load", "9.5"], 2, "cannot reach that load"),
        (["generate"], 2, "Missing option"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing_behind(
    words: list[str],
    code: int,
    says: str,
    log: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(log.parent)
    before = set(log.parent.iterdir())
    assert main(["trace", *(word.replace("{log}", str(log)) for word in words)]) == code
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert set(log.parent.iterdir()) == before
