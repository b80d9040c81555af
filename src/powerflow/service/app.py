"""The REST API: what `powerflow.api.cluster_api.ClusterApi` answers, over HTTP.

Every operation is a line or two: it hands the question to the cluster and the answer back. What is common to all
(host, token, size, log) is in `middleware`, errors are in `problem`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from powerflow.api.cluster_api import ClusterApi
from powerflow.api.job_spec import JobSpec
from powerflow.api.records import Caller, Explanation, JobDetail, JobRecord, JobState, LogChunk, NodeRecord, Role, Top
from powerflow.errors import InputError
from powerflow.service import schemas
from powerflow.service.governing import governing
from powerflow.service.metrics import exposition
from powerflow.service.middleware import RequestGuard
from powerflow.service.openapi import document
from powerflow.service.operations import at_least, says
from powerflow.service.peers import Network
from powerflow.service.problem import MEDIA_TYPE, Problem, of_error, of_invalid, problem
from powerflow.service.refused import RefusedTokens
from powerflow.service.schemas import CURSOR, KEY, NAME, JobId, NodeName
from powerflow.service.tokens import Tokens

PREFIX = "/api/v1"
OPENAPI = f"{PREFIX}/openapi.json"
HEALTH = f"{PREFIX}/health"
EVENTS = f"{PREFIX}/events"
METRICS = "/metrics"

#: How often a request that waits for events looks for them.
_LOOK_S = 0.25
_HIDDEN = "(hidden)"


def build_app(
    cluster: ClusterApi,
    tokens: Tokens,
    *,
    version: str,
    log: Any,
    hosts: Collection[str] | None = None,
    open_metrics: bool = False,
    proxies: Sequence[Network] = (),
    refused: RefusedTokens | None = None,
) -> FastAPI:
    """The service.

    Args:
        cluster: Who answers.
        tokens: Who may ask.
        version: Of PowerFlow.
        log: A structlog logger for requests and for what fails (`logs.json_lines`).
        hosts: Host names to answer to (`middleware.hosts_of`); None: any.
        open_metrics: Whether ``/metrics`` needs no token.
        proxies: Proxies whose ``X-Forwarded-For`` is believed.
        refused: Counts failed authentications for the audit (`powerflow.service.token_audit`).
    """
    app = FastAPI(
        title="PowerFlow",
        version=version,
        openapi_url=OPENAPI,
        docs_url=None,  # their pages are fetched from other people's servers
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation,
    )
    app.state.stopping = False
    app.include_router(_jobs(cluster), prefix=PREFIX, tags=["jobs"])
    app.include_router(_cluster(cluster), prefix=PREFIX, tags=["cluster"])
    app.include_router(governing(cluster), prefix=PREFIX, tags=["governance"])
    app.include_router(_health(cluster, version), prefix=PREFIX, tags=["health"])
    app.add_route(METRICS, _metrics(cluster, version))
    # what nobody foresaw is answered too, and then raised on to the middleware, which logs it
    for kind in (RequestValidationError, HTTPException, InputError, OSError, Exception):
        app.add_exception_handler(kind, _answer)
    app.openapi = lambda: document(app, PREFIX, open_paths=(HEALTH,))  # type: ignore[method-assign]
    open_paths = {OPENAPI, HEALTH, *((METRICS,) if open_metrics else ())}
    app.add_middleware(
        RequestGuard,
        tokens=tokens,
        hosts=hosts,
        open_paths=open_paths,
        quick_paths={OPENAPI, HEALTH},
        watch_paths={EVENTS},
        proxies=proxies,
        refused=refused or RefusedTokens(),
        log=log,
    )
    return app


# --- jobs ---------------------------------------------------------------------------------------------------------


def _jobs(cluster: ClusterApi) -> APIRouter:
    router = APIRouter()

    @router.post("/jobs", status_code=201, **says(JobRecord, 201, 400, 403, 409, 413, 422, 503, again=True))
    def submit(
        spec: JobSpec,
        caller: Annotated[Caller, at_least(Role.USER)],
        response: Response,
        key: Annotated[
            str | None,
            Header(alias="Idempotency-Key", pattern=KEY, description="The same key again: the same job, and 200."),
        ] = None,
    ) -> JobRecord:
        """Submit a job. It belongs to the token's user. Safe to repeat with the same `Idempotency-Key`."""
        record, new = cluster.submit(spec, caller, key)
        response.status_code = 201 if new else 200
        response.headers["Location"] = f"{PREFIX}/jobs/{record.id}"
        return record

    @router.get("/jobs", **says(schemas.JobPage, 200, 422))
    def jobs(
        request: Request,
        response: Response,
        state: Annotated[list[JobState] | None, Query(description="Only these; all by default.")] = None,
        user: Annotated[str | None, Query(pattern=NAME)] = None,
        project: Annotated[str | None, Query(pattern=NAME)] = None,
        after: Annotated[str | None, Query(pattern=CURSOR, description="`next` of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> schemas.JobPage:
        """List jobs, newest first."""
        page = cluster.jobs(states=state or (), user=user, project=project, after=after, limit=limit)
        if page.next is not None:
            following = request.url.include_query_params(after=page.next)
            response.headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
        return schemas.JobPage(items=list(page.items), next=page.next)

    @router.get("/jobs/{job_id}", **says(JobDetail, 200, 404, 422))
    def job(job_id: JobId, caller: Annotated[Caller, at_least(Role.VIEWER)]) -> JobDetail:
        """One job. Values of its environment are shown to its owner and to operators only."""
        detail = cluster.job(job_id)
        if caller.role is Role.OPERATOR or caller.user == detail.record.user:
            return detail
        hidden = dict.fromkeys(detail.spec.env, _HIDDEN)
        return replace(detail, spec=detail.spec.model_copy(update={"env": hidden}))

    @router.post("/jobs/{job_id}/cancel", **says(JobRecord, 200, 403, 404, 409, 422, 503))
    def cancel(job_id: JobId, caller: Annotated[Caller, at_least(Role.USER)]) -> JobRecord:
        """Withdraw a job; what runs is ended. Cancelling a cancelled job changes nothing."""
        return cluster.cancel(job_id, caller)

    @router.post("/jobs/{job_id}/hold", **says(JobRecord, 200, 403, 404, 409, 422, 503))
    def hold(job_id: JobId, caller: Annotated[Caller, at_least(Role.USER)]) -> JobRecord:
        """Keep a job from running; one that runs gives its GPUs back first."""
        return cluster.hold(job_id, caller)

    @router.post("/jobs/{job_id}/release", **says(JobRecord, 200, 403, 404, 409, 422, 503))
    def release(job_id: JobId, caller: Annotated[Caller, at_least(Role.USER)]) -> JobRecord:
        """Let a held job run again."""
        return cluster.release(job_id, caller)

    @router.get("/jobs/{job_id}/explain", **says(Explanation, 200, 404, 422))
    def explain(job_id: JobId) -> Explanation:
        """Why a job has what it has, and what else it could have."""
        return cluster.explain(job_id)

    @router.get("/jobs/{job_id}/decisions", **says(schemas.DecisionPage, 200, 404, 422))
    def decisions(
        job_id: JobId,
        after: Annotated[int, Query(ge=0, le=2**62, description="Number of the last decision that is known.")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> schemas.DecisionPage:
        """What was decided for a job and what was expected of it then, oldest first: its story."""
        page = cluster.decisions(job_id, after=after, limit=limit)
        return schemas.DecisionPage(items=list(page.items), after=page.after)

    @router.get("/jobs/{job_id}/log", **says(LogChunk, 200, 404, 422))
    def log(
        job_id: JobId,
        rank: Annotated[str | None, Query(pattern=NAME, description="Which; the first by default.")] = None,
        offset: Annotated[int, Query(ge=-(2**53), le=2**53, description="Bytes; negative: from the end.")] = 0,
        limit: Annotated[int, Query(ge=1, le=1 << 20, description="Bytes at most.")] = 65536,
    ) -> LogChunk:
        """Part of what a job wrote. Ask again with the answer's `offset` for what follows."""
        return cluster.log(job_id, rank=rank, offset=offset, limit=limit)

    return router


# --- the cluster --------------------------------------------------------------------------------------------------


def _cluster(cluster: ClusterApi) -> APIRouter:
    router = APIRouter()

    @router.get("/top", **says(Top, 200))
    def top() -> Top:
        """The cluster at this moment."""
        return cluster.top()

    @router.get("/nodes", **says(schemas.NodeList, 200))
    def nodes() -> schemas.NodeList:
        """Nodes and their GPUs."""
        return schemas.NodeList(items=list(cluster.nodes()))

    @router.post("/nodes/{name}/drain", **says(NodeRecord, 200, 400, 403, 404, 409, 413, 422, 503))
    def drain(
        name: NodeName, caller: Annotated[Caller, at_least(Role.OPERATOR)], body: schemas.Drain | None = None
    ) -> NodeRecord:
        """Let a node take nobody new; what runs there is moved."""
        return cluster.drain(name, caller, body.reason if body else "")

    @router.post("/nodes/{name}/resume", **says(NodeRecord, 200, 403, 404, 409, 422, 503))
    def resume(name: NodeName, caller: Annotated[Caller, at_least(Role.OPERATOR)]) -> NodeRecord:
        """Let a drained or failed node be used again."""
        return cluster.resume(name, caller)

    @router.get("/events", **says(schemas.EventPage, 200, 404, 422))
    async def events(
        request: Request,
        after: Annotated[int, Query(ge=0, le=2**62, description="Number of the last event that is known.")] = 0,
        job: Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$", description="Only of this job.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        wait_s: Annotated[float, Query(ge=0, le=30, description="Wait so long for one if there is none yet.")] = 0.0,
    ) -> schemas.EventPage:
        """What happened, oldest first. Ask again with the answer's `after` for what follows."""
        until = time.monotonic() + wait_s
        while True:
            page = await run_in_threadpool(cluster.events, after=after, job_id=job, limit=limit)
            gone = time.monotonic() >= until or request.app.state.stopping or await request.is_disconnected()
            if page.items or gone:
                return schemas.EventPage(items=list(page.items), after=page.after)
            await asyncio.sleep(_LOOK_S)

    @router.get("/accounts", **says(schemas.AccountList, 200, 422))
    def accounts(
        since_s: Annotated[float, Query(ge=0, le=1e11, description="Unix seconds.")] = 0.0,
        until_s: Annotated[float | None, Query(ge=0, le=1e11, description="Unix seconds; now by default.")] = None,
        by: Annotated[str, Query(pattern="^(user|project|job)$")] = "user",
    ) -> schemas.AccountList:
        """Who was charged how much in a window of time."""
        until = time.time() if until_s is None else until_s
        if since_s > until:
            raise InputError("the window ends before it begins", where="query.since_s", fix="since_s ≤ until_s")
        found = cluster.accounts(since_s=since_s, until_s=until, by=by)
        return schemas.AccountList(
            since_s=since_s, until_s=until, by=by, items=list(found.items), notes=list(found.notes)
        )

    return router


def _health(cluster: ClusterApi, version: str) -> APIRouter:
    router = APIRouter()

    @router.get("/health", **says(schemas.Health, 200, 503, token=False))
    async def health() -> Any:  # in no thread: it answers also while all of them wait for something that hangs
        """Whether the controller works: 200, or 503. Needs no token."""
        found = cluster.healthy()
        body = schemas.Health(version=version, **found)
        return JSONResponse(body.model_dump(mode="json"), 200 if body.ok else 503)

    return router


def _metrics(cluster: ClusterApi, version: str) -> Callable[[Request], Any]:
    async def metrics(request: Request) -> Response:
        text, media_type = await run_in_threadpool(exposition, cluster, version, request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": media_type})

    return metrics


# --- what they share ----------------------------------------------------------------------------------------------


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
    return _document(found, headers)


def _methods(request: Request) -> list[str]:
    """Every method that the path is served for: starlette names those of the first operation only."""
    paths = request.app.openapi()["paths"]
    for path, operations in paths.items():
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", path), request.url.path):
            return sorted(method.upper() for method in operations)
    return ["GET", "HEAD"]


def _document(found: Problem, headers: dict[str, str]) -> Response:
    text = found.model_dump_json(exclude_none=True)
    return Response(text, found.status, headers={**headers, "Content-Type": MEDIA_TYPE})
