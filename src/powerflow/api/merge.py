"""Merge the values of a job with others over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a job with others over them. A part such as ``batch`` keeps keys that are not replaced."""
    found = dict(below)
    for key, value in above.items():
        old = found.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and key != "gpus":  # GPU counts are one value
            found[key] = merged(old, value)
        else:
            found[key] = value
    return found
