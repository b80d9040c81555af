"""Whatever a file holds, reading it gives a trace or an InputError, never anything else."""

import gzip
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from powerflow.errors import InputError
from powerflow.trace.formats import FORMATS
from powerflow.trace.read import read_trace
from powerflow.trace.record import Trace
from tests.slow import ALL
from tests.trace import examples

NAMES = [known.name for known in FORMATS]
fuzz = settings(
    deadline=None, max_examples=60 if ALL else 24, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

NASTY = st.sampled_from(
    ["-1", "0", "nan", "inf", "-inf", "1e999", "9" * 5000, "", '"', '""', "|", ",", "\n", "\x00", "\ud7ff", "{", "]",
     "null", "2017-11-05 01:30:00", "9999-12-31 23:59:59", "0001-01-01", "Unknown", "-9-99:99:99", "gres/gpu=", "1K"]
)  # fmt: skip


def check(path: Path, content: bytes, format: str | None) -> None:
    """Read the content; what comes out is usable, or a refusal of one line."""
    path.write_bytes(content)
    try:
        trace = read_trace(path, format)
    except InputError as error:
        refusal = str(error)
    else:
        check_jobs(trace)
        return
    assert "\n" not in refusal


def check_jobs(trace: Trace) -> None:
    assert trace.jobs
    assert [job.submit_s for job in trace.jobs] == sorted(job.submit_s for job in trace.jobs)
    assert len({job.id for job in trace.jobs}) == len(trace.jobs)
    for job in trace.jobs:
        assert job.gpus >= 1
        assert 0 <= job.submit_s < math.inf
        assert job.duration_s > 0 or (math.isnan(job.duration_s) and job.iterations and job.model)
        assert job.wait_s is None or 0 <= job.wait_s < math.inf
        assert job.iterations is None or 0 < job.iterations < math.inf
    assert all(line.line >= 1 and line.why for line in trace.skipped)


@pytest.mark.parametrize("format", [None, *NAMES])
@fuzz
@given(content=st.binary(max_size=300))
def test_random_bytes(format: str | None, content: bytes, tmp_path: Path) -> None:
    check(tmp_path / "log", content, format)


@pytest.mark.parametrize("format", [None, *NAMES])
@fuzz
@given(content=st.text(alphabet=st.sampled_from(list('0123456789-.,|:;"{}[]\n eE+_TtZaJobIDsubmit')), max_size=200))
def test_random_text_of_the_alphabet_of_logs(format: str | None, content: str, tmp_path: Path) -> None:
    check(tmp_path / "log", content.encode(), format)


@pytest.mark.parametrize("name", NAMES)
@fuzz
@given(data=st.data())
def test_valid_logs_with_words_replaced(name: str, data: st.DataObject, tmp_path: Path) -> None:
    text = examples.ALL[name]
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(NASTY | st.text(max_size=8)) + text[end:]
    content = text.encode("utf-8", "surrogatepass")
    check(tmp_path / "log", content, data.draw(st.sampled_from([None, name])))


@pytest.mark.parametrize("name", NAMES)
@fuzz
@given(data=st.data())
def test_valid_logs_with_fields_replaced(name: str, data: st.DataObject, tmp_path: Path) -> None:
    """Whole fields, so that most rows still parse and the values are what is strange."""
    mark = "|" if name == "sacct" else ","
    lines = examples.ALL[name].splitlines()
    row = data.draw(st.integers(min(1, len(lines) - 1), len(lines) - 1))
    fields = lines[row].split(mark) if name != "swf" else lines[row].split()
    if fields:
        fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(NASTY)
    lines[row] = (" " if name == "swf" else mark).join(fields)
    check(tmp_path / "log", "\n".join(lines).encode("utf-8", "surrogatepass"), name)


@fuzz
@given(data=st.data())
def test_gzip_with_bytes_replaced(data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(gzip.compress(examples.CSV.encode(), mtime=0))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(2, len(content) - 1))] = data.draw(st.integers(0, 255))
    check(tmp_path / "log", bytes(content[: data.draw(st.integers(2, len(content)))]), None)
