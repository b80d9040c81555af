"""The table of runs says what files do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from powerflow.errors import InputError
from powerflow.measured.told import RunFacts, read_runs
from tests.measured import examples
from tests.measured.reading import near, read, refusal, told


def runs_of(folder: Path, text: str) -> list[RunFacts]:
    path = folder / "runs.csv"
    path.write_text(text)
    return read_runs(path)


def test_runs_say_what_each_file_does_not(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, "files,gpus,local_batch,steps\n0,1,32,40\n1,2,16,80\n")
    later = examples.ZEUS_OPTIMIZER.replace("gpu0_energy", "gpu0_energy,gpu1_energy").replace("00.0\n", "00.0,5000.0\n")
    seen, sources = read(tmp_path, examples.ZEUS_OPTIMIZER, later, runs=runs)
    assert [(o.gpus, o.local_batch, o.step_time_s) for o in seen] == [
        (1, 32, 0.5),
        (1, 32, 1),
        (2, 16, 0.25),
        (2, 16, 0.5),
    ]
    assert len(sources) == 2


def test_runs_are_parts_of_one_recording(tmp_path: Path) -> None:
    """The second at which a part begins and ends is written as the file writes it, or since 1970."""
    runs = runs_of(
        tmp_path,
        "start,end,local_batch,step_time_s\n2026/01/01 00:00:26,2026-01-01 00:00:40,16,0.5\n"
        "2026-01-01T00:00:40,2026/01/01 00:00:59.5,16,0.5\n",
    )
    seen, _ = read(tmp_path, examples.nvidia_smi(), runs=runs)
    assert [o.power_w for o in seen] == [near(600)] * 2
    runs = [RunFacts("r:2", start=str(examples.START_S + 105))]
    (one,), _ = read(tmp_path, examples.prometheus(), runs=runs)
    assert one.step_time_s == near(0.5)
    runs = [RunFacts("r:2", start="2026-01-01T00:01:45")]
    assert "has no time zone; write" in refusal(tmp_path, examples.prometheus(), runs=runs)
    runs = [RunFacts("r:2", start="105")]
    assert "'105' is no date" in refusal(tmp_path, examples.nvidia_smi(), told=told(step_time_s=0.5), runs=runs)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gpu,steps\n1,1\n", "runs.csv:1: unknown column 'gpu'; columns are files, window"),
        ("gpus,steps\n0,1\n", "runs.csv:2: gpus is not a whole number above 0 ('0')"),
        ("gpus,step_time_s\n1,-2\n", "runs.csv:2: step_time_s is not above 0 ('-2')"),
        ("gpus,steps\n", "runs.csv: holds no run"),
        ("gpus,steps\n1\n", "runs.csv: has a row that does not fit the header"),
        ("", "runs.csv: holds no run"),
    ],
)
def test_a_slip_in_the_table_of_runs(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InputError) as error:
        runs_of(tmp_path, text)
    assert why in str(error.value)


def test_rows_of_runs_that_fit_nothing(tmp_path: Path) -> None:
    runs = [RunFacts("r:2", files=("9",))]
    assert "'9' is not among the files" in refusal(tmp_path, examples.ZEUS_OPTIMIZER, runs=runs)
    runs = [RunFacts("r:2", window="stepp")]
    assert "no window or run is named 'stepp'; there are 'step'" in refusal(tmp_path, examples.ZEUS_WINDOWS, runs=runs)
    runs = [RunFacts("r:2", files=("0",)), RunFacts("r:3", files=("0",))]
    assert "'step' is also of the row r:2" in refusal(tmp_path, examples.ZEUS_WINDOWS, runs=runs)
    runs = [RunFacts("r:2", files=("0",))]
    assert "no row of --runs is for it" in refusal(tmp_path, examples.prometheus(), examples.wandb_events(), runs=runs)
    points = "model,gpu_type,gpus,local_batch,step_time_s\nlm,A100,1,16,0.5\n"
    assert "--model: a table of observations says this itself" in refusal(tmp_path, points)
