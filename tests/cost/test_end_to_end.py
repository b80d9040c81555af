"""From a table of points, through the command, to the table a scheduler reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from powerflow.cli.main import main
from powerflow.cost.fit import fit
from powerflow.cost.model_file import models_json, read_models
from powerflow.cost.observation import observations_csv
from powerflow.cost.table import Axes
from powerflow.cost.tabulate import tabulate
from powerflow.errors import InputError
from tests.cost.jobs import TRUTH, observed

#: One step of 64 samples takes 0.112 s and 39 J on two GPUs, 0.114 s and 27 J on one (design §1).
GOLDEN = f"""\
model,gpu_type,gpus,local_batch,step_time_s,power_w
example,V100,1,64,0.114,{27 / 0.114!r}
example,V100,2,32,0.112,{39 / 0.112!r}
"""


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    path = tmp_path / "points.csv"
    path.write_text(GOLDEN)
    return path


def test_one_gpu_saves_31_percent_of_the_energy_for_2_percent_more_time(golden: Path, tmp_path: Path) -> None:
    assert main(["fit", str(golden), "-o", str(tmp_path / "model.json")]) == 0
    (found,) = read_models(tmp_path / "model.json")
    axes = Axes("V100", 8, np.array([1, 2, 4]), np.array([1005.0, 1530.0]))
    table = tabulate(found.model, axes, 64, found.observations)
    assert table.step_time_s[0, -1] == 0.114
    assert table.step_time_s[1, -1] == 0.112
    np.testing.assert_allclose(table.energy_j()[:2, -1], [27.0, 39.0], rtol=1e-12)
    one, two = table.energy_j()[:2, -1]
    assert round(100 * (1 - one / two)) == 31
    assert round(100 * (table.step_time_s[0, -1] / table.step_time_s[1, -1] - 1)) == 2
    # where nobody measured there is a model, and it runs
    assert np.all(np.isfinite(table.step_time_s))
    assert np.all(np.isfinite(table.power_w))


def test_the_command_prints_errors_and_draws(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")  # no cell of the table is broken
    assert main(["fit", str(golden), "-o", str(tmp_path / "model.json")]) == 0
    said = capsys.readouterr().out
    assert "example" in said
    assert "too few points" in said
    page = (tmp_path / "model.html").read_text()
    assert "example on V100: step time" in page
    assert 'src="http' not in page


def test_the_command_answers_in_json(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main(["fit", str(golden), "-o", str(tmp_path / "model.json"), "--plot", str(page), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["kind"] == "fit"
    assert [row["model"] for row in said["models"]] == ["example"]
    assert said["models"][0]["held_out_time"] is None
    assert page.exists()


@pytest.mark.parametrize(
    ("text", "why"), [("", "holds no observations"), (GOLDEN.replace("0.114,", "-1,"), ":2: step_time_s is -1")]
)
def test_bad_points_leave_nothing_behind(
    text: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "points.csv"
    path.write_text(text)
    assert main(["fit", str(path), "-o", str(tmp_path / "model.json")]) == 2
    said = capsys.readouterr().err
    assert why in said
    assert said.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["points.csv"]


def test_a_plot_that_cannot_be_written_leaves_no_model(golden: Path, tmp_path: Path) -> None:
    argv = ["fit", str(golden), "-o", str(tmp_path / "model.json"), "--plot", str(tmp_path / "no" / "page.html")]
    assert main(argv) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["points.csv"]


def test_markup_in_a_name_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(GOLDEN.replace("example", "<img src=x>"))
    assert main(["fit", str(path), "-o", str(tmp_path / "model.json")]) == 0
    assert "<img src=x>" not in (tmp_path / "model.html").read_text()


def test_a_file_of_models_is_read_back_unchanged(tmp_path: Path) -> None:
    fits = [fit(observed(TRUTH, [(n, 1, b, 1530.0) for n in (1, 2) for b in (8, 16, 64)], noise=0.02))]
    path = tmp_path / "models.json"
    path.write_text(models_json(fits))
    assert read_models(path) == fits


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is not JSON"),
        ("[]", "is not a file of models"),
        ('{"kind": "models", "version": 99, "models": []}', "has version 99"),
        ('{"kind": "models", "version": 1, "models": []}', "holds no model"),
        ('{"kind": "models", "version": 1, "models": [{}]}', "model 1: is damaged"),
        ('{"kind": "models", "version": 1, "models": [3]}', "model 1: is damaged"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "models.json"
    path.write_text(text)
    with pytest.raises(InputError, match=what):
        read_models(path)


@pytest.mark.parametrize("value", [-1, "fast", None, True])
def test_a_parameter_that_cannot_be_is_refused(golden: Path, tmp_path: Path, value: object) -> None:
    path = tmp_path / "model.json"
    assert main(["fit", str(golden), "-o", str(path)]) == 0
    document = json.loads(path.read_text())
    document["models"][0]["model"]["throughput"]["alpha_s"] = value
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="alpha_s is"):
        read_models(path)


@pytest.mark.parametrize(("name", "value"), [("knee", 0), ("knee", 1e6), ("corner", 0.5), ("gamma", 0), ("kappa", 1.5)])
def test_a_parameter_for_which_a_formula_fails_is_refused(tmp_path: Path, name: str, value: float) -> None:
    path = tmp_path / "models.json"
    document = json.loads(models_json([fit(observed(TRUTH, [(1, 1, 8, 1530.0), (2, 1, 16, 1530.0)]))]))
    document["models"][0]["model"]["throughput"][name] = value
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=f"model 1: {name} is {value}"):
        read_models(path)


def test_points_survive_the_way_through_a_file(tmp_path: Path) -> None:
    points = observed(TRUTH, [(1, 1, 8, 1530.0), (4, 2, 8, 765.0)])
    path = tmp_path / "points.csv"
    path.write_text(observations_csv(points))
    assert main(["fit", str(path), "-o", str(tmp_path / "model.json")]) == 0
    assert list(read_models(tmp_path / "model.json")[0].observations) == points


@pytest.mark.parametrize("later", ["two_node_factor", "knee"])
def test_a_file_of_an_earlier_version_is_read(tmp_path: Path, later: str) -> None:
    fits = [fit(observed(TRUTH, [(1, 1, 8, 1530.0), (2, 1, 16, 1530.0)]))]
    path = tmp_path / "models.json"
    document = json.loads(models_json(fits))
    del document["models"][0]["model"]["throughput"][later]
    path.write_text(json.dumps(document))
    assert read_models(path) == fits
