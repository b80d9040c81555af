"""Requests to the controller: over a proxy, and to a server that ends connections."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest

from powerflow.cli.cluster.http import HttpSender, Lost, NotConnected


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with what was asked, and of whom."""

    seen: list[tuple[str, str, str | None, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        type(self).seen.append((self.path, self.headers["host"], self.headers.get("proxy-authorization"), body))
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    Echo.seen = []
    with http.server.HTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_request_has_its_query_and_its_body(server: http.server.HTTPServer) -> None:
    sender = HttpSender(f"http://127.0.0.1:{server.server_port}/base", {"Authorization": "Bearer x"})
    reply = sender.send("POST", "/jobs", {"state": ["running", "queued"], "none": [], "user": "ä b"}, {"run": "é"})
    assert (reply.status, reply.media_type, reply.content) == (201, "application/json", b"{}")
    ((path, host, _, body),) = Echo.seen
    assert path == "/base/jobs?state=running&state=queued&user=%C3%A4+b"
    assert host == f"127.0.0.1:{server.server_port}"
    assert body == b'{"run": "\\u00e9"}'


def test_another_machine_is_asked_over_the_proxy_of_the_environment(
    server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://ada:p%40ss@127.0.0.1:{server.server_port}")
    HttpSender("http://controller.example:7733", {}).send("GET", "/top", {})
    ((path, host, who, _),) = Echo.seen
    assert (path, host) == ("http://controller.example:7733/top", "controller.example:7733")
    assert who == "Basic YWRhOnBAc3M="
    monkeypatch.setenv("no_proxy", "controller.example")
    assert HttpSender("http://controller.example:7733", {})._proxy is None
    assert HttpSender("http://localhost:7733", {})._proxy is None


def test_no_server_and_a_server_that_hangs_up_are_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def hang_up() -> None:
            listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(Lost):
            HttpSender(url, {}).send("GET", "/top", {})
        thread.join()
    with pytest.raises(NotConnected):
        HttpSender(url, {}).send("GET", "/top", {})
