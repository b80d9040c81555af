"""Power limits: watts stop, the card lowers its own clock, steps take longer; and what points of such a card tell."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.cost.catalogue import axes_for, family_model, gpu_type
from powerflow.cost.fit import fit
from powerflow.cost.limit import held_clock, limited_costs
from powerflow.cost.model import JobModel, PowerModel, ThroughputModel, gpu_power, step_time
from powerflow.cost.model_file import models_json, read_models
from powerflow.cost.observation import Observation, observations_csv, read_observations
from powerflow.cost.tabulate import tabulate
from powerflow.errors import InputError

# 1 s a step at 1,000 MHz, half of it by the clock; 50 W idle and 250 W more, all of which falls as f
TIME = ThroughputModel(0.0, 1.0, 1.0, 0.5, 1000.0, 0.0, 0.0, 0.0, 0.0, 1.0)
POWER = PowerModel(50.0, 300.0, 1.0, 1.0, 0.0, 0.0)
JOB = JobModel("job", "A100", TIME, POWER, 1)


def test_worked_by_hand() -> None:
    # 50 + 250·f/1000 = 200 W at 600 MHz, where a step takes 0.5 + 0.5/0.6 s
    seconds, watts = limited_costs(replace(JOB, limit_w=200.0), 1, 1, 1, np.array([500.0, 600.0, 1000.0]), False)
    assert watts == pytest.approx([175.0, 200.0, 200.0])
    assert seconds == pytest.approx([1.5, 0.5 + 0.5 / 0.6, 0.5 + 0.5 / 0.6])


def test_no_limit_changes_nothing() -> None:
    seconds, watts = limited_costs(JOB, 1, 1, 1, 900.0, False)
    assert float(seconds) == float(step_time(TIME, 1, 1, 1, 900.0, False))
    assert float(watts) == float(gpu_power(TIME, POWER, 1, 1, 1, 900.0, False))


def test_a_limit_of_the_points_own_comes_before_the_models() -> None:
    _, watts = limited_costs(replace(JOB, limit_w=200.0), 1, 1, 1, 1000.0, False, np.array([150.0, np.nan]))
    assert watts == pytest.approx([150.0, 200.0])


@settings(deadline=None)
@given(st.floats(60.0, 500.0), st.floats(300.0, 1000.0), st.sampled_from(["imagenet", "bert", "ncf"]))
def test_watts_never_pass_the_limit_and_less_is_never_faster(limit_w: float, clock: float, name: str) -> None:
    model = family_model(name, "A100")
    where = (4, 16, 2, clock, False)
    free_s, free_w = limited_costs(model, *where)
    seconds, watts = limited_costs(replace(model, limit_w=limit_w), *where)
    held = held_clock(model.throughput, model.power, limit_w, *where)
    assert float(held) <= clock
    assert float(seconds) >= float(free_s) * (1 - 1e-9)
    if float(held) > 0.11 * model.throughput.clock_max_mhz:
        assert float(watts) <= limit_w * (1 + 1e-6)
    if float(free_w) <= limit_w:
        assert float(watts) == float(free_w)


def test_a_table_has_the_limit_in_it() -> None:
    model = replace(family_model("imagenet", "A100"), limit_w=200.0)
    axes = axes_for("A100", 8, [1, 2, 4])
    table, free = tabulate(model, axes, 256), tabulate(replace(model, limit_w=None), axes, 256)
    assert (table.power_w <= 200.0 * axes.gpu_counts[:, None] * (1 + 1e-6)).all()
    assert (table.step_time_s[:, -1] > free.step_time_s[:, -1]).all()
    assert (np.diff(table.step_time_s, axis=1) <= 1e-12).all()


CLOCKS = np.arange(900.0, 1981.0, 60.0)


def limited_points(limit_w: float, told_w: float | None = None) -> list[Observation]:
    """Points of a card that holds itself to a limit: α + κ/f seconds, 60 W + 340 W·(f/1980)^2 of it."""
    ran = np.minimum(CLOCKS, 1980.0 * np.sqrt((limit_w - 60.0) / 340.0))
    seconds, watts = 0.06 + 0.10 * 1980.0 / ran, 60.0 + 340.0 * (ran / 1980.0) ** 2
    return [
        Observation("lm", "H100", 1, 4, float(t), clock_mhz=float(f), power_w=float(w), power_limit_w=told_w)
        for f, t, w in zip(CLOCKS, seconds, watts, strict=True)
    ]


def test_a_plateau_is_taken_for_the_limit_and_said() -> None:
    fitted = fit(limited_points(260.0))
    assert fitted.model.limit_w == pytest.approx(260.0, rel=0.01)
    assert fitted.held_out_time is not None
    assert fitted.held_out_power is not None
    assert fitted.held_out_time.mean < 0.01
    assert fitted.held_out_power.mean < 0.01
    assert fitted.notes == ("watts stop at 260 W a GPU: this is used as the power limit",)


def test_limits_that_are_given_are_used_and_told_apart() -> None:
    fitted = fit([*limited_points(200.0, 200.0), *limited_points(400.0, 400.0)])
    assert fitted.held_out_power is not None
    assert fitted.held_out_power.mean < 0.02
    assert fitted.model.limit_w == gpu_type("H100").limit_w
    seconds, watts = limited_costs(fitted.model, 1, 4, 1, 1980.0, False, 300.0)  # a limit that no point had
    ran = 1980.0 * (240.0 / 340.0) ** 0.5
    assert float(watts) == pytest.approx(300.0, rel=0.01)
    assert float(seconds) == pytest.approx(0.06 + 0.10 * 1980.0 / ran, rel=0.02)


def test_a_job_that_draws_the_same_at_every_clock_is_not_held() -> None:
    points = [
        Observation("ncf", "A100", 1, 8, 0.02, clock_mhz=float(f), power_w=90.0) for f in np.arange(705.0, 1411.0, 60.0)
    ]
    fitted = fit(points)
    assert fitted.model.limit_w == 400.0
    assert fitted.notes == ()


def test_watts_below_idle_are_said_and_fitted() -> None:
    points = [
        Observation("small", "A100", 1, 8, 0.5, clock_mhz=f, power_w=w) for f, w in ((705.0, 42.0), (1410.0, 55.0))
    ]
    fitted = fit(points)
    (note,) = fitted.notes
    assert note == "points draw down to 42 W a GPU, below the 60 W of an idle A100: 42 W is used as its idle draw"
    _, watts = limited_costs(fitted.model, 1, 8, 1, np.array([705.0, 1410.0]), False)
    assert watts == pytest.approx([42.0, 55.0], rel=0.12)


def test_points_above_the_types_limit_are_said() -> None:
    points = [Observation("hot", "T4", 1, 8, 0.5, clock_mhz=f, power_w=w) for f, w in ((795.0, 60.0), (1590.0, 95.0))]
    fitted = fit(points)
    assert fitted.model.limit_w is None
    assert "above the 70 W of T4" in fitted.notes[0]


UNKNOWN = "model,gpu_type,gpus,local_batch,clock_mhz,step_time_s,power_w\n" + "".join(
    f"lm,Z99,1,4,{f},{t},{w}\n" for f, t, w in ((800, 0.25, 140), (1200, 0.19, 210), (1600, 0.16, 290))
)


def test_points_of_any_gpu_are_fitted_and_come_back_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(UNKNOWN)
    seen = read_observations(path)
    fitted = fit(seen)
    assert fitted.time.mean < 0.05
    assert gpu_type("Z99").clock_max_mhz == 1600
    assert "power limit of Z99 is not known" in fitted.notes[0]
    document = json.loads(models_json([fitted]))
    assert document["models"][0]["gpu"]["limit_w"] == 290.0
    document["models"][0]["gpu"]["name"] = document["models"][0]["model"]["gpu_type"] = "Z98"  # nobody declared that
    for point in document["models"][0]["observations"]:
        point["gpu_type"] = "Z98"
    models = tmp_path / "models.json"
    models.write_text(json.dumps(document))
    assert read_models(models)[0].model.gpu_type == "Z98"
    assert gpu_type("Z98").clock_max_mhz == 1600
    document["models"][0]["gpu"]["limit_w"] = -1
    models.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"model 1: gpu.limit_w is -1"):
        read_models(models)


def test_limits_of_points_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    points = limited_points(200.0, 200.0)
    path.write_text(observations_csv(points))
    assert read_observations(path) == points
