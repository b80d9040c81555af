"""What a job may say: every form, every limit, and the rules over several fields."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.api import job_spec
from powerflow.api.job_file import spec_from
from powerflow.api.job_schema import job_schema, schema_text
from powerflow.api.job_spec import JOB_NAME, JobSpec
from powerflow.errors import InputError
from tests.slow import examples

SHIPPED = Path(job_spec.__file__).parent / "job.schema.json"


def job(**values: Any) -> JobSpec:
    return spec_from({"run": "python train.py", **values}, "job")


def refused(match: str, **values: Any) -> str:
    with pytest.raises(InputError, match=match) as caught:
        job(**values)
    assert "\n" not in str(caught.value)
    assert caught.value.fix
    return str(caught.value)


def test_only_run_is_required_and_the_rest_is_modest() -> None:
    plain = job()
    assert (plain.gpus.least, plain.gpus.most, plain.gpus.gpu_type) == (1, 1, None)
    assert (plain.priority, plain.rescale, plain.retries) == ("normal", "none", 2)
    assert (plain.checkpoint.grace, plain.checkpoint.every, plain.energy.max_slowdown) == (30.0, 600.0, None)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (4, (4, 4, None)),
        ("4", (4, 4, None)),
        ("1..8", (1, 8, None)),
        (" 1..8 ", (1, 8, None)),
        ("H100:1..8", (1, 8, "H100")),
        ("A100-SXM4.80GB:2", (2, 2, "A100-SXM4.80GB")),
        ({"least": 2, "most": 4}, (2, 4, None)),
    ],
)
def test_gpus(written: object, meant: tuple[int, int, str | None]) -> None:
    gpus = job(gpus=written, rescale="restart").gpus
    assert (gpus.least, gpus.most, gpus.gpu_type) == meant
    assert job(gpus=str(gpus), rescale="restart").gpus == gpus


@pytest.mark.parametrize(
    "written",
    [
        0,
        -1,
        True,
        1.5,
        None,
        "",
        "x",
        "1:8",
        "8..1",
        "0..4",
        "1...8",
        "1..",
        "H100",
        "H100:",
        "H 100:2",
        "1e3",
        "٤",
        "4\n4",
        10**7,
        10**400,
        [4],
        {},
        {"least": 2},
        {"least": 3, "most": 2},
        {"least": 1, "most": 1, "gpus": 1},
    ],
)
def test_no_gpus(written: object) -> None:
    refused("gpus", gpus=written, rescale="restart")


@pytest.mark.parametrize(
    ("written", "meant_s"),
    [
        (30, 30.0),
        ("30", 30.0),
        ("30s", 30.0),
        ("500ms", 0.5),
        ("1.5m", 90.0),
        ("2 h", 7200.0),
        ("1d", 86400.0),
        ("3min", 180.0),
        (0, 0.0),
    ],
)
def test_durations(written: object, meant_s: float) -> None:
    assert job(checkpoint={"grace": written}).checkpoint.grace == meant_s


@pytest.mark.parametrize(
    "written", [-1, "-1s", True, "30 parsecs", "", None, float("nan"), float("inf"), 10**400, "1e3s", "9" * 400, []]
)
def test_no_durations(written: object) -> None:
    refused("checkpoint.grace", checkpoint={"grace": written})


@pytest.mark.parametrize(
    ("written", "meant"), [("10%", 0.1), ("12.5 %", 0.125), (0.1, 0.1), ("0%", 0.0), ("150%", 1.5)]
)
def test_shares(written: object, meant: float) -> None:
    assert job(energy={"max_slowdown": written}).energy.max_slowdown == pytest.approx(meant)


@pytest.mark.parametrize("written", [10, 25.0, -0.1, "10", "ten%", "-5%", True, float("nan"), 10**400, "nan%"])
def test_no_shares(written: object) -> None:
    refused("energy.max_slowdown", energy={"max_slowdown": written})


def test_ten_where_percent_was_meant_is_not_taken_for_a_thousand_percent() -> None:
    assert "10 is too large: give a share below 10; write 10% or 0.1" in refused(
        "max_slowdown", energy={"max_slowdown": 10}
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [("512MiB", 512 << 20), ("16GB", 16 * 10**9), (" 1.5 GiB ", 3 << 29), ("1TiB", 1 << 40), (64 << 20, 64 << 20)],
)
def test_limits(written: object, meant: int) -> None:
    limits = job(limits={"memory": written, "cpus": 0.5}).limits
    assert (limits.memory, limits.cpus) == (meant, 0.5)


@pytest.mark.parametrize("written", ["16", "16G", 16, 0, -1, "1KB", "many", "", True, 2.5, "9999TiB", 10**400])
def test_no_sizes(written: object) -> None:
    refused("limits.memory", limits={"memory": written})


@pytest.mark.parametrize("written", [0, -1, "4", True, float("inf"), float("nan"), 10**400])
def test_no_cpus(written: object) -> None:
    refused("limits.cpus", limits={"cpus": written})


@pytest.mark.parametrize(("written", "meant"), [(20000, 2e4), ("2e4", 2e4), (0.5, 0.5)])
def test_work(written: object, meant: float) -> None:
    found = job(work={"iterations": written}).work
    assert found is not None
    assert found.iterations == meant


@pytest.mark.parametrize("written", [0, -5, "many", True, None, float("inf"), 10**400])
def test_no_work(written: object) -> None:
    refused("work.iterations", work={"iterations": written})


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"rescale": "none", "gpus": "1..8"}, "gpus: rescale is none, so gpus must be one number, not 1..8"),
        (
            {"rescale": "in-place", "gpus": "1..8", "batch": {"global": 4}},
            "gpus: 8 GPUs are too many for a global batch of 4",
        ),
        ({"progress": "step ("}, "progress: .* is not a regular expression"),
        ({"progress": r"step (\d+)"}, "progress: .* has no group named step"),
        ({"progress": "(?P<step>" * 100}, "progress"),
        ({"progress": "x" * 2000}, "progress"),
        ({"env": {"POWERFLOW_URL": "x"}}, "env: env sets POWERFLOW_URL"),
        ({"env": {"A=B": "x"}}, "env.A=B is 'A=B'; use letters"),
        ({"env": {"": "x"}}, "env"),
        ({"env": {"1A": "x"}}, "env.1A"),
        ({"env": {"A": 8080}}, "env.A is 8080; give text .put a number in quotes"),
        ({"env": {"A": "a\0b"}}, "env.A .*NUL"),
        ({"env": {f"A{i}": "" for i in range(513)}}, "env"),
        ({"run": "a\0b"}, "run .*NUL"),
        ({"run": "  "}, "run"),
        ({"run": ["python", "x.py"]}, "run is .*which is a list; write the command as one text: run: python x.py"),
        ({"run": "x" * 65537}, "run"),
        ({"run": "\ud800"}, "run"),
        ({"directory": "runs/7"}, "directory is 'runs/7'; give an absolute path"),
        ({"directory": "/a\0b"}, "directory"),
        ({"directory": ""}, "directory"),
        ({"checkpoint": {"dir": "a\0"}}, "checkpoint.dir"),
        ({"project": "../../etc"}, "project is .*letters"),
        ({"name": "a\u202eb"}, "name is .*direction of text"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"project": "a/b"}, "project"),
        ({"model": "a b"}, "model"),
        ({"priority": "urgent"}, "priority is 'urgent'; give protected, high, normal or low"),
        ({"rescale": "inplace"}, "rescale is 'inplace'; give in-place, restart or none"),
        ({"retries": 101}, "retries is 101; it should be less than or equal to 100"),
        ({"retries": True}, "retries is True; give a whole number"),
        ({"retries": None}, "retries is empty"),
        ({"batch": 512}, "batch is 512; give 'key: value' lines"),
        ({"batch": {}}, "no 'batch.global'"),
        ({"batch": {"global": 8, "local": 4}}, "unknown key 'local' in batch; do you mean 'local_max'"),
        ({"priorty": "low"}, "unknown key 'priorty'; do you mean 'priority'"),
        ({"xyz": 1}, "unknown key 'xyz'; known keys: run, name, gpus"),
    ],
)
def test_what_is_refused_says_what_would_be_right(values: dict[str, Any], what: str) -> None:
    refused(what, **values)


def test_a_slow_progress_pattern_is_taken_for_its_matcher_bears_it() -> None:
    assert job(progress=r"(?P<step>(\d+)+)$").progress


SPECS = st.fixed_dictionaries(
    {"run": st.text(min_size=1, max_size=40).filter(lambda text: text.strip() and "\0" not in text)},
    optional={
        "name": st.text(max_size=20).filter(lambda name: re.match(JOB_NAME, name) and name == name.strip()),
        "gpus": st.one_of(st.integers(1, 999), st.builds("{}..{}".format, st.integers(1, 9), st.integers(9, 99))),
        "batch": st.fixed_dictionaries(
            {"global": st.integers(999, 10**6)}, optional={"local_max": st.integers(1, 512)}
        ),
        "priority": st.sampled_from(["protected", "high", "normal", "low"]),
        "energy": st.fixed_dictionaries({}, optional={"max_slowdown": st.sampled_from(["10%", "3.5 %", 0.2, 0])}),
        "checkpoint": st.fixed_dictionaries(
            {}, optional={"grace": st.sampled_from(["30s", "1.5m", 7, 0.25]), "dir": st.sampled_from(["ck", "/ck"])}
        ),
        "env": st.dictionaries(
            st.from_regex(r"\A[A-Z_][A-Z0-9_]{0,9}\Z"), st.sampled_from(["", "1", "a b", "λ"]), max_size=3
        ),
        "work": st.fixed_dictionaries({"iterations": st.one_of(st.integers(1, 10**9), st.just("2e4"))}),
        "limits": st.fixed_dictionaries(
            {}, optional={"memory": st.sampled_from(["1.5GiB", "16 GB", 1 << 30]), "cpus": st.sampled_from([4, 0.5])}
        ),
        "directory": st.sampled_from(["/home/ada", "/", "/a/../b"]),
        "retries": st.integers(0, 100),
    },
)


@settings(max_examples=examples(150), deadline=None)
@given(SPECS)
def test_a_spec_survives_the_store_and_agrees_with_its_schema(values: dict[str, Any]) -> None:
    made = job(**values, rescale="in-place")
    text = made.model_dump_json(by_alias=True)
    assert JobSpec.model_validate_json(text) == made
    assert VALIDATOR.is_valid({**values, "rescale": "in-place"})
    assert VALIDATOR.is_valid(json.loads(text)), "and so is what the API gives back"


VALIDATOR = jsonschema_rs.Draft202012Validator(json.loads(SHIPPED.read_text(encoding="utf-8")))


def test_the_shipped_schema_is_that_of_the_model() -> None:
    assert SHIPPED.read_text(encoding="utf-8") == schema_text(), (
        "run: python -m powerflow.api.job_schema > src/powerflow/api/job.schema.json"
    )
    jsonschema_rs.meta.validate(job_schema())


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"run": 3},
        {"run": "x", "gpus": "8 .. 1"},
        {"run": "x", "gpus": 0},
        {"run": "x", "energy": {"max_slowdown": "ten"}},
        {"run": "x", "energy": {"max_slowdown": 10}},
        {"run": "x", "checkpoint": {"grace": "soon"}},
        {"run": "x", "priority": "urgent"},
        {"run": "x", "env": {"A=B": "x"}},
        {"run": "x", "env": {"A": 1}},
        {"run": "x", "project": "../x"},
        {"run": "x", "name": "a\nb"},
        {"run": "a\0b"},
        {"run": "x", "nmae": "y"},
        {"run": "x", "limits": {"memory": "16"}},
        {"run": "x", "limits": {"memory": 16}},
        {"run": "x", "limits": {"cpus": 0}},
        {"run": "x", "batch": {"local_max": 4}},
    ],
)
def test_the_schema_refuses_what_the_model_refuses(values: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(values)
    with pytest.raises(InputError):
        spec_from(values, "job")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([*JobSpec.model_fields, "global", "RUN", "x"])


@settings(max_examples=examples(300), deadline=None)
@given(st.dictionaries(KEYS, JSON, max_size=6))
def test_no_value_does_more_than_be_refused(values: dict[str, Any]) -> None:
    with contextlib.suppress(InputError):
        spec_from({"run": "x", **values}, "body")


@settings(max_examples=examples(100), deadline=None)
@given(KEYS, JSON.filter(bool), st.text(min_size=1, max_size=500))
def test_a_refusal_is_one_short_line(key: str, value: object, text: str) -> None:
    with pytest.raises(InputError) as caught:
        spec_from({"run": "x", key: value, text + "?": value}, "body")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
