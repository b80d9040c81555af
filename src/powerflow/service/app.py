"""Build the web application that serves the REST API: the operations of `powerflow.api.operations` over HTTP.

Each route passes its request to a `ClusterApi` and returns the cluster's answer. `middleware` checks each request's
host, token and size. `routes` checks roles, and `problem` turns errors into answers.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from powerflow.api import operations as ops
from powerflow.api.accounts import Accounts
from powerflow.api.cluster_api import ClusterApi
from powerflow.api.governance import DrainOrder, OffReason
from powerflow.api.operations import PREFIX
from powerflow.api.pages import Items, NumberedPage
from powerflow.api.predictions import PredictionsRecord
from powerflow.api.recent import ClusterSample
from powerflow.api.records import (
    EventRecord,
    Identity,
    NodeRecord,
    Top,
)
from powerflow.errors import InputError
from powerflow.service.governing import governing
from powerflow.service.jobs import job_routes
from powerflow.service.metrics import exposition
from powerflow.service.middleware import RequestGuard
from powerflow.service.openapi import document
from powerflow.service.pages import LIVE, PAGES, SHOWN, SIGN_IN, page_files, page_routes, problem_shown
from powerflow.service.peers import Network
from powerflow.service.problem import MEDIA_TYPE, Problem, of_error, of_invalid, problem
from powerflow.service.refused import RefusedTokens
from powerflow.service.routes import FromCaller, FromCluster, describe, serves, window_end
from powerflow.service.schemas import (
    AfterNumber,
    Health,
    Latest,
    Limit,
    NameQuery,
    NodeName,
    Only,
    Since,
    Until,
)
from powerflow.service.shells import WAITING, shell_routes
from powerflow.service.tokens import Tokens

OPENAPI = f"{PREFIX}/openapi.json"
HEALTH = f"{PREFIX}/health"
EVENTS = f"{PREFIX}{ops.EVENTS.path}"
METRICS = "/metrics"

#: Methods of the path of the form for a token, which is shown and sent.
_FORMS = {SIGN_IN: ["GET", "HEAD", "POST"]}
#: How often a request that waits for events looks for them.
_LOOK_S = 0.25


def build_app(
    cluster: ClusterApi,
    tokens: Tokens,
    *,
    version: str,
    log: Any,
    hosts: Collection[str] | None = None,
    open_metrics: bool = False,
    access_log: bool = False,
    proxies: Sequence[Network] = (),
    refused: RefusedTokens | None = None,
) -> FastAPI:
    """Build the web application that serves the REST API.

    Args:
        cluster: Answers the requests.
        tokens: The tokens that are valid.
        version: Version of PowerFlow.
        log: A structlog logger for requests and failures (`logs.json_lines`).
        hosts: Host names that a request's URL may have (`middleware.hosts_of`); None allows any.
        open_metrics: True if ``/metrics`` needs no token.
        access_log: True to log each request. Failures of the service are always logged.
        proxies: Proxies whose ``X-Forwarded-For`` header is trusted.
        refused: Counts failed authentications for the audit (`powerflow.service.token_audit`).
    """
    app = FastAPI(
        title="PowerFlow",
        version=version,
        openapi_url=OPENAPI,
        docs_url=None,  # FastAPI's pages load scripts from other servers
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation,
    )
    app.state.stopping = False
    app.state.cluster = cluster
    app.include_router(job_routes(), prefix=PREFIX, tags=["jobs"])
    app.include_router(shell_routes(), prefix=PREFIX, tags=["jobs"])
    app.include_router(_cluster(), prefix=PREFIX, tags=["cluster"])
    app.include_router(governing(), prefix=PREFIX, tags=["governance"])
    app.include_router(_health(cluster, version), prefix=PREFIX, tags=["health"])
    app.add_route(METRICS, _metrics(cluster, version))
    refused = refused or RefusedTokens()
    app.router.routes.extend(page_routes(cluster, tokens, refused))
    # an unexpected exception is answered, too, and then raised to the middleware, which logs it
    for kind in (RequestValidationError, HTTPException, InputError, OSError, Exception):
        app.add_exception_handler(kind, _answer)
    app.openapi = lambda: document(app, PREFIX, open_paths=(HEALTH,))  # type: ignore[method-assign]
    open_paths = {OPENAPI, HEALTH, *((METRICS,) if open_metrics else ()), *page_files()}
    app.add_middleware(
        RequestGuard,
        tokens=tokens,
        hosts=hosts,
        open_paths=open_paths,
        quick_paths={OPENAPI, HEALTH, *page_files()},
        pages=PAGES,
        waiting=re.compile(f"{EVENTS}|{LIVE}|{WAITING.pattern}"),
        proxies=proxies,
        refused=refused,
        log=log,
        logs_all=access_log,
    )
    return app


# --- the cluster --------------------------------------------------------------------------------------------------


@cache
def _cluster() -> APIRouter:
    router = APIRouter()

    @serves(router, ops.ME)
    def me(caller: FromCaller) -> Identity:
        """Return the user of the token, and what this user may do."""
        return Identity(caller.user, caller.role)

    @serves(router, ops.TOP)
    def top(cluster: FromCluster) -> Top:
        return cluster.top()

    @serves(router, ops.NODES)
    def nodes(cluster: FromCluster) -> Items[NodeRecord]:
        return Items(cluster.nodes())

    @serves(router, ops.DRAIN, body=True, asks_sure=True)
    def drain(cluster: FromCluster, name: NodeName, caller: FromCaller, body: DrainOrder | None = None) -> NodeRecord:
        return cluster.drain(name, body or DrainOrder(), caller)

    @serves(router, ops.RESUME)
    def resume(cluster: FromCluster, name: NodeName, caller: FromCaller) -> NodeRecord:
        return cluster.resume(name, caller)

    @serves(router, ops.DECLARE_OFF, body=True)
    def declare_off(
        cluster: FromCluster, name: NodeName, caller: FromCaller, body: OffReason | None = None
    ) -> NodeRecord:
        return cluster.declare_off(name, caller, body.reason if body else "")

    @serves(router, ops.EVENTS, looks_up=True)
    async def events(
        cluster: FromCluster,
        request: Request,
        only: Only,
        after: AfterNumber = 0,
        limit: Limit = 100,
        latest: Latest = False,
        wait_s: Annotated[float, Query(ge=0, le=30, description="Seconds to wait if there are no events yet.")] = 0.0,
    ) -> NumberedPage[EventRecord]:
        until = time.monotonic() + wait_s
        while True:
            page = await run_in_threadpool(cluster.events, after=after, limit=limit, only=only, latest=latest)
            gone = time.monotonic() >= until or request.app.state.stopping or await request.is_disconnected()
            if page.items or gone:
                return page
            await asyncio.sleep(_LOOK_S)

    @serves(router, ops.RECENT)
    def recent(
        cluster: FromCluster,
        after_s: Annotated[float, Query(ge=0, le=1e11, description="Only later samples, in Unix seconds.")] = 0.0,
    ) -> Items[ClusterSample]:
        return Items(cluster.recent(after_s=after_s))

    @serves(router, ops.ACCOUNTS)
    def accounts(
        cluster: FromCluster,
        since_s: Since = 0.0,
        until_s: Until = None,
        by: Annotated[str, Query(pattern="^(user|project|job)$")] = "user",
    ) -> Accounts:
        return cluster.accounts(since_s=since_s, until_s=window_end(since_s, until_s), by=by)

    @serves(router, ops.PREDICTIONS)
    def predictions(
        cluster: FromCluster,
        since_s: Since = 0.0,
        until_s: Until = None,
        project: NameQuery = None,
        user: NameQuery = None,
    ) -> PredictionsRecord:
        until = window_end(since_s, until_s)
        return cluster.predictions(since_s=since_s, until_s=until, project=project, user=user)

    return router


def _health(cluster: ClusterApi, version: str) -> APIRouter:
    router = APIRouter()

    @router.get("/health", responses=describe(Health, 200, 503, token=False))
    async def health() -> Any:  # async, so it answers even if all threads wait for something that hangs
        """Report whether the controller works: 200 if it does, 503 if not. This request needs no token."""
        body = Health(version=version, **cluster.healthy())
        return JSONResponse(body.model_dump(mode="json"), 200 if body.ok else 503)

    return router


def _metrics(cluster: ClusterApi, version: str) -> Callable[[Request], Any]:
    async def metrics(request: Request) -> Response:
        text, media_type = await run_in_threadpool(exposition, cluster, version, request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": media_type})

    return metrics


# --- errors -------------------------------------------------------------------------------------------------------


def _operation(route: APIRoute) -> str:
    return route.name


async def _answer(request: Request, error: Exception) -> Response:
    path = request.url.path
    headers: dict[str, str] = {}
    if isinstance(error, RequestValidationError):
        found = of_invalid(error.errors(), path)
    elif isinstance(error, HTTPException):
        found = problem(error.status_code, str(error.detail), path)
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_methods(request))
    else:
        found = of_error(error, path)
    if found.status == 503:
        headers["Retry-After"] = "1"
    if PAGES.fullmatch(path):
        shown = problem_shown(request, found)
        shown.headers.update(headers)
        return shown
    return _document(found, headers)


def _methods(request: Request) -> list[str]:
    """Return all HTTP methods that a request's path supports. Starlette's own answer is not complete.

    It names only the methods of the first route that has this path.
    """
    path = request.url.path
    if PAGES.fullmatch(path):
        return _FORMS.get(path) or (["GET", "HEAD"] if SHOWN.fullmatch(path) else ["POST"])
    paths = request.app.openapi()["paths"]
    for path, operations in paths.items():
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", path), request.url.path):
            return sorted(method.upper() for method in operations)
    return ["GET", "HEAD"]


def _document(found: Problem, headers: dict[str, str]) -> Response:
    text = found.model_dump_json(exclude_none=True)
    return Response(text, found.status, headers={**headers, "Content-Type": MEDIA_TYPE})
