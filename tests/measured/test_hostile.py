"""Whatever a measured file holds, reading it gives finite points or one line that says what is wrong."""

from __future__ import annotations

import gzip
import math
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from powerflow.cost.observation import observations_of
from powerflow.errors import InputError
from powerflow.measured import values
from powerflow.measured.formats.format import Hints
from powerflow.measured.read import read_measured
from powerflow.measured.told import Told
from tests.measured import examples

#: A valid file of each format, and what the user says of it.
FILES = {
    "nvidia-smi": (examples.nvidia_smi(), Told(step_time_s=0.5)),
    "dcgmi": (examples.dcgmi(times=True), Told(step_time_s=0.5)),
    "prometheus": (examples.prometheus(), Told()),
    "wandb csv": (examples.wandb_history(), Told(gpus=2)),
    "wandb events": (examples.wandb_events(), Told(step_time_s=0.5)),
    "wandb json": (examples.wandb_jsonl(), Told()),
    "zeus windows": (examples.ZEUS_WINDOWS, Told(steps=1)),
    "zeus limits": (examples.ZEUS_LIMITS, Told(samples=1000)),
    "codecarbon": (examples.codecarbon([("2026-01-01T10:00:00", "a", 3600.0, 3.2)] * 2), Told(steps=10)),
}
NASTY = st.sampled_from(
    ["-1", "0", "nan", "inf", "-inf", "1e308", "1e-308", "9" * 5000, "", '"', ",", "\n", "\x00", "\ud7ff", "{", "]",
     "null", "[N/A]", "1,5", "1_000", "2026/01/01 00:00:00", "9999-12-31 23:59:59", " W", "GPU 0", "true", "[[[[", "∞"]
)  # fmt: skip
fuzz = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(path: Path, content: bytes, told: Told) -> None:
    path.write_bytes(content)
    refusal: InputError | None = None
    try:
        found = read_measured([path], told.over(Told(model="lm", gpu_type="A100", local_batch=16)), (), Hints())
        points = observations_of(found.rows)
    except InputError as error:
        refusal = error
    if refusal is not None:
        assert "\n" not in str(refusal)
        assert str(path) in refusal.where or refusal.where.startswith("--")
        return
    assert points
    for seen in points:
        assert 0 < seen.step_time_s < math.inf
        assert seen.power_w is None or 0 < seen.power_w < math.inf
    assert all(count >= 0 for source in found.sources for count in source.left_out.values())


@pytest.mark.parametrize("name", FILES)
@fuzz
@given(data=st.data())
def test_files_with_anything_in_them(name: str, data: st.DataObject, tmp_path: Path) -> None:
    text, told = FILES[name]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 12))
        text = text[:at] + data.draw(NASTY) + text[at + cut :]
    check(tmp_path / "file", text.encode("utf-8", "surrogatepass"), told)


@pytest.mark.parametrize("name", FILES)
@fuzz
@given(data=st.data())
def test_files_with_strange_values(name: str, data: st.DataObject, tmp_path: Path) -> None:
    """Whole values, so that the rest is read."""
    text, told = FILES[name]
    numbers = list(re.finditer(r"[\d.]+", text))
    for found in data.draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=3)):
        text = text[: found.start()] + data.draw(NASTY) + text[found.end() :]
    check(tmp_path / "file", text.encode("utf-8", "surrogatepass"), told)


@pytest.mark.parametrize("name", FILES)
@fuzz
@given(data=st.data())
def test_files_that_end_too_early(name: str, data: st.DataObject, tmp_path: Path) -> None:
    text, told = FILES[name]
    check(tmp_path / "file", text[: data.draw(st.integers(0, len(text)))].encode(), told)


@fuzz
@given(content=st.binary(max_size=300))
def test_random_bytes(content: bytes, tmp_path: Path) -> None:
    check(tmp_path / "file", content, Told(step_time_s=0.5, gpus=1))


@pytest.mark.parametrize("name", FILES)
def test_packed_files_and_those_of_powershell(name: str, tmp_path: Path) -> None:
    text, told = FILES[name]
    plain, packed, wide = (tmp_path / part for part in ("plain", "packed", "wide"))
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    wide.write_bytes(text.replace("\n", "\r\n").encode("utf-16"))
    told = told.over(Told(model="lm", gpu_type="A100", local_batch=16))
    rows = [[row for row, _ in read_measured([path], told, (), Hints()).rows] for path in (plain, packed, wide)]
    assert rows[0] == rows[1] == rows[2]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2026/01/01 12:00:00.000, 0, 300.00 W\n", "is nvidia-smi output without its header; leave out noheader"),
        ("# gpu   pwr  gtemp\n# Idx     W      C\n    0    42     40\n", "is nvidia-smi dmon output"),
        ('"Step","run - loss","run - loss__MIN"\n1,2,3\n', "is the export of one W&B panel; write run.history()"),
        ("# HELP DCGM_FI_DEV_POWER_USAGE x\n", "is a page of metrics at one moment"),
        ('[{"_step": 1, "_timestamp": 2}]\n', "is a JSON array; write one JSON object a line"),
        ('{"version": 1, "kind": "models", "models": []}', "is a file of fitted models"),
        ("a,b\n1,2\n", "is no known kind of measurement (it begins with 'a,b'); give a table of observations"),
        ("timestamp,emissions,project_name,duration\n1,2,3,4\n", "has no column gpu_energy"),
        ("a\x00b", "is a binary file"),
        ("timestamp, index, power.draw [W]\n", "holds a header but no row that can be read"),
        ("start_time,window_name,elapsed_time\n1,a,2\n", "has no energy of GPUs"),
        ('{"_timestamp": 1, "loss": 2}\n', "has neither steps nor watts of GPUs"),
    ],
)
def test_what_a_file_is_instead(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_measured([path], Told(model="lm"), (), Hints())
    assert str(error.value).startswith(f"{path}: {why}")


@pytest.mark.parametrize("name", ["nvidia-smi", "prometheus", "wandb json", "dcgmi"])
def test_a_file_that_never_ends(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "MOST_CHARS", 1 << 10)
    monkeypatch.setattr(values, "MOST_JSON_CHARS", 1 << 10)
    path = tmp_path / "file"
    path.write_text(FILES[name][0])
    with pytest.raises(InputError, match="is larger than 0 MiB"):
        read_measured([path], FILES[name][1], (), Hints())


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file") as error:
        read_measured([tmp_path / "nothing"], Told(), (), Hints())
    assert error.value.exit_code == 3
