"""Check each request's host, token and body, and each user's number of requests; log the results."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any

from powerflow.api.records import Caller
from powerflow.service.body import BODY_LIMIT, fault_of
from powerflow.service.browser import FORM_LIMIT, is_foreign, presented_token
from powerflow.service.peers import Network, origin
from powerflow.service.problem import BUG, MEDIA_TYPE, problem
from powerflow.service.refused import RefusedTokens
from powerflow.service.tokens import Tokens
from powerflow.service.turns import Turns

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Host names that a request to a service on a loopback address may use.
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
#: Requests that are worked on at once, of all and of one user; each holds a thread, of which there are 40.
READS, READS_EACH = 24, 8
WRITES, WRITES_EACH = 8, 4
#: Most bodies of one user that are read at the same time.
BODIES_EACH = 16
#: Most unanswered requests of one user, without and with a wait for events or for a shell; both kinds are counted
#: separately.
INSIDE, WATCHING = 64, 32


def hosts_of(bound_to: str) -> frozenset[str] | None:
    """Return the host names that a request's URL may have, given the address of the service; None allows any name.

    On a loopback address only names of this machine are allowed. This prevents DNS rebinding: a web page's host name
    that suddenly points to this machine, so that the page can send requests to the service.
    """
    return LOOPBACK if bound_to in ("localhost", "127.0.0.1", "::1") else None


class RequestGuard:
    """ASGI middleware that checks each request, and passes it on with the caller's name and role.

    Args:
        app: The application that answers the requests that pass.
        tokens: The tokens that are valid.
        hosts: Host names that a request's URL may have; None allows any.
        open_paths: Paths that need no token. A request to one of them must have no body.
        quick_paths: Paths whose requests are answered at once, without waiting for other requests.
        pages: Matches paths of pages for people, which answer a request without a token with a form for it.
        waiting: Matches paths on which a request may wait until something happens. It holds no thread meanwhile.
        proxies: Proxies whose ``X-Forwarded-For`` header is trusted (`powerflow.service.peers`).
        refused: Counts failed authentications.
        log: A structlog logger.
        logs_all: True to log each request; otherwise only failures of the service are logged.
    """

    def __init__(
        self,
        app: App,
        *,
        tokens: Tokens,
        hosts: Collection[str] | None,
        open_paths: Collection[str],
        quick_paths: Collection[str],
        pages: re.Pattern[str],
        waiting: re.Pattern[str],
        proxies: Sequence[Network],
        refused: RefusedTokens,
        log: Any,
        logs_all: bool,
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._hosts = hosts
        self._open = frozenset(open_paths)
        self._quick = frozenset(quick_paths)
        self._pages = pages
        self._waiting = waiting
        self._proxies = proxies
        self._refused = refused
        self._log, self._logs_all = log, logs_all
        self._bodies = Turns(INSIDE * READS, BODIES_EACH)
        self._reads = Turns(READS, READS_EACH)
        self._writes = Turns(WRITES, WRITES_EACH)
        self._inside: Counter[str] = Counter()  # unanswered requests by user; those that wait for events apart

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request, pass it on or refuse it, and log its result if all results are logged."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status: int | None = None
        caller: Caller | None = None
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        address = origin((scope.get("client") or ("",))[0], forwarded, self._proxies)

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            token, kept = presented_token(headers)
            caller = self._tokens.caller(token, address) if token else None
            page = self._pages.fullmatch(scope["path"]) is not None
            scope.setdefault("state", {}).update(caller=caller, address=address)
            if not self._known_host(headers.get(b"host", "")):
                await _refuse(scope, sending, 421, "the host in the URL is not allowed: use localhost or 127.0.0.1")
            elif kept and is_foreign(scope["method"], headers):
                await _refuse(scope, sending, 403, "another site has made the browser send this request")
            elif caller is None and page:
                if kept:
                    self._refused.add(address)
                await self._admit(scope, receive, sending, caller, headers)
            elif caller is None and scope["path"] not in self._open:
                self._refused.add(address)
                await _refuse(scope, sending, 401, "the request has no valid token", (b"www-authenticate", b"Bearer"))
            else:
                await self._admit(scope, receive, sending, caller, headers)
        except Exception:
            # the cause is written to the log only
            self._log.exception("request failed", method=scope["method"], path=scope["path"])
            if status is None:
                await _refuse(scope, sending, 500, BUG)
        finally:
            if self._logs_all:
                self._log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    user=caller.user if caller else None,
                    address=address,
                    duration_s=round(time.perf_counter() - began, 6),
                )

    async def _admit(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller | None, headers: Mapping[bytes, str]
    ) -> None:
        """Pass a request on, unless the same user already has too many unanswered requests."""
        user, watches = caller.user if caller else "", self._waiting.fullmatch(scope["path"]) is not None
        if scope["path"] in self._quick:
            await self._hand_on(scope, receive, send, caller, b"")
            return
        kind, most = (f"watching {user}", WATCHING) if watches else (user, INSIDE)
        if self._inside[kind] >= most:
            what = f"{user or 'nobody'} has {most} requests in progress already"
            await _refuse(scope, send, 429, what, (b"retry-after", b"1"))
            return
        self._inside[kind] += 1
        try:
            body: bytes | None = b""
            most = FORM_LIMIT if self._pages.fullmatch(scope["path"]) else BODY_LIMIT if caller is not None else 0
            if most and (b"content-length" in headers or b"transfer-encoding" in headers):
                async with self._bodies.turn(user):
                    body = await _body(headers.get(b"content-length", ""), receive, most)
            if body is None:
                await _refuse(scope, send, 413, f"the body of the request is too long: send at most {most} bytes")
            elif fault := fault_of(body):
                await _refuse(scope, send, 422, fault)
            elif watches:
                await self._hand_on(scope, receive, send, caller, body)
            else:
                async with (self._reads if scope["method"] in ("GET", "HEAD") else self._writes).turn(user):
                    await self._hand_on(scope, receive, send, caller, body)
        except ConnectionResetError:
            pass  # the client has gone
        finally:
            self._inside[kind] -= 1
            if not self._inside[kind]:
                del self._inside[kind]

    async def _hand_on(self, scope: Scope, receive: Receive, send: Send, caller: Caller | None, body: bytes) -> None:
        await self._app(scope, _replay(body, receive), send)

    def _known_host(self, host: str) -> bool:
        if self._hosts is None:
            return True
        name, _, port = host.rpartition(":")
        return (name if name and port.isdigit() else host).lower() in self._hosts


async def _body(length: str, receive: Receive, most: int) -> bytes | None:
    """Read the whole body of a request; return None if the body has more than ``most`` bytes.

    Raises:
        ConnectionResetError: The client closed the connection before the end of the body.
    """
    if length.isdigit() and int(length) > most:
        return None
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionResetError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(scope: Scope, send: Send, status: int, detail: str, *headers: tuple[bytes, bytes]) -> None:
    body = problem(status, detail, scope["path"]).model_dump_json(exclude_none=True).encode()
    head = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
