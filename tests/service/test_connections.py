"""What a stranger's connections may cost, over real sockets: every part of a request has a limit, and their number."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from powerflow.api.pages import NumberedPage
from powerflow.api.records import EventRecord
from powerflow.service.connections import ConnectionLimits
from powerflow.service.server import ApiServer
from tests.service.fake_cluster import FakeCluster
from tests.service.serving import bearer, service

PATIENT = ConnectionLimits(most=12, per_address=12, head_s=60, body_s=60, answer_s=60, linger_s=60)
HEAD = b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n"
PATIENCE_S = 30.0


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def serve(stack: ExitStack, cluster: FakeCluster | None = None, **limits: Any) -> str:
    return stack.enter_context(ApiServer(service(cluster or FakeCluster()), limits=replace(PATIENT, **limits))).url


def connect(stack: ExitStack, url: str, sent: bytes = b"") -> socket.socket:
    parts = urlsplit(url)
    one = stack.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE_S))
    one.sendall(sent)
    return one


def is_closed(one: socket.socket) -> bool:
    """Whether the other end hangs up, having said nothing more than an answer; fails after `PATIENCE_S`."""
    with suppress(ConnectionResetError):
        while one.recv(65536):
            pass
    return True


def health(url: str) -> int:
    return httpx.get(f"{url}/api/v1/health", trust_env=False, verify=False, timeout=PATIENCE_S).status_code


@pytest.mark.parametrize("sent", [b"", b"GET", HEAD, HEAD + b"\r\n" + HEAD])
def test_a_head_that_does_not_end_is_cut_off(stack: ExitStack, sent: bytes) -> None:
    """Also one that begins after a first request was answered on the same connection."""
    url = serve(stack, head_s=0.3)
    assert is_closed(connect(stack, url, sent))


def test_a_head_that_comes_byte_by_byte_is_cut_off(stack: ExitStack) -> None:
    url = serve(stack, head_s=0.3)
    slow = connect(stack, url, HEAD)
    slow.settimeout(0.05)
    with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):  # noqa: PT012
        for _ in range(int(PATIENCE_S / 0.05)):
            slow.sendall(b"x")
            try:
                if not slow.recv(1):
                    raise BrokenPipeError("broken pipe")
            except TimeoutError:
                continue


def test_a_body_that_does_not_end_is_cut_off(stack: ExitStack) -> None:
    url = serve(stack, body_s=0.3)
    head = b"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer pf_user\r\n"
    one = connect(stack, url, head + b'Content-Length: 15\r\n\r\n{"run": "true"')
    assert one.recv(65536) == b"", "hung up, without an answer"
    listed = httpx.get(f"{url}/api/v1/jobs", headers=bearer("user"), trust_env=False, verify=False, timeout=PATIENCE_S)
    assert listed.json()["items"] == [], "half a request is none"


def test_who_has_no_token_is_answered_before_their_body_and_may_not_go_on_for_ever(stack: ExitStack) -> None:
    url = serve(stack, linger_s=0.3)
    one = connect(stack, url, b"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
    assert one.recv(65536).startswith(b"HTTP/1.1 401")
    assert is_closed(one)


def test_an_answer_that_nobody_takes_is_dropped(stack: ExitStack) -> None:
    url = serve(stack, answer_s=0.3, head_s=0.5)
    parts = urlsplit(url)
    one = stack.enter_context(socket.socket())
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.settimeout(PATIENCE_S)
    one.connect((parts.hostname, parts.port))
    ask = b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):  # noqa: PT012
        while True:  # the server reads on only while its answers are taken; at some point it gives up
            one.sendall(ask * 100)


def test_half_open_connections_displace_one_another_and_nobody_else(stack: ExitStack) -> None:
    url = serve(stack)
    first = [connect(stack, url, HEAD) for _ in range(12)]
    more = [connect(stack, url, HEAD) for _ in range(40)]
    assert health(url) == 200
    assert all(map(is_closed, first)), "the oldest went first"
    last = more[-1]
    last.sendall(b"\r\n")
    assert last.recv(65536).startswith(b"HTTP/1.1 200"), "the newest are still here"


def test_an_address_has_its_share_and_a_request_at_work_keeps_its_place(stack: ExitStack) -> None:
    entered = threading.Event()

    class Cluster(FakeCluster):
        def events(self, **asked: Any) -> NumberedPage[EventRecord]:
            entered.set()
            return super().events(**asked)

    url = serve(stack, Cluster(), per_address=4)
    watch = b"GET /api/v1/events?after=99&wait_s=2 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer pf_user\r\n\r\n"
    at_work = connect(stack, url, watch)
    assert entered.wait(PATIENCE_S)
    half_open = [connect(stack, url, HEAD) for _ in range(8)]
    assert all(map(is_closed, half_open[:4]))
    assert at_work.recv(65536).startswith(b"HTTP/1.1 200")
    assert health(url) == 200


def test_limits_leave_half_of_the_files_to_the_rest_of_the_process() -> None:
    limits = ConnectionLimits.of_process()
    assert 16 <= limits.per_address < limits.most <= 1024
