"""On how many GPUs a job can run: all the forms in which that can be said, and what becomes of them."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from powerflow.api.job_file import spec_of_text
from powerflow.api.job_schema import job_schema
from powerflow.api.job_spec import JobSpec
from powerflow.cluster.spec import parse_cluster
from powerflow.errors import InputError
from powerflow.job import Job
from powerflow.live.jobs.active_job import asked, scheduler_job
from powerflow.live.jobs.cost_learning import class_of
from powerflow.policy.registry import BUILT_IN, load
from powerflow.scheduler.events import CostLearned, Submitted
from powerflow.scheduler.scheduler import Scheduler
from powerflow.store.mappers import to_json
from powerflow.testing.invariants import check
from tests.live.controller_bench import Bench
from tests.scheduler.situations import IDLE_W, axes, table

EVEN = tuple(range(2, 17, 2))


def spec(gpus: Any, **keys: Any) -> JobSpec:
    return JobSpec.model_validate({"run": "x", "rescale": "restart", "gpus": gpus, **keys})


@pytest.mark.parametrize(
    ("written", "counts", "gpu_type", "said"),
    [
        ([1, 2, 4, 8], (1, 2, 4, 8), None, "1,2,4,8"),
        ([8, 2, 2, 1], (1, 2, 8), None, "1,2,8"),
        ("1,2, 4", (1, 2, 4), None, "1,2,4"),
        ("H100:2,4", (2, 4), "H100", "H100:2,4"),
        ({"multiple_of": 2, "max": 16}, EVEN, None, "2..16 by 2"),
        ({"multiple_of": 2, "max": 17}, EVEN, None, "2..16 by 2"),
        ({"multiple_of": 4, "min": 5, "max": 20, "type": "A100"}, (8, 12, 16, 20), "A100", "A100:8..20 by 4"),
        ("H100:2..16 by 2", EVEN, "H100", "H100:2..16 by 2"),
        ({"counts": [2, 6], "type": "T4"}, (2, 6), "T4", "T4:2,6"),
        ({"multiple_of": 1, "max": 8}, None, None, "1..8"),
        ({"min": 2, "max": 8}, None, None, "2..8"),
        ({"multiple_of": 8, "max": 8}, None, None, "8"),
    ],
)
def test_counts_can_be_said(written: Any, counts: tuple[int, ...] | None, gpu_type: str | None, said: str) -> None:
    gpus = spec(written).gpus
    assert (gpus.counts, gpus.gpu_type, str(gpus)) == (counts, gpu_type, said)
    assert spec(said).gpus == gpus
    jsonschema_rs.Draft202012Validator(job_schema()).validate({"run": "x", "gpus": written, "rescale": "restart"})
    stored = to_json(spec(written).model_dump(mode="json", by_alias=True))
    assert JobSpec.model_validate_json(stored) == spec(written)
    assert spec(spec(written).model_dump(by_alias=True)["gpus"]) == spec(written)


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ([4], "write 4, or a list"),
        ([], "write 4, or a list"),
        ([0, 1], "a whole number from 1"),
        ([1, True], "a whole number from 1"),
        ([1, "2"], "a whole number from 1"),
        ("1,", "cannot read"),
        ({"multiple_of": 2}, "no 'max'"),
        ({"multiple_of": 0, "max": 4}, "a whole number from 1"),
        ({"multiple_of": 3, "min": 4, "max": 5}, "no multiple of 3 from 4 to 5"),
        ({"multiple_of": 2, "max": 8, "step": 1}, "unknown key 'step'"),
        ({"multiple_of": 2, "max": 999_999}, "more than 4096 counts"),
        ("8..2 by 2", "write LEAST..MOST"),
        ({"least": 1, "most": 8, "counts": [8, 1]}, "not in ascending order"),
    ],
)
def test_what_says_no_counts_is_refused_in_one_line(written: Any, what: str) -> None:
    with pytest.raises(ValidationError) as caught:
        spec(written)
    assert what in caught.value.errors()[0]["msg"]


def test_the_line_of_a_job_file_is_named() -> None:
    text = "run: x\nrescale: restart\ngpus: {{multiple_of: 2, max: {}}}\n"
    assert spec_of_text(text.format(8)).gpus.counts == (2, 4, 6, 8)
    with pytest.raises(InputError, match=r"^standard input:3: gpus: "):
        spec_of_text(text.format(0))


def test_a_spec_that_was_stored_before_there_were_lists_is_read_and_written_as_before() -> None:
    old = '{"run":"x","gpus":{"least":1,"most":8,"gpu_type":null},"rescale":"restart"}'
    read = JobSpec.model_validate_json(old)
    assert read.gpus.runs_on(3)
    assert read.model_dump(mode="json")["gpus"] == {"least": 1, "most": 8, "gpu_type": None}


def test_a_job_knows_its_counts() -> None:
    with pytest.raises(ValidationError, match="rescale is none"):
        spec([1, 2], rescale="none")
    listed = spec([1, 3, 6])
    job = scheduler_job("a", listed, class_of(listed, "ada"), 0.0, 10.0)
    assert (job.gpus_min, job.gpus_max, job.gpus_allowed, job.gpus) == (1, 6, (1, 3, 6), 3)
    assert [n for n in range(9) if job.runs_on(n)] == [1, 3, 6]
    assert asked(1, 8) == asked(1, 8, (1, 2, 4, 8)) == 4
    with pytest.raises(InputError, match="do not go from 1 up to 8"):
        Job("a", 0.0, "c", 1.0, 1, 1, 8, gpus_allowed=(1, 2))


def given_to(policy: str, only: tuple[int, ...], capacity: int = 8) -> int:
    """GPUs that a job gets which is alone, and runs twice as fast on twice as many."""
    counts = list(range(1, 9))
    chosen = load(policy)
    scheduler = Scheduler(
        parse_cluster(f"1x{capacity}:A100"), {"A100": axes(counts=counts, gpus_per_node=8)}, {"A100": IDLE_W}, chosen
    )
    made = table([1.0])
    shape = np.array(counts, float)[:, None]
    made = type(made)(
        np.hstack([10.0 / shape, 8.0 / shape]),
        np.hstack([11.0 / shape, 9.0 / shape]),
        np.hstack([100.0 * shape, 250.0 * shape]),
        np.ones(8, np.int64),
        np.ones(8, np.int64),
    )
    job = Job("a", 0.0, "c", 1e5, only[len(only) // 2], only[0], only[-1], gpus_allowed=only)
    plan = scheduler.step(0.0, [CostLearned("c", "A100", made), Submitted(job, 1e5, 30.0)])
    check(scheduler, plan)
    return sum(change.gpus for change in plan.changes)


def test_prices_gives_the_most_of_the_listed_counts_that_fit() -> None:
    assert given_to("prices", (1, 2, 4, 8)) == 8
    assert given_to("prices", (1, 3, 6)) == 6  # though no power of two
    assert given_to("prices", (1, 3, 6), capacity=5) == 3
    assert given_to("prices", (3, 5)) == 5
    assert given_to("prices", (6, 7), capacity=5) == 0


@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("policy", sorted(BUILT_IN))
@given(only=st.sets(st.integers(1, 8), min_size=2, max_size=5))
def test_every_policy_gives_a_listed_count(policy: str, only: set[int]) -> None:
    counts = tuple(sorted(only))
    assert given_to(policy, counts) in counts


def test_a_listed_job_runs_is_shown_and_is_explained_by_its_counts(tmp_path_factory: pytest.TempPathFactory) -> None:
    bench = Bench(tmp_path_factory.mktemp("bench"), "1x8:A100")
    try:
        bench.steps_total = 10_000
        job = bench.submit(gpus=[1, 3, 5], batch={"global": 60})
        bench.until_trains(job)
        assert bench.controller.jobs[job].gpus in (1, 3, 5)
        assert bench.service.job(job).record.gpus_asked == "1,3,5"
        explained = bench.service.explain(job)
        assert {option.gpus for option in explained.options} <= {1, 3, 5}
    finally:
        bench.close()
