"""A model that the catalogue has not goes to the family it is most like, by what the trace knows, and that is said."""

from __future__ import annotations

import pytest

from powerflow.cost.catalogue import axes_for, families, family_model
from powerflow.cost.names import family_alike
from powerflow.cost.tabulate import tabulate
from powerflow.simulate.workload.build import build_workload
from powerflow.simulate.workload.workload import Workload, alone_times
from powerflow.trace.record import Trace, TraceJob


def build(*jobs: TraceJob, seed: int = 0) -> Workload:
    """A workload of these jobs on sixteen A100."""
    return build_workload(Trace("log.csv", "test", jobs), "2x8:A100", seed=seed)


def family_of(workload: Workload, position: int = 0) -> str:
    return workload.jobs[position].cost_class.partition("/")[0]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("resnet34", "imagenet"),
        ("ResNet-18 (batch size 32)", "cifar10"),
        ("resnet", "imagenet"),
        ("resnet200", "resnet152"),
        ("vgg13", "vgg11"),
        ("yolov5", "yolov3"),
        ("bert-large", "bert"),
        ("roberta", "bert"),
        ("gpt3", "gpt2"),
        ("Llama-2-7b", "gpt2"),
        ("densenet121", "imagenet"),
        ("inception_resnet_v2", "inception3"),
        ("LM (batch size 5)", "deepspeech2"),
        ("Recommendation", "ncf"),
        ("A3C", None),
        ("film", None),  # "lm" is no part of it
        ("", None),
        ("42", None),
    ],
)
def test_families_by_name(name: str, family: str | None) -> None:
    assert family_alike(name) == family


def test_every_family_is_alike_itself() -> None:
    assert {name: family_alike(name) for name in families()} == {name: name for name in families()}


def test_an_unknown_name_is_placed_by_its_likeness_and_counted() -> None:
    jobs = [TraceJob(f"j{i}", float(i), 100.0, 1, model=name) for i, name in enumerate(["resnet34"] * 3 + ["bert"])]
    workload = build(*jobs)
    assert [family_of(workload, i) for i in range(4)] == ["imagenet", "imagenet", "imagenet", "bert"]
    assert workload.facts["Models"] == (
        "3 jobs have models not in the catalogue: 3 of 'resnet34' as imagenet (by name)"
    )
    assert alone_times(workload).tolist() == pytest.approx([100.0] * 4)


@pytest.mark.parametrize("family", ["ncf", "gpt2", "deepspeech2"])
def test_an_unknown_name_is_placed_by_its_measured_step_time(family: str) -> None:
    axes = axes_for("A100", 8, [4])
    batch = {"ncf": 32768, "gpt2": 256, "deepspeech2": 640}[family]
    step_s = float(tabulate(family_model(family, "A100"), axes, batch).step_time_s[0, -1])
    workload = build(TraceJob("a", 0.0, 1000 * step_s, 4, model="xyzzy", global_batch=batch, iterations=1000.0))
    assert family_of(workload) == family
    assert "(by step time)" in workload.facts["Models"]


def test_an_unknown_name_is_placed_by_its_batch() -> None:
    workload = build(TraceJob("a", 0.0, 100.0, 4, model="xyzzy", global_batch=32768))
    assert family_of(workload) == "ncf"
    assert "1 of 'xyzzy' as ncf (by batch)" in workload.facts["Models"]


def test_where_nothing_tells_one_family_is_drawn_for_all_jobs_of_a_name() -> None:
    jobs = [TraceJob(f"j{i}", float(i), 100.0, 1, model="xyzzy") for i in range(20)]
    drawn = {seed: {family_of(build(*jobs, seed=seed), i) for i in range(20)} for seed in range(8)}
    assert all(len(found) == 1 for found in drawn.values())
    assert len(set.union(*drawn.values())) > 2
    assert "(by draw, seed 3)" in build(*jobs, seed=3).facts["Models"]


def test_many_unknown_names_are_said_in_one_line() -> None:
    workload = build(*(TraceJob(f"j{i}", float(i), 100.0, 1, model=f"xyzzy-{i}") for i in range(9)))
    assert workload.facts["Models"].endswith(", and 3 more names")
