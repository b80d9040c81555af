"""Turn functions into routes of the REST API: check the caller's role, and describe the answers for OpenAPI."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from powerflow.api.cluster_api import ClusterApi
from powerflow.api.operations import Operation
from powerflow.api.records import Caller, Forbidden, Role
from powerflow.errors import InputError
from powerflow.service.examples import example
from powerflow.service.problem import responses

Endpoint = Callable[..., Any]


async def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


async def _cluster(request: Request) -> ClusterApi:
    cluster: ClusterApi = request.app.state.cluster
    return cluster


#: Parameters of a route: who makes the request, and the cluster that answers it.
FromCaller = Annotated[Caller, Depends(_caller)]
FromCluster = Annotated[ClusterApi, Depends(_cluster)]


def serves(
    router: APIRouter,
    operation: Operation[Any],
    *,
    body: bool = False,
    looks_up: bool = False,
    repeatable: bool = False,
    asks_sure: bool = False,
    asks_node: bool = False,
) -> Callable[[Endpoint], Endpoint]:
    """Return a decorator that makes a function the route of an operation.

    The route checks the caller's role before it reads the request. Its description in the OpenAPI document is the
    function's docstring, or else the docstring of the `ClusterApi` method with the same name.

    Args:
        router: The router that gets the new route.
        operation: The operation that the route serves.
        body: True if the request has a body.
        looks_up: True if the answer can be 404 because the query or body names a job or project. A route with a name in
            its path can always answer 404.
        repeatable: True if the answer is 200 instead of 201 for a repeated request.
        asks_sure: True if the answer can be 428 because the change would stop jobs, and the body does not say ``sure``.
        asks_node: True if the answer can be 504 because it is on a node that does not answer.
    """

    def add(endpoint: Endpoint) -> Endpoint:
        writes = operation.method == "POST"
        takes = inspect.signature(endpoint).parameters.keys() - {"caller", "cluster", "request", "response"}
        errors = {
            400: body,
            403: operation.least is not Role.VIEWER,
            404: looks_up or "{" in operation.path,
            409: writes,
            413: body,
            422: bool(takes),
            428: asks_sure,
            503: writes,
            504: asks_node,
        }
        answers = describe(operation.answer, operation.status, *(status for status, may in errors.items() if may))
        if repeatable:
            again = "The key was used before: the answer is the job of that request."
            answers[200] = {**answers[operation.status], "model": operation.answer, "description": again}
        router.add_api_route(
            operation.path,
            endpoint,
            methods=[operation.method],
            name=operation.name,
            description=_description(endpoint),
            status_code=operation.status,
            response_model=operation.answer,
            responses=answers,
            dependencies=[Depends(_at_least(operation.least))],
        )
        return endpoint

    return add


def window_end(since_s: float, until_s: float | None) -> float:
    """Return the end of a time window, which is now if the request does not say it.

    Raises:
        InputError: The window ends before it begins.
    """
    until = time.time() if until_s is None else until_s
    if since_s > until:
        raise InputError("the window ends before it begins", where="query.since_s", fix="give a later until_s")
    return until


def describe(answer: Any, status: int, *errors: int, token: bool = True) -> dict[int | str, Any]:
    """Describe a route's answers for the OpenAPI document: the successful answer with an example, and every error."""
    every = {*errors, *((401, 429) if token else ()), 421, 500}
    good = {"content": {"application/json": {"example": example(answer)}}, "description": "Done."}
    return {status: good, **responses(*sorted(every))}


def _at_least(least: Role) -> Callable[[Request], Any]:
    async def check(request: Request) -> None:
        caller: Caller = request.state.caller
        if not caller.role.suffices(least):
            what = f"{caller.user} has the role {caller.role}"
            raise Forbidden(what, fix=f"this request needs the role {least}")

    return check


def _description(endpoint: Endpoint) -> str:
    text = inspect.getdoc(endpoint) or inspect.getdoc(getattr(ClusterApi, endpoint.__name__)) or ""
    return text.partition("\n\nReturns:")[0].partition("\n\nRaises:")[0]
