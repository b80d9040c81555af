"""Make the OpenAPI 3.1 document of the REST API."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from powerflow.service.problem import Problem

_ABOUT = """Submit jobs to a PowerFlow controller, and read their state.

Units are seconds (times of day: Unix seconds, UTC), watts, joules and MHz. `null` means "not known" or "not yet".
Values of records with `emulated` come from a model, not from a meter.
"""


def document(app: FastAPI, prefix: str, *, open_paths: Collection[str]) -> dict[str, Any]:
    """Return the OpenAPI document; later calls return the same one.

    It says that every operation needs a bearer token, except those in ``open_paths``.
    """
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=_ABOUT, routes=app.routes)
        components = made.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
        components["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer", "description": "Made by powerflow token; has a role."}
        }
        for path, operations in made["paths"].items():
            for operation in operations.values():
                operation["security"] = [] if path in open_paths else [{"token": []}]
        app.openapi_schema = made
    return app.openapi_schema
