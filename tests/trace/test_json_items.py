"""The sliding window gives what ``json.loads`` gives, whatever the window's size."""

import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from powerflow.errors import InputError
from powerflow.trace import json_items

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
few = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@given(items=st.lists(values, max_size=5), window=st.integers(1, 9), indent=st.none() | st.integers(0, 2))
def test_items_are_those_of_json(
    items: list[object], window: int, indent: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_items, "_READ_CHARS", window)
    text = json.dumps(items, indent=indent)
    assert [item for _, item in json_items.array_items(io.StringIO(text))] == items
    inside = json.dumps({"before": [1, {"jobs": []}], "jobs": items, "after": 12}, indent=indent)
    assert [item for _, item in json_items.member_items(io.StringIO(inside), "jobs")] == items


@few
@given(items=st.lists(values, min_size=1, max_size=4), window=st.integers(1, 9), data=st.data())
def test_a_torn_document_is_refused(
    items: list[object], window: int, data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_items, "_READ_CHARS", window)
    text = json.dumps(items)
    torn = text[: data.draw(st.integers(0, len(text) - 1))]
    with pytest.raises(InputError, match="is not JSON"):
        list(json_items.array_items(io.StringIO(torn)))


def test_lines_are_those_where_items_start(monkeypatch: pytest.MonkeyPatch) -> None:
    text = '[\n{"a":\n1},\n\n2, 3,\n"x"\n]'
    for window in range(1, 12):
        monkeypatch.setattr(json_items, "_READ_CHARS", window)
        assert [line for line, _ in json_items.array_items(io.StringIO(text))] == [2, 5, 5, 6]


def test_text_after_the_end_is_refused() -> None:
    with pytest.raises(InputError, match="text after the end"):
        list(json_items.array_items(io.StringIO("[1] 2")))


def test_an_endless_item_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_items, "_LARGEST_ITEM_CHARS", 1000)
    stream = io.StringIO('["' + "x" * 10_000_000)
    with pytest.raises(InputError, match="is not JSON"):
        list(json_items.array_items(stream))
    assert stream.tell() < 1_000_000  # it did not read on to the end
