"""Serve the dashboard: pages for people, the form for their token, and the files that pages refer to."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from powerflow.api.cluster_api import ClusterApi
from powerflow.api.records import Caller, Forbidden, Role
from powerflow.dashboard.assets import STATIC, assets
from powerflow.dashboard.language import LANGUAGES, preferred
from powerflow.dashboard.render import cluster_page, continue_page, job_page, problem_page, sign_in_page
from powerflow.service.browser import (
    PAGE_HEADERS,
    TOKEN,
    cookie_of,
    follows_foreign_link,
    is_foreign,
    presented_token,
)
from powerflow.service.live_page import LiveStates, events, zipped
from powerflow.service.problem import Problem
from powerflow.service.refused import RefusedTokens
from powerflow.service.tokens import Tokens

SIGN_IN, SIGN_OUT, LIVE = "/sign-in", "/sign-out", "/live"
#: What a person may do with a job, by its page.
_ACTS = ("cancel", "hold", "release")
#: Paths that show something; a person may be led there after the sign-in.
SHOWN = re.compile(r"/|/jobs/[A-Za-z0-9._-]{1,64}")
#: Paths of pages: without a valid token, these show the form for it.
PAGES = re.compile(rf"{SHOWN.pattern}|/jobs/[A-Za-z0-9._-]{{1,64}}/(?:{'|'.join(_ACTS)})|{SIGN_IN}|{SIGN_OUT}")
#: Seconds for which a browser may keep a file of a page: its path changes with its content.
_KEPT_S = 31_536_000

_Page = Callable[[ClusterApi, Request, Caller, str], str]


def page_routes(cluster: ClusterApi, tokens: Tokens, refused: RefusedTokens) -> list[Route]:
    """Return the routes of the pages of a cluster. ``refused`` counts failed attempts to sign in, for the audit."""

    async def sign_in(request: Request) -> Response:
        headers = raw_headers(request)
        if request.method != "POST":
            return _to("/") if request.state.caller else _form(request, "/")
        if is_foreign(request.method, headers):
            return _html(problem_page("403", _FOREIGN, "", None, _language(request)), 403)
        form = parse_qs((await request.body()).decode("utf-8", "replace"), keep_blank_values=True)
        token, to = (form.get(name, [""])[-1].strip() for name in ("token", "to"))
        to = to if SHOWN.fullmatch(to) else "/"
        known = TOKEN.fullmatch(token) and tokens.caller(token)
        if not known:
            refused.add(request.state.address)
            return _form(request, to, refused=True)
        return _to(to, cookie_of(token, headers))

    async def sign_out(request: Request) -> Response:
        return _to("/", cookie_of("", raw_headers(request)))

    live = {language: LiveStates(cluster, language) for language in LANGUAGES}

    async def stream(request: Request) -> Response:
        headers = raw_headers(request)
        token, state = presented_token(headers)[0], request.app.state
        last_id = headers.get(b"last-event-id", "") or request.query_params.get("after", "")
        found = events(
            live[_language(request)], last_id, lambda: not state.stopping and tokens.caller(token) is not None
        )
        answer = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store", "Vary": "Cookie"}
        if "gzip" not in headers.get(b"accept-encoding", ""):
            return StreamingResponse(found, headers=answer)
        return StreamingResponse(zipped(found), headers={**answer, "Content-Encoding": "gzip"})

    return [
        Route("/", _shows(_cluster)),
        Route(LIVE, stream),
        Route("/jobs/{job_id}", _shows(_job)),
        *(Route(f"/jobs/{{job_id}}/{act}", _does(act), methods=["POST"]) for act in _ACTS),
        Route(SIGN_IN, sign_in, methods=["GET", "POST"]),
        Route(SIGN_OUT, sign_out, methods=["POST"]),
        Route(f"{STATIC}{{name}}", _file),
    ]


def page_files() -> frozenset[str]:
    """Return the paths of the files that pages refer to. They need no token: the form for it uses them, too."""
    return frozenset(asset.path for asset in assets().values())


def problem_shown(request: Request, found: Problem) -> Response:
    """Return a page for a problem on the path of a page."""
    said = found.detail if not found.where else f"{found.where}: {found.detail}"
    page = problem_page(found.title, said, found.fix or "", request.state.caller, _language(request))
    return _html(page, found.status)


def raw_headers(request: Request) -> Mapping[bytes, str]:
    """Return the headers of a request as the guard reads them."""
    return {name: value.decode("latin-1") for name, value in request.scope["headers"]}


_FOREIGN = "another site has made your browser send this request, so it was not carried out"


def _shows(page: _Page) -> Callable[[Request], object]:
    """Return a function that answers with a page, or with the form for a token if nobody is signed in."""

    async def answer(request: Request) -> Response:
        caller: Caller | None = request.state.caller
        if caller is None:
            if follows_foreign_link(raw_headers(request)):
                return _html(continue_page(request.url.path, _language(request)), 200)
            return _form(request, request.url.path)
        return _html(await run_in_threadpool(page, request.app.state.cluster, request, caller, _language(request)), 200)

    return answer


def _does(act: str) -> Callable[[Request], object]:
    """Return a function that does something with a job, and leads back to its page.

    The guard has refused requests that another site has caused.
    """

    async def answer(request: Request) -> Response:
        caller: Caller | None = request.state.caller
        job_id, cluster = request.path_params["job_id"], request.app.state.cluster
        if caller is None:
            return _form(request, f"/jobs/{job_id}")
        if not caller.role.suffices(Role.USER):
            raise Forbidden(f"{caller.user} has the role {caller.role}", fix=f"this request needs the role {Role.USER}")
        await run_in_threadpool(getattr(cluster, act), job_id, caller)
        return _to(f"/jobs/{job_id}")

    return answer


def _cluster(cluster: ClusterApi, request: Request, caller: Caller, language: str) -> str:
    return cluster_page(cluster, caller, language)


def _job(cluster: ClusterApi, request: Request, caller: Caller, language: str) -> str:
    return job_page(cluster, request.path_params["job_id"], time.time(), caller, language)


async def _file(request: Request) -> Response:
    asset = next((asset for asset in assets().values() if asset.path == request.url.path), None)
    if asset is None:
        raise HTTPException(404)
    headers = {
        "Content-Type": asset.media_type,
        "Cache-Control": f"public, max-age={_KEPT_S}, immutable",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    return Response(asset.content, headers=headers)


def _form(request: Request, to: str, *, refused: bool = False) -> Response:
    answer = _html(sign_in_page(to, _language(request), refused=refused), 401)
    answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def _to(path: str, cookie: str = "") -> Response:
    answer = RedirectResponse(path, 303, PAGE_HEADERS)
    if cookie:
        answer.headers["Set-Cookie"] = cookie
    return answer


def _html(page: str, status: int) -> Response:
    return HTMLResponse(page, status, PAGE_HEADERS)


def _language(request: Request) -> str:
    return preferred(request.headers.get("accept-language", ""))
