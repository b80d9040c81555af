"""Sign browsers in: keep the token in a cookie, and refuse what another site makes a browser send.

A browser adds the cookie to each request to this service, also to those that another page has caused. So the cookie is
``SameSite=Strict``, and a request with the cookie must come from a page of this service: by ``Sec-Fetch-Site``, which
no page can forge, or else by ``Origin``. Other ports of this host count as the same *site* in cookies, but not here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

#: Form of a token, and most bytes of a form that holds one.
TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")
FORM_LIMIT = 4096
#: Methods that change nothing.
SAFE = ("GET", "HEAD")

#: Headers of every page. No script runs but the service's own, and no page is shown inside another one.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer a form would be sent with "Origin: null"
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def cookie_name(host: str) -> str:
    """Return the name of the cookie for a value of the header ``Host``.

    The name has the port: cookies of one host do not, and several controllers may be on one host.
    """
    port = host.rpartition(":")[2]
    return f"powerflow-{port}" if port.isdecimal() and len(port) <= 5 else "powerflow"


def cookie_token(headers: Mapping[bytes, str]) -> str:
    """Return the token in the cookie of a request; "" if there is none."""
    wanted = cookie_name(headers.get(b"host", ""))
    for part in headers.get(b"cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == wanted and TOKEN.fullmatch(value):
            return value
    return ""


def presented_token(headers: Mapping[bytes, str]) -> tuple[str, bool]:
    """Return the token of a request, and True if it comes from the cookie; ("", False) if there is none.

    Where there is a header ``Authorization``, the cookie is ignored.
    """
    authorization = headers.get(b"authorization")
    if authorization is None:
        token = cookie_token(headers)
        return token, bool(token)
    scheme, _, token = authorization.partition(" ")
    return (token.strip() if scheme.lower() == "bearer" else ""), False


def cookie_of(token: str, headers: Mapping[bytes, str]) -> str:
    """Return the header ``Set-Cookie`` that keeps a token until the browser ends; with the token "", delete it.

    The browser says in ``Origin`` if its connection is encrypted, also if a proxy decrypts it. Then the cookie is sent
    through encrypted connections only.
    """
    attributes = ["Path=/", "HttpOnly", "SameSite=Strict"]
    if headers.get(b"origin", "").startswith("https://"):
        attributes.append("Secure")
    if not token:
        attributes.append("Max-Age=0")
    return "; ".join([f"{cookie_name(headers.get(b'host', ''))}={token}", *attributes])


def is_foreign(method: str, headers: Mapping[bytes, str]) -> bool:
    """Return True if a browser sends this request for a page that is not of this service.

    A link to a page of the service may be followed from anywhere. Without ``Sec-Fetch-Site`` and without ``Origin``, a
    request that changes something counts as foreign: every browser sends one of them.
    """
    site = headers.get(b"sec-fetch-site")
    if method in SAFE:
        return site not in (None, "same-origin", "none") and headers.get(b"sec-fetch-mode") != "navigate"
    if site is not None:
        return site != "same-origin"
    try:
        origin = urlsplit(headers.get(b"origin", "")).netloc
    except ValueError:
        return True
    return not origin or origin.lower() != headers.get(b"host", "").lower()


def follows_foreign_link(headers: Mapping[bytes, str]) -> bool:
    """Return True if a browser loads a page since its user has followed a link of another site.

    The browser has then left out the cookie, even if its user is signed in.
    """
    return headers.get(b"sec-fetch-site") in ("cross-site", "same-site")
