"""The examples of the OpenAPI document are answers as the API gives them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from powerflow.api import operations
from powerflow.api.operations import Operation
from powerflow.service.examples import example

OPERATIONS: list[Operation[Any]] = [value for value in vars(operations).values() if isinstance(value, Operation)]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda at: at.name)
def test_an_example_is_what_the_operation_answers(operation: Operation[Any]) -> None:
    answer: Any = operation.answer
    shown = example(answer)
    adapter: TypeAdapter[Any] = TypeAdapter(answer)
    assert adapter.dump_python(adapter.validate_python(shown), mode="json", by_alias=True) == shown
