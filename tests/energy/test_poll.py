"""Fetching a signal, against a server on this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from powerflow.energy import poll as module
from powerflow.energy.poll import poll
from powerflow.errors import InputError

GOOD = b"time,value\n0,0.2\n3600,0.4\n"


class Answers(BaseHTTPRequestHandler):
    """What each path answers."""

    def do_GET(self) -> None:
        bodies = {"/good": GOOD, "/bad": b"time,value\n0,x\n", "/binary": b"\xff\xfe\x00", "/html": b"<html>"}
        try:
            if self.path in bodies:
                self._send(200, bodies[self.path])
            elif self.path == "/large":
                self._send(200, b"time,value\n" + b"#" * (module.MOST_BYTES + 1))
            elif self.path == "/moved":
                self.send_response(302)
                self.send_header("location", "/good")
                self.send_header("content-length", "0")
                self.end_headers()
            elif self.path == "/trickle":
                self.send_response(200)
                self.end_headers()
                for _ in range(100):
                    self.wfile.write(b"#")
                    self.wfile.flush()
                    time.sleep(0.02)
            elif self.path == "/silent":
                time.sleep(1.0)
            else:
                self._send(503, b"")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has seen enough

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_what_is_served_is_read(server: str) -> None:
    signal = poll(f"{server}/good", "tariff", fallback=0.3)
    assert signal.value.tolist() == [0.2, 0.4]
    assert signal.source == f"{server}/good"


@pytest.mark.parametrize(
    ("path", "says", "code"),
    [
        ("/down", "answers with HTTP status 503", 5),
        ("/moved", "answers with HTTP status 302", 5),
        ("/large", "sends more than", 5),
        ("/trickle", "took longer than 0.3 s", 5),
        ("/silent", "cannot be read", 5),
        ("/bad", ":2: 'x' is not a valid value", 2),
        ("/binary", "is not text in UTF-8", 2),
        ("/html", "holds no values", 2),
    ],
)
def test_what_is_no_signal_is_refused(server: str, path: str, says: str, code: int) -> None:
    with pytest.raises(InputError) as caught:
        poll(f"{server}{path}", "tariff", fallback=0.3, timeout_s=0.3 if path in ("/trickle", "/silent") else 30.0)
    assert says in str(caught.value)
    assert caught.value.exit_code == code


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "ftp://127.0.0.1/x", "no address", "http://[::1"])
def test_what_cannot_be_reached_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        poll(url, "tariff", fallback=0.3, timeout_s=0.3)
