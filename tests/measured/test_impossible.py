"""Watts and joules that no GPU can draw are left out, counted and named; steps of two kinds of files are not mixed."""

from __future__ import annotations

from pathlib import Path

import pytest

from powerflow.measured.told import RunFacts, Told
from tests.measured import examples
from tests.measured.reading import near, read, refusal, told

WATTS = "impossible readings of power (below 0 or above 5,000 W)"


def test_impossible_watts_are_counted_and_named(tmp_path: Path) -> None:
    text = examples.nvidia_smi().replace("300.00 W, 1410", "99999.00 W, 1410", 7).replace("300.00", "-5.00", 3)
    (seen,), (source,) = read(tmp_path, text, told=told(step_time_s=0.5))
    assert seen.power_w == near(600.0)
    assert source.left_out[WATTS] == 10
    assert f"10 {WATTS}" in source.said()


def test_where_all_watts_are_impossible_the_refusal_says_so(tmp_path: Path) -> None:
    """Milliwatts that are called watts."""
    text = examples.nvidia_smi().replace("300.00 W", "300000.00 W").replace("200.00 W", "200000.00 W")
    assert f"left out are 80 {WATTS}" in refusal(tmp_path, text, told=told(step_time_s=0.5))


def test_infinity_of_prometheus_is_impossible_and_no_step(tmp_path: Path) -> None:
    only = Told(model="lm", local_batch=16)
    text = examples.prometheus().replace('"300.0"', '"+Inf"', 4)
    (seen,), (source,) = read(tmp_path, text, told=only)
    assert source.left_out[WATTS] == 4
    assert seen.power_w == near(600.0)
    steps = examples.prometheus().replace('"150"]', '"+Inf"]')
    (seen,), _ = read(tmp_path, steps, told=only)
    assert seen.step_time_s == near(0.5)


def test_a_counter_that_jumps_is_counted(tmp_path: Path) -> None:
    """At one moment it is 10 MJ ahead: it rises and falls impossibly, and all other moments count."""
    lines = examples.dcgmi(times=True).splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if line.startswith(f"{examples.START_S + 40}.000 GPU 0"))
    counted = lines[at].split()[4]
    lines[at] = lines[at].replace(counted, f"{int(counted) + 10**10:<{len(counted)}}")
    (seen,), (source,) = read(tmp_path, "".join(lines), told=told(step_time_s=0.5))
    assert seen.power_w == near(600.0)
    assert source.left_out["steps back of an energy counter"] == 1
    assert source.left_out["rises of an energy counter by more than 5,000 W"] == 1


def test_totals_that_no_gpu_can_draw_are_left_out_or_refused(tmp_path: Path) -> None:
    """8 GPUs draw 3.2 kWh in an hour: 400 W each. Watt-hours called kilowatt-hours are a thousand times as much."""
    good, bad = ("2026-01-01T10:00:00", "a", 3600.0, 3.2), ("2026-01-01T20:00:00", "b", 3600.0, 3200.0)
    (seen,), (source,) = read(tmp_path, examples.codecarbon([good, bad]), told=told(steps=10))
    assert seen.power_w == near(3200.0)
    assert source.left_out == {"with more than 2,600 W a GPU": 1}
    said = refusal(tmp_path, examples.codecarbon([bad]), told=told(steps=10))
    assert "line 2 has 400,000 W a GPU on average, more than 2,600 W; check the unit of its energy" in said


def test_a_window_with_an_energy_below_zero_is_not_called_short(tmp_path: Path) -> None:
    text = examples.ZEUS_WINDOWS.replace("107.5,step,0.5,150.0,150.0", "107.5,step,0.5,-150.0,150.0")
    _, (source,) = read(tmp_path, text, told=told(steps=1))
    assert (source.left_out["with an energy below 0"], source.left_out["too short for the energy counter"]) == (1, 1)


@pytest.mark.parametrize(
    "other", [examples.nvidia_smi(), examples.codecarbon([("2026-01-01T10:00:00", "a", 3600.0, 3.2)])]
)
def test_steps_that_are_said_of_two_kinds_of_files_are_refused(other: str, tmp_path: Path) -> None:
    said = refusal(tmp_path, examples.ZEUS_WINDOWS, other, told=told(steps=40))
    assert said.startswith("--steps: ")
    assert "each have steps of their own; fit them one by one, or give each its steps by a row of --runs" in said
    runs = [RunFacts("r:2", files=("0",), told=Told(steps=1)), RunFacts("r:3", files=("1",), told=Told(steps=100))]
    seen, _ = read(tmp_path, examples.ZEUS_WINDOWS, other, runs=runs)
    assert len(seen) == 2
    both, _ = read(
        tmp_path, examples.ZEUS_WINDOWS, examples.ZEUS_WINDOWS.replace("100.0,", "900.0,"), told=told(steps=1)
    )
    assert both, "two files of one kind"
