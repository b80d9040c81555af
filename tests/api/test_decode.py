"""Records made from JSON without pydantic are those that pydantic makes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from powerflow.api import operations
from powerflow.api.decode import decode
from powerflow.api.operations import Operation
from powerflow.api.pages import NumberedPage, Page
from powerflow.api.records import EventRecord, GpuRecord, JobRecord, JobState
from powerflow.service.examples import example

OPERATIONS: list[Operation[Any]] = [value for value in vars(operations).values() if isinstance(value, Operation)]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda at: at.name)
def test_every_answer_is_read_as_pydantic_reads_it(operation: Operation[Any]) -> None:
    kind: Any = operation.answer
    shown = example(kind)
    assert decode(kind, shown) == TypeAdapter(kind).validate_json(json.dumps(shown))


NUMBERS = st.none() | st.floats(-1e9, 1e9)


@given(st.tuples(st.integers(), st.text(), st.none() | st.text(), NUMBERS, NUMBERS, NUMBERS, NUMBERS))
def test_a_record_that_is_written_is_read_again(values: tuple[Any, ...]) -> None:
    gpu = GpuRecord(*values)
    plain = json.loads(json.dumps(dataclasses.asdict(gpu), allow_nan=False))
    assert decode(GpuRecord, plain) == gpu


JOB = example(Page[JobRecord])["items"][0]


def test_later_versions_may_have_more_fields_and_numbers_may_be_whole() -> None:
    job = decode(JobRecord, JOB | {"a_field_of_a_later_version": 1, "submitted_s": 5})
    assert (job.submitted_s, type(job.submitted_s), job.state) == (5.0, float, JobState.RUNNING)
    assert job.nodes == ("n1",)


@pytest.mark.parametrize(
    "change",
    [
        {"state": "exploded"},
        {"energy_j": "much"},
        {"rescales": 1.5},
        {"rescales": True},
        {"nodes": "n1"},
        {"emulated": None},
        {"id": 12},
        {"started_s": []},
    ],
)
def test_what_is_no_record_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(JobRecord, JOB | change)
    with pytest.raises(ValueError, match=r"."):
        decode(Page[JobRecord], {"items": [JOB | change], "next": None})


@pytest.mark.parametrize("data", [None, [], "text", {}, {"items": {}}, {"items": [], "after": None}])
def test_what_is_no_page_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(NumberedPage[EventRecord], data)
