"""Requests to Prometheus over real connections, and each fault in one line."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from powerflow.errors import InputError
from powerflow.watch.sources import prometheus_api
from powerflow.watch.sources.prometheus_api import PrometheusApi, TooMuch, api_address, authorization

QUERY = '{__name__=~"a|b"}[90000ms]'
#: An answer, as Prometheus 2.42 writes it.
MATRIX: dict[str, Any] = {
    "status": "success",
    "data": {"resultType": "matrix", "result": [{"metric": {"__name__": "a"}, "values": [[1800000000.123, "5"]]}]},
}
Reply = Callable[[BaseHTTPRequestHandler], None]


class Web:
    """A web server of the loopback, whose answer each test chooses."""

    def __init__(self) -> None:
        self.reply: Reply = said(json.dumps(MATRIX))
        self.paths: list[str] = []
        self.logins: list[str | None] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.paths.append(self.path)
                web.logins.append(self.headers.get("authorization"))
                web.reply(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.api = PrometheusApi(f"http://127.0.0.1:{self.port}")


def said(text: str | bytes, status: int = 200, media_type: str = "application/json", **headers: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        content = text.encode() if isinstance(text, str) else text
        handler.send_response_only(status)
        for name, value in {"content-type": media_type, "date": handler.date_time_string(), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return reply


@pytest.fixture(scope="module")
def server() -> Iterator[Web]:
    web = Web()
    thread = threading.Thread(target=web.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield web
    web.server.shutdown()
    web.server.server_close()
    thread.join()


@pytest.fixture
def web(server: Web) -> Web:
    server.reply, server.paths, server.logins = said(json.dumps(MATRIX)), [], []
    return server


def refusal(api: PrometheusApi) -> str:
    with pytest.raises(InputError) as refused:
        api.ask(QUERY, 1.8e9)
    text = str(refused.value)
    assert refused.value.exit_code == 5
    assert "\n" not in text
    assert text.startswith(f"{api.name}: ")
    return text.removeprefix(f"{api.name}: ")


def test_one_request_brings_the_samples_with_their_times(web: Web) -> None:
    answer = web.api.ask(QUERY, 1.8e9)
    assert answer.series == MATRIX["data"]["result"]
    assert not answer.warnings
    assert abs(answer.ahead_s) < 30
    assert web.paths == [
        "/api/v1/query?query=%7B__name__%3D~%22a%7Cb%22%7D%5B90000ms%5D&time=1800000000.000&timeout=30s"
    ]
    assert web.logins == [None]


def test_a_compressed_answer_is_read_and_warnings_are_kept(web: Web) -> None:
    content = json.dumps({**MATRIX, "warnings": ["a store\n did not answer"], "infos": ["x"]})
    web.reply = said(gzip.compress(content.encode()), content_encoding="gzip", date="Thu, 15 Jan 2037 08:00:00 GMT")
    answer = web.api.ask(QUERY, 1.8e9)
    assert answer.warnings == ["a store did not answer"]
    assert answer.ahead_s > 1e6


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (said("", 401), "asks who you are (401); give --prometheus-token-file"),
        (said("", 403), "does not let you ask (403); give --prometheus-token-file"),
        (
            said("", 302, location="https://sso.site.org/login?secret=1"),
            "redirects to https://sso.site.org/login (302); give the address that answers itself",
        ),
        (said("404 page not found", 404), "has no API of Prometheus there (404)"),
        (said("<html>Bad gateway</html>", 502, "text/html"), "answers with HTTP status 502"),
        (
            said("<!DOCTYPE html><title>Log in</title>", media_type="text/html"),
            "answers with a web page instead of data",
        ),
        (
            said('{"status":"error","errorType":"bad_data","error":"parse\\nerror"}', 400),
            "answers with HTTP status 400 (parse error)",
        ),
        (said('{"status":"error","errorType":"execution","error":"odd"}'), "reports an error (odd)"),
        (said("{}"), "its answer is not one of Prometheus' API"),
        (said("[" * 100_000), "its answer is not one of Prometheus' API"),
        (said('{"status":"success","data":{"resultType":"vector","result":[]}}'), "its answer is not one of"),
        (said(b"\xff\xfe", content_encoding="gzip"), "its answer cannot be unpacked ("),
    ],
)
def test_each_other_answer_is_one_clear_line(web: Web, reply: Reply, text: str) -> None:
    web.reply = reply
    found = refusal(web.api)
    assert found.startswith(text)
    assert len(found) < 300


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (422, "query processing would load too many samples into memory in query execution"),
        (503, "query timed out in expression evaluation"),
        (413, ""),
    ],
)
def test_an_answer_that_is_too_large_can_be_told_from_other_faults(web: Web, status: int, error: str) -> None:
    web.reply = said(json.dumps({"status": "error", "errorType": "x", "error": error}) if error else "", status)
    with pytest.raises(TooMuch):
        web.api.ask(QUERY, 1.8e9)


def test_an_answer_that_never_ends_is_cut_off(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus_api, "MOST_BYTES", 10_000)
    web.reply = said(gzip.compress(b"[" * 10**7), content_encoding="gzip")
    with pytest.raises(TooMuch, match="answers with more than"):
        web.api.ask(QUERY, 1.8e9)


def test_an_answer_that_is_cut_short_is_said(web: Web) -> None:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"status":')
        handler.close_connection = True

    web.reply = reply
    assert refusal(web.api).startswith("ended the connection before its answer was complete (")


def test_a_server_that_does_not_answer_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = PrometheusApi(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.3)
        assert refusal(api) == "did not answer in 0.3 s"


def test_a_server_that_sends_byte_after_byte_is_given_up(web: Web) -> None:
    done = threading.Event()

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "100000")
        handler.end_headers()
        try:
            while not done.wait(0.05):
                handler.wfile.write(b" ")
        except OSError:
            pass
        handler.close_connection = True

    web.reply = reply
    try:
        assert refusal(PrometheusApi(web.api.url, timeout_s=0.4)) == "did not end its answer in 0.4 s"
    finally:
        done.set()


def test_an_address_where_nobody_listens_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert refusal(PrometheusApi(f"http://127.0.0.1:{port}")).startswith("cannot be reached (")
    assert refusal(PrometheusApi("http://no-such-host.invalid:9090")).startswith("cannot be reached (")


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert web.api.ask(QUERY, 1.8e9).series


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=prom", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", folder / "key.pem", "-out", folder / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    return folder


def test_tls_needs_a_trusted_certificate(certificate: Path) -> None:
    web = Web()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    web.server.socket = context.wrap_socket(web.server.socket, server_side=True)
    thread = threading.Thread(target=web.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        url = f"https://127.0.0.1:{web.port}"
        assert PrometheusApi(url, ca_file=certificate / "cert.pem").ask(QUERY, 1.8e9).series
        untrusted = refusal(PrometheusApi(url))
        assert untrusted.startswith("its certificate is not trusted (self-signed certificate")
        assert untrusted.endswith("; name your site's CA with --prometheus-ca")
        with pytest.raises(InputError, match=r"--prometheus-ca .*no.pem: cannot be used \(No such file"):
            PrometheusApi(url, ca_file=certificate / "no.pem").ask(QUERY, 1.8e9)
        (certificate / "text.pem").write_text("hello\n")
        with pytest.raises(InputError, match=r"text.pem: cannot be used .*PEM"):
            PrometheusApi(url, ca_file=certificate / "text.pem").ask(QUERY, 1.8e9)
    finally:
        web.server.shutdown()
        web.server.server_close()
        thread.join()


def test_https_where_no_tls_is_spoken_is_said(web: Web) -> None:
    found = refusal(PrometheusApi(f"https://127.0.0.1:{web.port}"))
    assert found.startswith("does not speak TLS there (")
    assert found.endswith("write http://, or the port of its TLS")


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("http://prom:9090", "http://prom:9090"),
        (" https://site.org/prometheus/ ", "https://site.org/prometheus"),
        ("http://prom:9090/graph?g0.expr=up", "http://prom:9090"),
        ("https://mimir/prometheus/api/v1/query", "https://mimir/prometheus"),
        ("http://[::1]:9090/", "http://[::1]:9090"),
    ],
)
def test_the_address_of_prometheus_own_pages_will_do(given: str, address: str) -> None:
    assert api_address(given) == address


@pytest.mark.parametrize(
    "given", ["prom:9090", "ftp://prom", "http://", "http://prom:port", "http://[::1", "", "http://prö"]
)
def test_other_addresses_are_refused(given: str) -> None:
    with pytest.raises(InputError, match=r"--prometheus: .*is not an address; write http://HOST:9090"):
        api_address(given)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError) as refused:
        api_address("https://ann:s3cret@prom")
    assert "--prometheus-basic-file" in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_tokens_and_passwords_come_from_files_and_the_environment(tmp_path: Path, web: Web) -> None:
    token, basic = tmp_path / "token", tmp_path / "basic"
    token.write_text("abc\n")
    basic.write_text("ann:geheimnis-ß\n")
    given = {"POWERFLOW_PROMETHEUS_TOKEN": "env", "PATH": "x"}
    assert authorization(token, None, given) == "Bearer abc"
    assert authorization(None, basic, given) == "Basic YW5uOmdlaGVpbW5pcy3Dnw=="
    assert authorization(None, None, given) == "Bearer env"
    assert authorization(None, None, {"POWERFLOW_PROMETHEUS_BASIC": "a:b"}) == "Basic YTpi"
    assert authorization(None, None, {}) == ""
    api = PrometheusApi(web.api.url, authorization(token, None, {}))
    api.ask(QUERY, 1.8e9)
    assert web.logins == ["Bearer abc"]
    assert "abc" not in repr(api)
    web.reply = said("", 401)
    assert refusal(api) == "refuses the token or password that was sent (401); check it"


def test_secrets_that_cannot_be_used_are_refused_without_being_shown(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    with pytest.raises(InputError, match=r"--prometheus-token-file .*secret: cannot be read \(No such file"):
        authorization(file, None, {})
    for content in ("", "two\nlines", "wört"):
        file.write_text(content)
        with pytest.raises(InputError, match="is empty, or has several lines") as refused:
            authorization(file, None, {})
        assert not content or content not in str(refused.value)
    file.write_text("nocolon")
    with pytest.raises(InputError, match="has no colon; write user:password"):
        authorization(None, file, {})
    with pytest.raises(InputError, match="two ways to log in"):
        authorization(file, file, {})
    with pytest.raises(InputError, match="POWERFLOW_PROMETHEUS_TOKEN and POWERFLOW_PROMETHEUS_BASIC: two ways"):
        authorization(None, None, {"POWERFLOW_PROMETHEUS_TOKEN": "a", "POWERFLOW_PROMETHEUS_BASIC": "b:c"})


def test_httpx_is_loaded_only_to_ask() -> None:
    code = "import sys, powerflow.watch.sources.prometheus; print('httpx' in sys.modules)"
    done = subprocess.run([__import__("sys").executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
