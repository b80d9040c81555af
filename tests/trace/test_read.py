"""What is common to all readers: finding the format, accounting for lines, refusing what is no log."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from powerflow.errors import InputError
from powerflow.trace.formats import FORMATS
from powerflow.trace.read import read_trace
from tests.trace import examples

Log = Callable[[str], Path]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    def write(text: str, name: str = "log") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8", newline="")
        return path

    return write


def test_every_format_has_an_example() -> None:
    assert {known.name for known in FORMATS} == set(examples.ALL)


@pytest.mark.parametrize("name", examples.ALL)
def test_format_is_found_out_and_gzip_and_line_ends_do_not_matter(name: str, log: Log, tmp_path: Path) -> None:
    text = examples.ALL[name]
    plain = read_trace(log(text))
    assert plain.format == name
    zipped = tmp_path / "log.gz"
    zipped.write_bytes(gzip.compress(text.encode()))
    windows = log("\ufeff" + text.replace("\n", "\r\n"))
    for other in (read_trace(zipped), read_trace(windows), read_trace(windows, name)):
        assert repr(other.jobs) == repr(plain.jobs)  # by repr: nan is not itself
        assert other.skipped == plain.skipped


def test_jobs_are_sorted_by_submission_then_position(log: Log) -> None:
    trace = read_trace(log("id,submit_s,duration_s,gpus\nc,5,1,1\nb,3,1,1\na,5,1,1\n"))
    assert [job.id for job in trace.jobs] == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("a,-1,60,1", "submit_s is negative (-1)"),
        ("a,0,-60,1", "duration_s is negative (-60)"),
        ("a,0,0,1", "duration_s is 0: the job never ran"),
        ("a,0,60,0", "no GPU: this is a CPU job"),
        ("a,0,60,-2", "GPU count is negative (-2)"),
        ("a,0,60,1.5", "GPU count is not a whole number (1.5)"),
        ("a,0,60,1e9", "GPU count is out of range (1e+09)"),
        ("a,soon,60,1", "submit_s is not a number ('soon')"),
        ("a,0,nan,1", "duration_s is not finite ('nan')"),
        ("a,0,inf,1", "duration_s is not finite ('inf')"),
        ("a,0,1_0,1", "duration_s is not a number ('1_0')"),
        ("a,1e13,60,1", "submit_s is out of range (1e+13)"),
        ("a,0,60,", "gpus is empty"),
        ("a,0,,1", "duration_s is empty, and model or iterations is missing"),
        ("a,0,60", "3 fields, but 4 columns in the header"),
    ],
)
def test_a_bad_row_is_skipped_with_its_line_and_reason(row: str, why: str, log: Log) -> None:
    trace = read_trace(log(f"id,submit_s,duration_s,gpus\n\n{row}\nok,1,1,1\n"))
    assert [job.id for job in trace.jobs] == ["ok"]
    assert [(line.line, line.why) for line in trace.skipped] == [(3, why)]


def test_jobs_of_one_name_are_told_apart(log: Log) -> None:
    trace = read_trace(log("id,submit_s,duration_s,gpus\na,0,1,1\na,1,1,1\na#2,2,1,1\na,3,1,1\n"))
    assert len({job.id for job in trace.jobs}) == 4
    assert trace.jobs[0].id == "a"
    assert any("have the name of an earlier one" in note for note in trace.notes)


def test_bytes_that_are_not_utf8_cost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"id,submit_s,duration_s,gpus,project\na,0,1,1,M\xfcller\n")
    assert read_trace(path).jobs[0].project == "M\\xfcller"


def test_progress_ends_within_the_file(log: Log) -> None:
    path = log("id,submit_s,duration_s,gpus\n" + "".join(f"j{i},{i},1,1\n" for i in range(9000)))
    seen: list[int] = []
    read_trace(path, progress=seen.append)
    assert seen == sorted(seen)
    assert 0 < seen[-1] <= path.stat().st_size


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("a,b\n1,2\n", "is not a known log format (it begins with 'a,b')"),
        ("id,submit_s,duration_s,gpus\n", "holds no job"),
        ("id,submit_s,duration_s,gpus\na,0,-1,1\n", "holds no job (1 lines skipped, the first, line 2: duration_s"),
        ("[", "is not a known log format"),
        ("MZ\x00\x01", "is a binary file"),
    ],
)
def test_what_is_no_log_is_refused_in_one_line(text: str, says: str, log: Log) -> None:
    with pytest.raises(InputError) as caught:
        read_trace(log(text))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.where.endswith("log")


@pytest.mark.parametrize("name", [known.name for known in FORMATS])
def test_a_wrong_format_is_refused(name: str, log: Log) -> None:
    with pytest.raises(InputError):
        read_trace(log("a,b\n1,2\n"), name)


def test_unknown_format_and_zone_are_refused(log: Log) -> None:
    path = log(examples.CSV)
    with pytest.raises(InputError, match="unknown format 'xml'"):
        read_trace(path, "xml")
    for zone in ("Mars/Olympus", "+99:00", "+a", "../../etc/passwd", "", "\x00"):
        if zone:
            with pytest.raises(InputError, match="time zone"):
                read_trace(path, tz=zone)


def test_what_cannot_be_opened_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such file") as missing:
        read_trace(tmp_path / "nothing")
    assert missing.value.exit_code == 3
    with pytest.raises(InputError, match="is a directory"):
        read_trace(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="not a regular file"):
        read_trace(pipe)

    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    secret = tmp_path / "secret"
    secret.write_text(examples.CSV)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)") as refused:
        read_trace(secret)
    assert refused.value.exit_code == 1


def test_a_torn_gzip_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(("id,submit_s,duration_s,gpus\n" + "a,0,1,1\n" * 9999).encode(), 1)
    for name, torn in {
        "short": whole[: len(whole) // 2],
        "false": b"\x1f\x8bnonsense",
        "flipped": whole[:-6] + b"xxxxxx",
    }.items():
        path = tmp_path / name
        path.write_bytes(torn)
        with pytest.raises(InputError, match="cannot be read"):
            read_trace(path)
