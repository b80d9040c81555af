"""``powerflow fit`` on what other tools measured, and from there to what a scheduler uses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks import profiles

from powerflow.cli.main import main
from powerflow.cost.costs_file import read_costs
from powerflow.cost.observation import Observation, observations_of
from powerflow.cost.table import Axes
from powerflow.cost.tabulate import tabulate
from powerflow.measured.formats.format import Hints
from powerflow.measured.read import read_measured
from powerflow.measured.told import Told
from tests.measured import examples

real = pytest.mark.skipif(not profiles.PROFILES.is_dir(), reason=f"no profiles at {profiles.PROFILES}")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "run.json").write_text(examples.prometheus())
    (tmp_path / "zeus.csv").write_text(examples.ZEUS_OPTIMIZER)
    return tmp_path


def test_watts_and_steps_of_prometheus_become_a_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "run.json", "--model", "lm", "--local-batch", "16", "-o", "lm.json"]) == 0
    said = capsys.readouterr().out
    assert "run.json (answer of Prometheus): 1 point from 13 intervals; left out: " in said
    assert "1 in warm-up" in said
    assert "  ! train_steps_total counts the steps" in said
    assert "600 W" in said
    costs = read_costs(["lm.json"])
    assert costs is not None
    fitted = costs.of("lm")["A100"]
    table = tabulate(fitted.model, Axes("A100", 8, np.array([1, 2]), np.array([1410.0])), 32, fitted.observations)
    assert table.step_time_s[1, -1] == pytest.approx(0.5)
    assert table.power_w[1, -1] == pytest.approx(600.0)


def test_json_has_the_points_and_what_was_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["fit", "zeus.csv", "--model", "lm", "--gpu-type", "A100", "--local-batch", "16", "--steps", "40"]
    assert main([*argv, "-o", "lm.json", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    (source,) = said["sources"]
    assert (source["name"], source["points"], source["used"], source["unit"]) == ("zeus.csv", 2, 2, "windows")
    assert source["left_out"] == {}
    points = said["models"][0]["observations"]
    assert [(o["step_time_s"], o["power_limit_w"], o["clock_mhz"]) for o in points] == [
        (0.5, 300, None),
        (1, 150, None),
    ]


def test_points_of_a_table_and_of_readings_are_fitted_together(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("points.csv").write_text("model,gpu_type,gpus,local_batch,step_time_s,power_w\nlm,A100,1,16,0.45,290\n")
    assert main(["fit", "points.csv", "run.json", "--model", "lm", "--local-batch", "16", "-o", "lm.json"]) == 0
    assert "points.csv (table of observations): 1 point from 1 row" in capsys.readouterr().out
    assert main(["fit", "points.csv", "-o", "lm.json"]) == 0
    assert "table of observations" not in capsys.readouterr().out  # as before: nothing to say of it


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["run.json"], "run.json: does not tell the model and the local batch; give --model and --local-batch, or"),
        (["zeus.csv", "--model", "lm"], "does not tell the GPU type, the local batch and steps; give --gpu-type, "),
        (["zeus.csv", "--step-time", "0"], "--step-time: 0.0 is no length of time; give seconds above 0"),
        (["zeus.csv", "--runs", "none.csv"], "none.csv: there is no such file"),
        (["run.json", "--model", "lm", "--local-batch", "16", "--tz", "Mars"], None),
        (["zeus.csv", "--step-metric", "step"], "--step-metric: no file has step counters; leave it out"),
        (["zeus.csv", "--steps", "3", "--step-time", "0.2"], "--steps and --step-time say the same; give one of them"),
        (
            ["run.json", "--model", "lm", "--local-batch", "16", "--gpu-type", "H100"],
            "its GPUs are of type A100, but H100 is said; leave out --gpu-type",
        ),
    ],
)
def test_a_refusal_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], argv: list[str], why: str | None
) -> None:
    code = main(["fit", *argv, "-o", "lm.json"])
    said = capsys.readouterr()
    if why is None:  # times of Prometheus need no zone
        assert code == 0
        return
    assert code != 0
    assert why in said.err
    assert said.err.count("\n") == 1
    assert not (folder / "lm.json").exists()


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["-o", "run.json"], "run.json: is read, and would be replaced; write to another file"),
        (["-o", "lm.json", "--plot", "./run.json"], "run.json: is read, and would be replaced"),
        (["-o", "."], ".: is a folder, not a file"),
        (["-o", "/"], "/: is a folder, not a file"),
    ],
)
def test_what_is_read_is_never_replaced(
    folder: Path, capsys: pytest.CaptureFixture[str], argv: list[str], why: str
) -> None:
    before = Path("run.json").read_bytes()
    assert main(["fit", "run.json", "--model", "lm", "--local-batch", "16", *argv]) == 2
    assert why in capsys.readouterr().err
    assert Path("run.json").read_bytes() == before


@real
@pytest.mark.real_data
@pytest.mark.parametrize("gpu", ["V100", "RTX6000"])
def test_zeus_tables_of_limits_are_read_as_the_benchmark_reads_them(gpu: str) -> None:
    table = profiles.PROFILES / "zeus" / f"summary_power_{gpu.lower()}.csv"
    told = Told(gpu_type=gpu, samples=profiles.ZEUS_EPOCH_SAMPLES)
    points = observations_of(read_measured([table], told, (), Hints()).rows)
    others = [seen for job in profiles.zeus_limits(gpu).values() for seen in job]

    def key(seen: Observation) -> tuple[object, ...]:
        exact = (seen.gpus, seen.local_batch, seen.power_limit_w, seen.clock_mhz)
        return *exact, round(seen.power_w or 0.0, 6), round(seen.step_time_s, 9)

    assert sorted(map(key, points), key=str) == sorted(map(key, others), key=str)
    assert len({seen.model for seen in points}) == len(profiles.zeus_limits(gpu))


@real
@pytest.mark.real_data
def test_zeus_windows_fit_and_a_limit_does_not_slow_the_full_clock(tmp_path: Path) -> None:
    """ResNet-50 on one V100 at seven limits: 26.67 s for 40 steps at 250 W, 53.9 s at 100 W."""
    log = profiles.PROFILES / "zeus" / "V100+resnet50+gpu0.csv"
    model = tmp_path / "model.json"
    argv = ["fit", str(log), "-o", str(model), "--model", "resnet50", "--gpu-type", "V100-PCIE", "--local-batch", "256"]
    assert main([*argv, "--steps", "40"]) == 0
    costs = read_costs([model])
    assert costs is not None
    fitted = costs.of("resnet50")["V100-PCIE"]
    assert fitted.time.mean < 0.15  # at one batch and without a clock, the points hardly tell how time follows it
    assert fitted.power is not None
    assert fitted.power.mean < 0.1
    card = costs.cards[0]
    assert card.limit_w == 250.0
    table = tabulate(
        fitted.model, Axes(card.name, 8, np.array([1]), np.array([card.clock_max_mhz])), 256, fitted.observations
    )
    assert table.step_time_s[0, 0] == pytest.approx(26.6745 / 40, rel=1e-4)
    assert table.power_w[0, 0] == pytest.approx(6065.03 / 26.6745, rel=1e-4)
