"""The script for a machine with a GPU, whole, over the fake driver and torch on the CPU; and without any GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.on_gpu import running

from powerflow.cost.fit import fit
from powerflow.cost.observation import read_observations

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
pytest.importorskip("torch", reason="torch is not installed")

ROOT = Path(__file__).resolve().parents[1]


def script(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.on_gpu", "--out", str(out), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("on_gpu")
    done = script(out, "--fake")
    assert done.returncode == 0, done.stdout + done.stderr + (out / "on_gpu.json").read_text()
    record: dict[str, Any] = json.loads((out / "on_gpu.json").read_text())
    return out, record


def test_all_sections_run_and_say_where_they_come_from(made: tuple[Path, dict[str, Any]]) -> None:
    _, record = made
    assert list(record["sections"]) == ["driver", "load", "work", "serve", "elastic", "rescale", "profile"]
    origin = record["provenance"]
    assert origin["fake"] is True
    assert origin["card"] == "NVIDIA A100-SXM4-80GB"
    assert {"driver", "torch", "commit", "date", "command"} <= set(origin)


def test_the_driver_and_a_known_load_are_metered(made: tuple[Path, dict[str, Any]]) -> None:
    sections = made[1]["sections"]
    driver, load = sections["driver"]["result"], sections["load"]["result"]
    assert driver["gpu_type"] == "A100"
    assert driver["idle"]["counter_over_integral"] == pytest.approx(1.0, abs=0.2)
    assert load["sampled"]["mean_w"] == pytest.approx(300.0, rel=0.1)
    assert load["metered_j"] >= 0.95 * load["sampled"]["counter_j"] > 0
    assert load["sampled"]["locked_mhz"] is None


def test_what_the_card_counts_of_its_work_is_noted(made: tuple[Path, dict[str, Any]]) -> None:
    work = made[1]["sections"]["work"]["result"]
    assert work["products"]["counted_s"] > 0
    assert work["products"]["busy_gigacycles_a_second"] > work["idle"]["busy_gigacycles_a_second"] == 0
    assert set(work["copies"]) >= {"dram_share", "tensor_gigacycles_a_second", "bytes_each", "times_a_second"}


def test_a_job_goes_from_submission_to_joules_and_no_clock_is_set(made: tuple[Path, dict[str, Any]]) -> None:
    served = made[1]["sections"]["serve"]["result"]
    assert served["job"]["state"] == "completed"
    assert 0 < served["charged_j"] <= served["counter_j"] * 1.2
    assert served["locked_mhz"] == [None]


def test_a_held_job_gives_the_card_back_and_ends_as_it_would_alone(made: tuple[Path, dict[str, Any]]) -> None:
    trained = made[1]["sections"]["elastic"]["result"]
    assert trained["equal"]
    assert trained["served"]["epochs_here"] < trained["alone"]["epochs_here"]  # it was held, and went on
    assert trained["alone"]["steps"] == trained["plain"]["steps"]
    assert 0 < trained["hold_command_s"] <= trained["left_the_card_s"]


def test_two_ranks_are_rescaled(made: tuple[Path, dict[str, Any]]) -> None:
    rescaled = made[1]["sections"]["rescale"]["result"]
    assert rescaled["backend"] == "gloo"
    for one in rescaled["by_state"].values():
        assert len(one["pauses_s"]) == len(one["ranks"]) - 1
        assert all(pause >= 0 for pause in one["pauses_s"])


def test_the_profile_is_what_fit_reads(made: tuple[Path, dict[str, Any]]) -> None:
    out, record = made
    points = read_observations(out / "on_gpu_points.csv")
    assert len(points) == 9
    assert {point.gpu_type for point in points} == {"A100"}
    assert fit([point for point in points if point.model == "mlp"]).time.points == 3
    assert set(record["sections"]["profile"]["result"]["fits"]) == {"mlp", "conv", "transformer"}


def test_without_a_gpu_it_says_so_and_ends_well(tmp_path: Path) -> None:
    done = script(tmp_path)
    if "on_gpu.json" in done.stdout:
        pytest.skip("there is a GPU here")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert "no NVIDIA GPU can be used here" in done.stdout
    assert not (tmp_path / "on_gpu.json").exists()


def test_a_missing_module_and_a_late_section_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = running.environment(tmp_path, fake=False)
    sections = {"driver": running.Section(("no_such_module",), 10.0), "load": running.Section((), 10.0)}
    monkeypatch.setattr(running, "SECTIONS", sections)
    absent = running.run_section("driver", env, tmp_path, most_s=100.0)
    assert not absent["ok"]
    assert "has no no_such_module" in absent["failed"]
    assert running.run_section("load", env, tmp_path, most_s=1.0)["failed"] == "no time was left for it"
    monkeypatch.setitem(sections, "load", running.Section((), 5.5))
    monkeypatch.setattr(running, "ROOT", tmp_path)
    folder = tmp_path / "benchmarks" / "on_gpu"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").touch()
    (folder / "sections.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(600)\n")
    late = running.run_section("load", {**env, "PYTHONPATH": str(tmp_path)}, tmp_path, most_s=100.0)
    assert late["failed"] == "was not done after 6 s: begun"
