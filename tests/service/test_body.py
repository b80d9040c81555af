"""Bodies are bounded before anything reads them as JSON."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerflow.service.body import BODY_LIMIT, DEEPEST, fault_of


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'{"run": "true", "env": {"A": "[[[[[[[[[[[[[[[[[[[["}}', ""),
        (b"[" * DEEPEST + b"]" * DEEPEST, ""),
        (b"[" * (DEEPEST + 1), "nested"),
        (b'{"a":' * (DEEPEST + 1), "nested"),
        (b"[" + b"[]," * 10_000, "too many values"),
        (b'"a"' * 10_000, "too many values"),
        (b'{"csv": "' + b"0,1\\n" * 100_000 + b'"}', ""),
        (b'"\\"[[[[[[[[[[[[[[[[[[[[[', ""),
        (b"\xff\x00", ""),
        (b"", ""),
    ],
)
def test_what_is_too_deep_or_too_rich_is_found(body: bytes, fault: str) -> None:
    found = fault_of(body)
    assert (fault in found) if fault else (found == "")


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_ordinary_bodies_pass(value: Any) -> None:
    text = json.dumps(value)
    depth = max_depth(value)
    assert fault_of(text.encode()) == "" or depth > DEEPEST or len(text) > 8192


def max_depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(max_depth, inner), default=0)


@pytest.mark.parametrize("part", [b'\\"', b'"', b'"\\', b"\\a", b"[", b" ", b"\xf0\x9f"])
def test_no_body_takes_long(part: bytes) -> None:
    """Linear in the worst case: 1 MiB of anything is read once (quadratic would take hours)."""
    began = time.process_time()
    fault_of(b'{"run": "' + part * (BODY_LIMIT // len(part)))
    assert time.process_time() - began < 5
