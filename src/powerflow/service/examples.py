"""Load one example of each answer, for the OpenAPI document. ``examples.json`` has them by the names of their types."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

from powerflow.api.pages import Items, NumberedPage, Page


@cache
def example(answer: Any) -> Any:
    """Return the example for an answer's type as plain JSON. A list contains the example of its items."""
    container, item = get_origin(answer), next(iter(get_args(answer)), answer)
    found = _all()[item.__name__]
    if container is Items:
        return {"items": [found]}
    if container is Page:
        return {"items": [found], "next": found["id"]}
    return {"items": [found], "after": found["number"]} if container is NumberedPage else found


@cache
def _all() -> dict[str, Any]:
    examples: dict[str, Any] = json.loads((Path(__file__).parent / "examples.json").read_text("utf-8"))
    return examples
