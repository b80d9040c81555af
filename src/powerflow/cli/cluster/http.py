"""Send HTTP requests to the controller with Python's own library, which is loaded in a fifth of the time of httpx."""

from __future__ import annotations

import http.client
import ipaddress
import json
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlencode, urlsplit

#: Seconds to wait for a connection, and for the next byte of an answer.
CONNECT_S, READ_S = 10.0, 60.0
#: A connection that was not used for this long is not used again: the server may close it at the same time.
IDLE_S = 3.0


class NotConnected(Exception):
    """Nothing answers at the address, so that the request was not sent."""


class Lost(Exception):
    """The connection ended before the answer: the request may have been carried out."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer to a request: HTTP status, media type and content."""

    status: int
    media_type: str
    content: bytes


class HttpSender:
    """Send requests to one server, each over a connection of its own.

    The proxies of the environment are used, except for the loopback of this machine.

    Args:
        url: Address of the server; paths are relative to it.
        headers: Headers of every request.
        read_s: Seconds to wait for the next byte of an answer.
    """

    #: What becomes of the connection after an answer, in words of HTTP.
    _after = "close"

    def __init__(self, url: str, headers: Mapping[str, str], read_s: float = READ_S) -> None:
        self._url, self._headers = urlsplit(url), {"Accept": "application/json", "Connection": self._after, **headers}
        self._read_s = read_s
        self._proxy = None if on_loopback(url) else _proxy_for(self._url)

    def to(self, url: str, headers: Mapping[str, str]) -> HttpSender:
        """Return a sender of the same kind to another server."""
        return type(self)(url, headers, self._read_s)

    def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any],
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a request and return the answer.

        Args:
            method, path: HTTP method, and quoted path.
            query: Parameters; a list repeats its parameter.
            body: JSON data; None for a request without a body.
            headers: More headers.

        Raises:
            NotConnected: There is no connection to the server.
            Lost: The connection ended before the answer.
        """
        sent = self._headers | dict(headers or {})
        content = None
        if body is not None:
            content, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        values = {name: value for name, value in query.items() if value != []}
        target = self._url.path.rstrip("/") + path + (f"?{urlencode(values, doseq=True)}" if values else "")
        if self._proxy is not None and self._url.scheme == "http":
            target = f"http://{self._url.netloc}{target}"
            sent |= _authorization(self._proxy)
        connection, lasts = self._connected(), False
        try:
            connection.request(method, target, content, sent)
            answer = connection.getresponse()
            reply = Reply(answer.status, answer.getheader("content-type", ""), answer.read())
            lasts = not answer.will_close
            return reply
        except (OSError, http.client.HTTPException) as error:
            raise Lost(type(error).__name__) from error
        finally:
            self._used(connection, lasts=lasts)

    def _connected(self) -> http.client.HTTPConnection:
        """Return an open connection.

        Raises:
            NotConnected: There is no connection to the server.
        """
        connection = self._connection()
        try:
            connection.connect()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise NotConnected(type(error).__name__) from error
        connection.sock.settimeout(self._read_s)
        return connection

    def close(self) -> None:
        """Close what is still open."""

    def _used(self, connection: http.client.HTTPConnection, *, lasts: bool) -> None:
        """Take a connection back after a request; ``lasts`` is True if another request may follow on it."""
        connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        """Return a connection to the server, or to its proxy, that is not open yet."""
        tls = self._url.scheme == "https"
        host, port = self._url.hostname or "", self._url.port or (443 if tls else 80)
        kind = http.client.HTTPSConnection if tls else http.client.HTTPConnection
        if self._proxy is None:
            return kind(host, port, timeout=CONNECT_S)
        connection = kind(self._proxy.hostname or "", self._proxy.port or 80, timeout=CONNECT_S)
        if tls:
            connection.set_tunnel(host, port, _authorization(self._proxy))
        return connection


class KeptSender(HttpSender):
    """Send requests to one server over one connection, which is not closed after an answer. For one thread only."""

    _after = "keep-alive"
    _kept: tuple[http.client.HTTPConnection, float] | None = None

    def close(self) -> None:
        """Close the connection."""
        if self._kept is not None:
            self._kept[0].close()
            self._kept = None

    def _connected(self) -> http.client.HTTPConnection:
        kept, self._kept = self._kept, None
        if kept is not None and time.monotonic() < kept[1] + IDLE_S:
            return kept[0]
        if kept is not None:
            kept[0].close()
        return super()._connected()

    def _used(self, connection: http.client.HTTPConnection, *, lasts: bool) -> None:
        if lasts:
            self._kept = connection, time.monotonic()
        else:
            connection.close()


def on_loopback(url: str) -> bool:
    """Return True if a URL names this machine's loopback."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _proxy_for(url: SplitResult) -> SplitResult | None:
    """Return the proxy that the environment names for a URL; None if there is none."""
    from urllib.request import getproxies, proxy_bypass

    found = getproxies()
    proxy = found.get(url.scheme) or found.get("all")
    if not proxy or proxy_bypass(url.netloc.rpartition("@")[2]):
        return None
    return urlsplit(proxy if "//" in proxy else f"http://{proxy}")


def _authorization(proxy: SplitResult) -> dict[str, str]:
    """Return the header with which a proxy's URL says who asks."""
    if proxy.username is None:
        return {}
    words = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(words.encode()).decode()}"}
