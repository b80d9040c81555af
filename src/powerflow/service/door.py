"""What every request passes before it reaches an operation: host, token, size; and the log of what came of it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from powerflow.live.records import Caller
from powerflow.service.problem import BUG, MEDIA_TYPE, problem
from powerflow.service.tokens import Tokens

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: A larger request body is refused before it is parsed.
BODY_LIMIT = 1 << 20
#: Host names under which a service on loopback is asked.
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


def hosts_of(bound_to: str) -> frozenset[str] | None:
    """Host names to answer to when bound to an address; None: any.

    On loopback a page of a stranger could give its own name our address (DNS rebinding) and ask with the browser's
    rights; under its own name it gets nothing.
    """
    return LOOPBACK if bound_to in ("localhost", "127.0.0.1", "::1") else None


class Door:
    """ASGI middleware. A path that is not ``open`` needs a token; the caller is then in the request's state.

    Args:
        app: What is behind it.
        tokens: Who may ask.
        hosts: Host names to answer to; None: any.
        open_paths: Paths that need no token.
        log: A structlog logger.
    """

    def __init__(
        self, app: App, *, tokens: Tokens, hosts: Collection[str] | None, open_paths: Collection[str], log: Any
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._hosts = hosts
        self._open = frozenset(open_paths)
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status: int | None = None
        caller: Caller | None = None

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            caller = self._caller(headers.get(b"authorization", ""), (scope.get("client") or ("",))[0])
            if not self._known_host(headers.get(b"host", "")):
                await _refuse(scope, sending, 421, "this service answers to localhost only")
            elif caller is None and scope["path"] not in self._open:
                await _refuse(scope, sending, 401, "no token that is known here", (b"www-authenticate", b"Bearer"))
            elif (body := await _body(headers.get(b"content-length", ""), receive)) is None:
                await _refuse(scope, sending, 413, f"a body has at most {BODY_LIMIT} bytes")
            else:
                scope.setdefault("state", {})["caller"] = caller
                await self._app(scope, _replay(body, receive), sending)
        except Exception:
            # what happened is for the log only
            self._log.exception("request failed", method=scope["method"], path=scope["path"])
            if status is None:
                await _refuse(scope, sending, 500, BUG)
        finally:
            self._log.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                user=caller.user if caller else None,
                address=(scope.get("client") or ("",))[0],
                duration_s=round(time.perf_counter() - began, 6),
            )

    def _known_host(self, host: str) -> bool:
        if self._hosts is None:
            return True
        name, _, port = host.rpartition(":")
        return (name if name and port.isdigit() else host).lower() in self._hosts

    def _caller(self, authorization: str, address: str) -> Caller | None:
        scheme, _, token = authorization.partition(" ")
        return self._tokens.caller(token.strip(), address) if scheme.lower() == "bearer" and token else None


async def _body(length: str, receive: Receive) -> bytes | None:
    """The whole body; None if it is too large."""
    if length.isdigit() and int(length) > BODY_LIMIT:
        return None
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)  # whoever asked has gone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_LIMIT:
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
