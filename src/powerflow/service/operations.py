"""What all operations of the API share: who may ask, and how answers are described."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, Request

from powerflow.api.records import Caller, Forbidden, Role
from powerflow.service import schemas
from powerflow.service.problem import responses

_ROLES = list(Role)


def at_least(least: Role) -> Any:
    """A dependency: who asks, if with this role or a higher one.

    Raises:
        Forbidden: With a lower one.
    """

    async def caller(request: Request) -> Caller:
        who: Caller = request.state.caller
        if _ROLES.index(who.role) < _ROLES.index(least):
            raise Forbidden(f"{who.user} asks with the role {who.role}", fix=f"this takes the role {least}")
        return who

    return Depends(caller)


def says(shape: Any, status: int, *errors: int, again: bool = False, token: bool = True) -> dict[str, Any]:
    """How an operation's answers are described: the shape with an example, and every error it may end in."""
    said = {"content": {"application/json": {"example": schemas.example(shape)}}}
    every = (*errors, *((401, 429) if token else ()), 421, 500)
    described: dict[int | str, Any] = {status: {**said, "description": "Done."}, **responses(*sorted(set(every)))}
    if again:
        described[200] = {**said, "model": shape, "description": "Was done before: the same key, the same job."}
    return {"responses": described}
