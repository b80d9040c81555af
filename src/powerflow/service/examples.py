"""Load an example of each answer for the OpenAPI document. ``examples.json`` maps names of answer types to examples."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

from powerflow.api.pages import Items, NumberedPage, Page


@cache
def example(answer: Any) -> Any:
    """Return an example of an answer, given its type, as plain JSON. An example list has one item."""
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
