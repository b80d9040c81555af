"""Measured costs instead of the catalogue's: what was fitted is what is simulated, and the rest is said."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from powerflow.cost.catalogue import gpu_type
from powerflow.cost.costs_file import Costs, read_costs, usual_batch
from powerflow.cost.fit import fit
from powerflow.cost.limit import limited_costs
from powerflow.cost.model_file import models_json
from powerflow.cost.observation import read_observations
from powerflow.errors import InputError
from powerflow.simulate.belief import Fitted, Online
from powerflow.simulate.workload.build import build_workload
from powerflow.simulate.workload.measured_costs import check_used
from powerflow.simulate.workload.workload import alone_times
from powerflow.trace.record import Trace, TraceJob

HEAD = "model,gpu_type,gpus,local_batch,clock_mhz,step_time_s,power_w\n"
#: 0.1 s of a step of 32 samples, and 32 more; half as long on two GPUs; at three clocks.
LM = HEAD + "".join(
    f"lm,A100,{n},{b},{f},{(0.02 + 0.0025 * b) * (0.4 + 0.6 * 1410 / f)},{n * (60 + 200 * (f / 1410) ** 2)}\n"
    for n in (1, 2, 4)
    for b in (16, 32)
    for f in (705, 1065, 1410)
)


def job(
    number: int, model: str | None, *, gpus: int = 1, batch: int | None = None, seconds: float = 3600.0
) -> TraceJob:
    return TraceJob(str(number), 60.0 * number, seconds, gpus, model=model, global_batch=batch)


def costs_of(tmp_path: Path, text: str, name: str = "points.csv") -> Costs:
    path = tmp_path / name
    path.write_text(text)
    costs = read_costs([path])
    assert costs is not None
    return costs


def test_a_fitted_step_is_the_simulated_one(tmp_path: Path) -> None:
    points = tmp_path / "points.csv"
    points.write_text(LM)
    fitted = fit(read_observations(points))
    models = tmp_path / "models.json"
    models.write_text(models_json([fitted]))
    costs = read_costs([models])
    trace = Trace("log.csv", "test", [job(0, "lm", batch=32), job(1, "LM", gpus=2, batch=64), job(2, "lm", batch=24)])
    workload = build_workload(trace, "1x4:A100", costs=costs)
    name = "lm (measured)"
    table, axes = workload.truth[f"{name}/32", "A100"], workload.axes["A100"]
    for seen in fitted.observations:  # measured points win, exactly
        if (seen.gpus, seen.local_batch) == (1, 32):
            column = int(np.flatnonzero(axes.clocks_mhz == seen.clock_mhz)[0])
            assert float(table.step_time_s[0, column]) == seen.step_time_s
            assert float(table.power_w[0, column]) == seen.power_w
    unmeasured = workload.truth[f"{name}/24", "A100"]  # between them the fit stands
    seconds, watts = limited_costs(fitted.model, 1, 24, 1, axes.clocks_mhz, False)
    assert unmeasured.step_time_s[0] == pytest.approx(seconds)
    assert unmeasured.power_w[0] == pytest.approx(watts)
    assert alone_times(workload) == pytest.approx([3600.0] * 3)  # a log's durations stay what they were
    assert [job.gpus_max for job in workload.jobs] == [4, 4, 4], "as many GPUs as were measured"
    assert workload.facts["Costs"] == f"measured, from {models} (lm (A100)): 3 of 3 jobs"


def test_jobs_that_are_not_in_the_file_fall_back_and_are_counted(tmp_path: Path) -> None:
    costs = costs_of(tmp_path, LM)
    jobs = [job(0, "lm"), job(1, "resnet50", batch=256), job(2, None), job(3, "whatnot"), job(4, None)]
    workload = build_workload(Trace("log.csv", "test", jobs), "1x4:A100", costs=costs)
    said = workload.facts["Costs"]
    assert "1 of 5 jobs; not in it: 2 that name no model, 1 of 'resnet50', 1 of 'whatnot'" in said
    assert "which are modelled: catalogue models on A100" in said
    without = build_workload(Trace("log.csv", "test", jobs[1:]), "1x4:A100")
    assert (
        workload.truth["imagenet/256", "A100"].step_time_s[0, -1]
        == without.truth["imagenet/256", "A100"].step_time_s[0, -1]
    )


def test_a_model_is_found_under_the_names_of_its_family(tmp_path: Path) -> None:
    costs = costs_of(tmp_path, LM.replace("lm,", "resnet50,"))
    assert list(costs.of("imagenet")) == ["A100"]
    assert list(costs.of("ResNet50")) == ["A100"]
    assert costs.of("bert") == {}


def test_a_model_measured_on_one_of_two_types_runs_there(tmp_path: Path) -> None:
    costs = costs_of(tmp_path, LM)
    trace = Trace("log.csv", "test", [job(0, "lm"), job(1, "bert", batch=64)])
    workload = build_workload(trace, "1x4:V100+1x4:A100", costs=costs)
    assert [job.gpu_type for job in workload.jobs] == ["A100", None]
    assert np.isfinite(alone_times(workload)).all()


def test_a_type_of_the_files_own_travels_with_it(tmp_path: Path) -> None:
    costs = costs_of(tmp_path, LM.replace("A100", "Y77"))
    assert [card.name for card in costs.cards] == ["Y77"]
    again: Costs = pickle.loads(pickle.dumps(costs))
    workload = build_workload(Trace("log.csv", "test", [job(0, "lm")]), "1x4:Y77", costs=again)
    assert workload.axes["Y77"].clocks_mhz[-1] == gpu_type("Y77").clock_max_mhz == 1410


@pytest.mark.parametrize("belief", [Fitted, Online])
def test_beliefs_start_from_what_was_measured(tmp_path: Path, belief: type[Fitted] | type[Online]) -> None:
    costs = costs_of(tmp_path, LM)
    workload = build_workload(Trace("log.csv", "test", [job(0, "lm"), job(1, "bert")]), "1x4:A100", costs=costs)
    tables = {learned.cost_class: learned.table for learned in belief(workload).start()}
    for name, table in tables.items():
        truth = workload.truth[name, "A100"]
        if name.startswith("lm"):
            assert table.step_time_s == pytest.approx(truth.step_time_s, rel=0.1)
        assert math.isfinite(table.step_time_s[0, -1])


def test_the_usual_batch_is_the_one_of_most_points(tmp_path: Path) -> None:
    text = HEAD + "lm,A100,1,8,1410,0.1,\nlm,A100,2,4,1410,0.1,\nlm,A100,4,4,1410,0.1,\n"
    assert usual_batch(costs_of(tmp_path, text).fits.values()) == 8


@pytest.mark.parametrize(
    ("name", "text", "where", "what"),
    [
        ("a.csv", HEAD + "lm,A100,1,8,1410,fast,\n", ":2", "step_time_s is 'fast'"),
        ("a.json", "{", ":1", "is not JSON"),
        ("a.json", '{"kind": "trace"}', "", "is not a file of models"),
        ("a.json", '{"kind": "models", "version": 1, "models": [{}]}', ": model 1", "is damaged ('model')"),
        ("a.csv", "", "", "holds no observations"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, name: str, text: str, where: str, what: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_costs([path])
    assert error.value.where == f"{path}{where}"
    assert what in error.value.what


def test_files_that_no_job_uses_are_refused(tmp_path: Path) -> None:
    """Nothing of them would be in the result, although the user named them."""
    log = Trace("log.csv", "test", [job(0, "LM"), job(1, None)])
    check_used(costs_of(tmp_path, LM), [log], "1x4:V100+1x4:a100")
    with pytest.raises(InputError, match=r"points.csv: its models were measured on A100, but 1x4:V100 has V100"):
        check_used(costs_of(tmp_path, LM), [log], "1x4:V100")
    other = costs_of(tmp_path, LM.replace("lm,", "gpt,"))
    with pytest.raises(InputError, match=r"no job of log.csv has a model of it: it has gpt \(A100\), .* names 'LM'"):
        check_used(other, [log], "1x4:A100")
    both = costs_of(tmp_path, LM.replace("lm,", "gpt,") + LM.removeprefix(HEAD).replace("A100", "V100"))
    with pytest.raises(InputError, match="'LM' was measured on V100 alone"):
        check_used(both, [log], "1x4:A100")


def test_a_model_measured_elsewhere_is_said(tmp_path: Path) -> None:
    costs = costs_of(tmp_path, LM + LM.removeprefix(HEAD).replace("lm,A100", "gpt,V100"))
    workload = build_workload(Trace("log.csv", "test", [job(0, "lm"), job(1, "gpt")]), "1x4:A100", costs=costs)
    assert "(lm (A100), gpt (V100)): 1 of 2 jobs; not in it: 1 of 'gpt' (measured on V100)" in workload.facts["Costs"]


def test_what_another_tool_measured_is_not_costs_yet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is neither a file of models nor .*: powerflow fit FILE -o MODELS.json"):
        costs_of(tmp_path, "timestamp, index, power.draw [W]\n")


def test_two_files_must_not_tell_of_the_same(tmp_path: Path) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text(LM)
    two.write_text(LM)
    with pytest.raises(InputError, match=r"two.csv: lm on A100 is also in .*one.csv"):
        read_costs([one, two])
    two.write_text(LM.replace("A100", "V100"))
    costs = read_costs([one, two])
    assert costs is not None
    assert costs.names() == "lm (A100, V100)"
    assert read_costs([]) is None
