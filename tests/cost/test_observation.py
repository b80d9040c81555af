"""The table of observations: what is read is what was written, and every slip is named by its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.cost.observation import Observation, observations_csv, read_observations
from powerflow.errors import InputError

HEADER = "model,gpu_type,gpus,nodes,local_batch,accumulation,clock_mhz,step_time_s,power_w\n"
GOOD = "bert,V100,2,1,8,1,1005,0.5,300\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "points.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_in_any_order_and_only_those_needed(tmp_path: Path) -> None:
    path = write(tmp_path, "gpus,step_time_s, local_batch,model,gpu_type\n1,0.25,8,bert,v100\n\n4, 0.1,2,bert,V100\n")
    assert read_observations(path) == [
        Observation("bert", "V100", 1, 8, 0.25),
        Observation("bert", "V100", 4, 2, 0.1),
    ]


def test_everything_given(tmp_path: Path) -> None:
    assert read_observations(write(tmp_path, "\ufeff" + HEADER + GOOD)) == [
        Observation("bert", "V100", 2, 8, 0.5, 1, 1, 1005.0, 300.0)
    ]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("bert,V100,2,1,8,1,1005,-0.5,300\n", 3, "step_time_s is -0.5"),
        ("bert,V100,2,1,8,1,1005,nan,300\n", 3, "step_time_s is nan"),
        ("bert,V100,2,1,8,1,1005,inf,300\n", 3, "step_time_s is inf"),
        ("bert,V100,2,1,8,1,1005,fast,300\n", 3, "'fast', not a number"),
        ("bert,V100,0,1,8,1,1005,0.5,300\n", 3, "gpus is 0"),
        ("bert,V100,1.5,1,8,1,1005,0.5,300\n", 3, "gpus is 1.5"),
        ("bert,V100,2,3,8,1,1005,0.5,300\n", 3, "3 nodes for 2 GPUs"),
        ("bert,V100,2,1,0,1,1005,0.5,300\n", 3, "local_batch is 0"),
        ("bert,V100,2,1,8,1,9999,0.5,300\n", 3, "clock 9999 MHz is outside the range of V100"),
        ("bert,V100,2,1,8,1,1,0.5,300\n", 3, "clock 1 MHz is outside"),
        ("bert,V100,2,1,8,1,1005,0.5,-1\n", 3, "power_w is -1"),
        ("bert,V101,2,1,8,1,fast,0.5,300\n", 3, "clock_mhz is 'fast'"),
        ("bert,V101,two,1,8,1,1005,0.5,300\n", 3, "gpus is 'two'"),
        (",V100,2,1,8,1,1005,0.5,300\n", 3, "model is empty"),
        ("bert,V100,2,1,8\n", 3, "5 values for 9 columns"),
        (GOOD + "\nbert,V100,2,1,8,1,1005,0,300\n", 5, "step_time_s is 0"),
    ],
)
def test_a_slip_is_named_by_its_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    path = write(tmp_path, HEADER + GOOD + text)
    with pytest.raises(InputError) as error:
        read_observations(path)
    assert error.value.where == f"{path}:{line}"
    assert what in error.value.what
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "holds no observations"),
        ("\n\n", "holds no observations"),
        (HEADER, "no observation"),
        ("model,gpu_type,gpus,local_batch,step_time_s,watts\n", "unknown column 'watts'"),
        ("model,gpu_type,gpus,local_batch\n", "'step_time_s' is missing"),
        ("model,gpu_type,gpus,local_batch,step_time_s,gpus\n", "two columns have the same name"),
    ],
)
def test_a_wrong_header_is_named(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        read_observations(write(tmp_path, text))


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "binary"
    for content in (b"\x89PNG\r\n\x1a\n\x00\xff\xfe", b"model,gpu\x00"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is not text"):
            read_observations(path)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such file") as missing:
        read_observations(tmp_path / "nowhere.csv")
    assert missing.value.exit_code == 3
    with pytest.raises(InputError, match="cannot be read"):
        read_observations(tmp_path)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match="cannot be read \\(Permission denied\\)"):
        read_observations(tmp_path / "points.csv")


names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=12)
numbers = st.floats(1e-6, 1e6)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.builds(
            Observation,
            model=names,
            gpu_type=st.just("V100"),
            gpus=st.integers(1, 64),
            local_batch=st.integers(1, 4096),
            step_time_s=numbers,
            nodes=st.just(1),
            accumulation=st.integers(1, 32),
            clock_mhz=st.none() | st.floats(135, 1530),
            power_w=st.none() | numbers,
        ),
        min_size=1,
        max_size=8,
    )
)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, points: list[Observation]) -> None:
    path = write(tmp_path_factory.mktemp("points"), observations_csv(points))
    assert read_observations(path) == points


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: (HEADER + text).encode("utf-8", "ignore")))
def test_no_bytes_bring_it_down(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "points.csv"
    path.write_bytes(content)
    try:
        points = read_observations(path)
    except InputError as error:
        points, where = [], error.where
    assert points or str(path) in where
