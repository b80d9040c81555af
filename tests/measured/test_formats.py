"""Readers of watts without steps: nvidia-smi and dcgmi dmon. What is training in each file is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from powerflow.cost.observation import Observation
from powerflow.measured.formats.format import Hints
from powerflow.measured.told import Told
from tests.measured import examples
from tests.measured.reading import LM, near, read, refusal, told


@pytest.mark.parametrize("units", [True, False])
def test_nvidia_smi(tmp_path: Path, units: bool) -> None:
    """35 intervals of 300 W follow 5 slow ones and 20 idle ones; the interval between two kinds belongs to none."""
    only = Told(model="lm", local_batch=16, step_time_s=0.5)  # the GPU type and their number are in the file
    (seen,), (source,) = read(tmp_path, examples.nvidia_smi(units=units), told=only)
    assert seen == Observation("lm", "A100", 2, 16, 0.5, clock_mhz=1410.0, power_w=near(600))
    assert source.left_out == {"idle": 20, "in warm-up": 4}
    assert source.used == 59 - 24


def test_gpus_of_the_node_that_idle_are_left_out(tmp_path: Path) -> None:
    lines = examples.nvidia_smi().splitlines()
    idle = [line for line in lines if ", 0, NVIDIA" in line]
    others = [
        line.replace(", 0, NVIDIA", f", {gpu}, NVIDIA").replace("300.00", "58.00").replace("1410", "210")
        .replace("97 %", "0 %") for line in idle for gpu in (2, 3)
    ]  # fmt: skip
    (seen,), (source,) = read(tmp_path, "\n".join([*lines, *others]), told=told(step_time_s=0.5))
    assert (seen.gpus, seen.clock_mhz, seen.power_w) == (2, 1410.0, near(600))
    assert "idle GPUs are left out: 2, 3" in source.notes


def test_steps_are_divided_over_the_time_in_which_gpus_work(tmp_path: Path) -> None:
    """Between the first and the last reading of working GPUs are 39 s; 78 steps are 0.5 s each, and this is said."""
    (seen,), (source,) = read(tmp_path, examples.nvidia_smi(), told=told(steps=78))
    assert seen.step_time_s == near(0.5)
    assert "divided over warm-up" in source.notes[0]


def test_a_file_of_one_gpu_needs_no_index(tmp_path: Path) -> None:
    def without_index(text: str) -> str:
        return "\n".join(", ".join(line.split(", ")[:1] + line.split(", ")[2:]) for line in text.splitlines())

    (seen,), _ = read(tmp_path, without_index(examples.nvidia_smi(gpus=("0",))), told=told(step_time_s=0.5))
    assert (seen.gpus, seen.power_w) == (1, near(300))
    assert "several GPUs" in refusal(tmp_path, without_index(examples.nvidia_smi()), told=told(step_time_s=0.5))


@pytest.mark.parametrize("word", ["[N/A]", "[Not Supported]", "N/A", "[Unknown Error]"])
def test_what_a_card_does_not_report_is_missing_not_zero(tmp_path: Path, word: str) -> None:
    text = examples.nvidia_smi().replace("1410 MHz", word)
    (seen,), _ = read(tmp_path, text, told=told(step_time_s=0.5))
    assert seen.clock_mhz is None
    assert seen.power_limit_w == 400.0  # without a clock, the limit counts
    assert "has no value" in refusal(tmp_path, examples.nvidia_smi().replace("300.00 W", word).replace("200.00 W", word)
                                     .replace("60.00 W", word), told=told(step_time_s=0.5))  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("power.draw [W]", "power.draw [BTU]", None),  # the value has its own unit
        ("300.00 W", "300.00 BTU", "the unit of power.draw [W] is 'BTU'"),
        ("300.00 W", "300,00 W", "rows cannot be read"),
        ("power.draw [W]", "memory.used [MiB]", "has no column power.draw"),
        ("timestamp", "pstate", "has no column timestamp; add timestamp to --query-gpu, or give --interval"),
        ("2026/01/01", "01.01.2026", "rows cannot be read"),
        (", NVIDIA A100-SXM4-80GB, 300", ", Tesla T4, 300", "GPUs of several types"),
    ],
)
def test_nvidia_smi_with_other_columns(tmp_path: Path, old: str, new: str, why: str | None) -> None:
    text = examples.nvidia_smi().replace(old, new)
    if why is None:
        assert read(tmp_path, text, told=told(step_time_s=0.5))[0][0].power_w == near(600)
    else:
        assert why in refusal(tmp_path, text, told=told(step_time_s=0.5))


def test_a_unit_is_never_guessed(tmp_path: Path) -> None:
    text = examples.nvidia_smi(units=False).replace("power.draw [W]", "power.draw")
    assert "power.draw has no unit" in refusal(tmp_path, text, told=told(step_time_s=0.5))


def test_a_torn_line_is_counted(tmp_path: Path) -> None:
    _, (source,) = read(tmp_path, examples.nvidia_smi()[:-30], told=told(step_time_s=0.5))
    assert source.left_out["that cannot be read"] == 1


@pytest.mark.parametrize("times", [True, False])
def test_dcgmi_dmon(tmp_path: Path, times: bool) -> None:
    hints = Hints() if times else Hints(interval_s=1.0)
    (seen,), (source,) = read(tmp_path, examples.dcgmi(times=times), told=told(step_time_s=0.5), hints=hints)
    assert seen == Observation("lm", "A100", 2, 16, 0.5, clock_mhz=1410.0, power_w=near(600))
    assert source.left_out == {"idle": 20, "in warm-up": 4}


def test_dcgmi_dmon_has_no_times(tmp_path: Path) -> None:
    assert "give --interval SECONDS: the -d of dcgmi dmon" in refusal(tmp_path, examples.dcgmi(), told=LM)


def test_a_unit_that_dcgm_prints_counts(tmp_path: Path) -> None:
    text = examples.dcgmi().replace("  W   ", "  kBTU", 1)
    assert "the unit of POWER is 'kBTU'" in refusal(tmp_path, text, told=LM, hints=Hints(interval_s=1.0))


def test_idle_gpus_are_told_by_the_types_draw_where_the_utilisation_is_not_read(tmp_path: Path) -> None:
    text = examples.nvidia_smi().replace("utilization.gpu [%]", "pstate")
    (seen,), (source,) = read(tmp_path, text, told=told(step_time_s=0.5))
    assert seen.power_w == near(600)
    assert source.left_out["idle"] == 20  # an idle A100 draws 60 W
    assert "all GPUs in it are taken as the run's" in source.notes[-1]
    assert "cannot be told from training" in refusal(tmp_path, text, told=told(step_time_s=0.5, gpu_type="Z99"))
