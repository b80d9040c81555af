"""Classes of jobs start from measured costs where a file has their model, and it is said which do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import structlog

from powerflow.api.job_spec import JobSpec
from powerflow.cost.catalogue import axes_for, family_model
from powerflow.cost.costs_file import read_costs
from powerflow.cost.tabulate import tabulate
from powerflow.errors import InputError
from powerflow.live.build import ClusterSettings, build
from powerflow.live.jobs.cost_learning import CostLearning, class_of

POINTS = "model,gpu_type,gpus,local_batch,clock_mhz,step_time_s,power_w\n" + "".join(
    f"lm,A100,{n},{32 // n},{f},{0.9 / n * (0.3 + 0.7 * 1410 / f)},{n * (70 + 250 * (f / 1410) ** 3)}\n"
    for n in (1, 2)
    for f in (705, 1050, 1410)
)


def spec_of(model: str | None) -> JobSpec:
    return JobSpec.model_validate({"run": "python train.py", "batch": {"global": 32}, "model": model, "gpus": 1})


def test_they_start_from_the_file_and_the_others_from_the_catalogue(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(POINTS)
    costs = read_costs([path])
    assert costs is not None
    axes = {"A100": axes_for("A100", 4, [1, 2, 4])}
    learning = CostLearning(axes, costs)
    own, other, unnamed = (class_of(spec_of(model), "ada") for model in ("lm", "bert", None))
    assert own.model == "lm"
    (learned,) = learning.expect(own)
    fitted = replace(costs.of("lm")["A100"].model, local_batch_max=own.local_max)
    assert learned.table.step_time_s == pytest.approx(tabulate(fitted, axes["A100"], 32).step_time_s)
    assert learned.table.step_time_s[0, -1] == pytest.approx(0.9, rel=0.05)
    (plain,) = learning.expect(other)
    known = replace(family_model("bert", "A100"), local_batch_max=other.local_max)
    assert np.array_equal(plain.table.step_time_s, tabulate(known, axes["A100"], 32).step_time_s)
    learning.expect(unnamed)
    (said,) = learning.costs_said()
    assert said == (
        f"costs from {path} (lm (A100)): 1 of 3 classes of jobs start from it; from the catalogue: bert, no model named"
    )
    assert CostLearning(axes).costs_said() == ()


def test_a_controller_with_costs_of_other_gpus_starts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(POINTS)
    settings = ClusterSettings(tmp_path / "state", emulate="1x4:V100+1x2:t4", costs=read_costs([path]))
    with pytest.raises(InputError, match=r"points.csv: its models were measured on A100, but .* has V100, T4"):
        build(settings, structlog.get_logger())
    assert not (tmp_path / "state").exists()
