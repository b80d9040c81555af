"""Ask Prometheus, or a store that speaks its HTTP API, for raw samples; say each fault in one line.

Only ``GET /api/v1/query`` is used, with a range selector such as ``{__name__=~"A|B"}[90s]``: then the answer has every
sample with its own time. ``query_range`` would give values at times of its own.
"""

from __future__ import annotations

import email.utils
import json
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from powerflow.errors import InputError

if TYPE_CHECKING:
    import httpx

#: Environment variables with a bearer token, and with a user and password as ``user:password``.
TOKEN, BASIC = "POWERFLOW_PROMETHEUS_TOKEN", "POWERFLOW_PROMETHEUS_BASIC"
#: How long one answer may take, seconds.
TIMEOUT_S = 30.0
#: Shortest pause of a `PacedStore` between two requests, seconds.
LEAST_PAUSE_S = 0.1
#: Largest answer that is read: some 4 million samples.
MOST_BYTES = 128 * 2**20
#: Proxies of the environment are not used for the machine's own addresses.
_DIRECT = {"all://localhost": None, "all://127.0.0.1": None, "all://[::1]": None}
_GIVE_TOKEN = "give --prometheus-token-file, or --prometheus-basic-file with user:password"


class TooMuch(InputError):
    """Prometheus does not answer, or not in time, because the time span holds too many samples."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What Prometheus answered.

    Attributes:
        series: For each series its labels (``metric``) and samples (``values``: pairs of Unix seconds and text).
        warnings: What Prometheus says besides, such as that a part of the answer is missing.
        ahead_s: How far its clock is ahead of the clock here, seconds; 0 if it does not say.
    """

    series: Sequence[Mapping[str, Any]]
    warnings: Sequence[str]
    ahead_s: float


class SampleStore(Protocol):
    """A place that answers range selectors."""

    @property
    def name(self) -> str:
        """What it is, for the user."""

    def ask(self, query: str, at_s: float) -> Answer:
        """Return what a range selector finds up to a moment (Unix seconds).

        Raises:
            TooMuch: The query holds too many samples.
            InputError: There is no answer, or another one.
        """


@dataclass(frozen=True, slots=True)
class PrometheusApi:
    """An address at which Prometheus' HTTP API is found.

    Attributes:
        url: Address without ``/api/v1``, and without user and password.
        authorization: Value of the HTTP header ``Authorization``; "" to send none.
        ca_file: Certificates of the authorities that are trusted, PEM; None for those of this machine.
        timeout_s: How long one answer may take, seconds.
    """

    url: str
    authorization: str = field(default="", repr=False)
    ca_file: Path | None = None
    timeout_s: float = TIMEOUT_S

    @property
    def name(self) -> str:
        """What it is, for the user."""
        return f"Prometheus at {self.url}"

    def ask(self, query: str, at_s: float) -> Answer:
        """Return what a range selector finds, by one request; too much is what exceeds `MOST_BYTES` as well."""
        import httpx

        headers = {"accept": "application/json"} | ({"authorization": self.authorization} if self.authorization else {})
        parameters = {"query": query, "time": f"{at_s:.3f}", "timeout": f"{self.timeout_s:.0f}s"}
        try:
            with (
                httpx.Client(verify=self._trust(), timeout=self.timeout_s, mounts=_DIRECT) as client,
                client.stream("GET", f"{self.url}/api/v1/query", params=parameters, headers=headers) as response,
            ):
                ahead_s = _ahead_s(response.headers.get("date", ""))
                content = self._content(response)
        except httpx.TimeoutException:
            raise self._error(f"did not answer in {self.timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise self._no_connection(error) from None
        if response.status_code != 200:
            raise self._refused(response.status_code, response.headers.get("location", ""), content)
        series, warnings = self._read(content)
        return Answer(series, warnings, ahead_s)

    def _trust(self) -> ssl.SSLContext | bool:
        """Return what httpx is to check certificates with; loading certificates takes a while."""
        if not self.url.startswith("https:"):
            return False
        try:
            return ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
        except (OSError, ssl.SSLError) as error:
            why = error.strerror or str(error)
            raise InputError(
                f"cannot be used ({why})", where=f"--prometheus-ca {self.ca_file}", fix="name a file in PEM format"
            ) from None

    def _content(self, response: httpx.Response) -> bytes:
        """Return the whole content; a server that sends byte after byte is given no more time than others."""
        deadline = time.monotonic() + self.timeout_s
        content = bytearray()
        for part in response.iter_bytes():
            content += part
            if len(content) > MOST_BYTES:
                raise TooMuch(f"answers with more than {MOST_BYTES >> 20} MiB", where=self.name, exit_code=5)
            if time.monotonic() > deadline:
                raise self._error(f"did not end its answer in {self.timeout_s:g} s")
        return bytes(content)

    def _error(self, what: str, fix: str = "") -> InputError:
        return InputError(what, where=self.name, fix=fix, exit_code=5)

    def _no_connection(self, error: Exception) -> InputError:
        text = " ".join(str(error).split())
        if "CERTIFICATE_VERIFY_FAILED" in text:
            why = text.rpartition("failed: ")[2].split(" (_ssl")[0]
            return self._error(f"its certificate is not trusted ({why})", "name your site's CA with --prometheus-ca")
        if "SSL" in text and self.url.startswith("https:"):
            return self._error(f"does not speak TLS there ({text})", "write http://, or the port of its TLS")
        if type(error).__name__ in ("RemoteProtocolError", "ReadError"):
            return self._error(f"ended the connection before its answer was complete ({text or 'no reason given'})")
        if type(error).__name__ == "DecodingError":
            return self._error(f"its answer cannot be unpacked ({text})")
        return self._error(f"cannot be reached ({text or type(error).__name__})", "check the address and the port")

    def _refused(self, status: int, location: str, content: bytes) -> InputError:
        """Return the error for an answer with another status than 200."""
        said = _said(content)
        if status == 401:
            if self.authorization:
                return self._error("refuses the token or password that was sent (401)", "check it")
            return self._error("asks who you are (401)", _GIVE_TOKEN)
        if status == 403:
            return self._error("does not let you ask (403)", "" if self.authorization else _GIVE_TOKEN)
        if 300 <= status < 400:
            to = urlsplit(location)
            where = f"{to.scheme}://{to.netloc}{to.path}" if to.netloc else to.path or "nowhere"
            return self._error(f"redirects to {where} ({status})", "give the address that answers itself, or a token")
        if status == 404 and not said:
            return self._error("has no API of Prometheus there (404)", "give the address that /api/v1/query follows")
        if "too many samples" in said or "timed out" in said or status in (413, 504):
            return TooMuch(said or f"answers with HTTP status {status}", where=self.name, exit_code=5)
        return self._error(f"answers with HTTP status {status}" + (f" ({said})" if said else ""))

    def _read(self, content: bytes) -> tuple[Sequence[Mapping[str, Any]], Sequence[str]]:
        if content.lstrip()[:1] == b"<":
            raise self._error(
                "answers with a web page instead of data", "a proxy or a login page may stand before it; give its own"
            )
        try:
            document = json.loads(content)
            data = document["data"]
            warnings = [" ".join(str(each).split())[:200] for each in document.get("warnings") or ()]
            if document["status"] == "success" and data["resultType"] == "matrix":
                return data["result"], warnings
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass
        said = _said(content)
        if said:
            raise self._error(f"reports an error ({said})")
        raise self._error("its answer is not one of Prometheus' API", "check that this is the address of Prometheus")


class PacedStore:
    """Asks a store less often: after each answer it waits for as long as the answer took.

    So a long history takes half of the time of one core of the store at most, however many requests it needs.
    """

    def __init__(self, store: SampleStore, sleep: Callable[[float], None] = time.sleep) -> None:
        self._store, self._sleep = store, sleep
        self._took_s = 0.0

    @property
    def name(self) -> str:
        """What it is, for the user."""
        return self._store.name

    def ask(self, query: str, at_s: float) -> Answer:
        """Return what a range selector finds; see `SampleStore.ask`."""
        if self._took_s:
            self._sleep(max(self._took_s, LEAST_PAUSE_S))
        began = time.monotonic()
        try:
            return self._store.ask(query, at_s)
        finally:
            self._took_s = time.monotonic() - began


def api_address(url: str) -> str:
    """Return the address of the API from one that a user gives, such as that of Prometheus' own pages.

    Raises:
        InputError: It is no address of a web server, or has a password in it, which every user of the machine sees.
    """
    where, fix = "--prometheus", "write http://HOST:9090 or https://HOST/PATH"
    try:
        parts = urlsplit(url.strip())
        _ = parts.port
    except ValueError:
        raise InputError("is not an address", where=where, fix=fix) from None
    if parts.username is not None or parts.password is not None:
        raise InputError(
            "has a user or password in it, which other users of this machine can see", where=where, fix=_GIVE_TOKEN
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii():
        raise InputError(f"{url[:80]!r} is not an address", where=where, fix=fix)
    path = parts.path.rstrip("/")
    for tail in ("/query", "/api/v1", "/graph"):
        path = path.removesuffix(tail).rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def authorization(token_file: Path | None, basic_file: Path | None, environment: Mapping[str, str]) -> str:
    """Return the value of the HTTP header ``Authorization``.

    Args:
        token_file: File that holds a bearer token.
        basic_file: File that holds ``user:password``.
        environment: Environment variables; `TOKEN` or `BASIC` count if no file is named.

    Raises:
        InputError: A file cannot be read, is empty or has several lines; or more than one secret is given.
    """
    given = {
        f"--prometheus-token-file {token_file}": ("Bearer", token_file),
        f"--prometheus-basic-file {basic_file}": ("Basic", basic_file),
    }
    secrets = [(where, kind, _line_of(path, where)) for where, (kind, path) in given.items() if path is not None]
    if not secrets:
        named = ((TOKEN, "Bearer"), (BASIC, "Basic"))
        secrets = [(name, kind, environment[name].strip()) for name, kind in named if environment.get(name)]
    if len(secrets) > 1:
        raise InputError("two ways to log in are given", where=" and ".join(each[0] for each in secrets), fix="use one")
    if not secrets:
        return ""
    where, kind, secret = secrets[0]
    if not (secret and secret.isprintable() and (secret.isascii() or kind == "Basic")):
        raise InputError("is empty, or has several lines or special characters", where=where, fix="write one line")
    if kind == "Bearer":
        return f"Bearer {secret}"
    if ":" not in secret:
        raise InputError("has no colon", where=where, fix="write user:password")
    return f"Basic {b64encode(secret.encode()).decode()}"


def _line_of(path: Path, where: str) -> str:
    try:
        return path.expanduser().read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"cannot be read ({why})", where=where) from None


def _said(content: bytes) -> str:
    """Return the reason that Prometheus gives for an error, on one line; "" if there is none."""
    try:
        return " ".join(str(json.loads(content)["error"]).split())[:200]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _ahead_s(date: str) -> float:
    """Return how far a clock is ahead of this machine's, from the header ``Date`` (whole seconds); 0 without it."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() - time.time()
    except (ValueError, TypeError):
        return 0.0
