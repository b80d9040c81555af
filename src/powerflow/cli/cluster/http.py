"""Send HTTP requests to the controller with Python's own library, which is loaded in a fifth of the time of httpx."""

from __future__ import annotations

import http.client
import ipaddress
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlencode, urlsplit

#: Seconds to wait for a connection, and for the next byte of an answer.
CONNECT_S, READ_S = 10.0, 60.0


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
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url, self._headers = urlsplit(url), {"Accept": "application/json", "Connection": "close", **headers}
        self._proxy = None if on_loopback(url) else _proxy_for(self._url)

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
        connection = self._connection()
        try:
            if self._proxy is not None and self._url.scheme == "http":
                target = f"http://{self._url.netloc}{target}"
                sent |= _authorization(self._proxy)
            try:
                connection.connect()
            except (OSError, http.client.HTTPException) as error:
                raise NotConnected(type(error).__name__) from error
            connection.sock.settimeout(READ_S)
            connection.request(method, target, content, sent)
            answer = connection.getresponse()
            return Reply(answer.status, answer.getheader("content-type", ""), answer.read())
        except (OSError, http.client.HTTPException) as error:
            raise Lost(type(error).__name__) from error
        finally:
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
