"""Find the API of a Kubernetes cluster and how to log in there: in a pod of the cluster, or by a kubeconfig."""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from powerflow.errors import InputError

#: Where a pod finds its service account.
IN_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_FIX = "name a kubeconfig with a token or a client certificate in KUBECONFIG"


@dataclass(frozen=True, slots=True)
class ApiAccess:
    """An API of Kubernetes, and how to log in there.

    Attributes:
        url: Its address.
        trust: Whom to trust, and the own certificate, if there is one.
        token: Bearer token; "" to send none.
        token_file: File with a bearer token that others renew: it is read at each request; None if there is none.
    """

    url: str
    trust: ssl.SSLContext | bool
    token: str = field(default="", repr=False)
    token_file: Path | None = None

    def headers(self) -> dict[str, str]:
        """Return the HTTP headers that log in.

        Raises:
            InputError: The file with the token cannot be read.
        """
        token = self.token if self.token_file is None else _text(self.token_file).strip()
        return {"authorization": f"Bearer {token}"} if token else {}


def find_api(environment: Mapping[str, str], in_pod: Path = IN_POD) -> ApiAccess:
    """Return the API that ``KUBECONFIG`` names, else that of this pod, else that of ``~/.kube/config``.

    Raises:
        InputError: There is none, or the kubeconfig has a way to log in that is not known here.
    """
    named = environment.get("KUBECONFIG", "")
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    if not named and host and (in_pod / "token").exists():
        port = environment.get("KUBERNETES_SERVICE_PORT") or "443"
        url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        return ApiAccess(url, _trust(in_pod / "ca.crt", {}, in_pod), token_file=in_pod / "token")
    if os.pathsep in named:
        raise InputError("names several files", where="KUBECONFIG", fix="name one")
    path = Path(named) if named else Path(environment.get("HOME", "~")).expanduser() / ".kube" / "config"
    if not path.exists():
        raise InputError(
            "there is no Kubernetes: no pod's service account and no kubeconfig", where=str(path), fix=_FIX
        )
    return _of_kubeconfig(path)


def _of_kubeconfig(path: Path) -> ApiAccess:
    """Return the API of the current context of a kubeconfig."""
    import yaml

    try:
        document = yaml.safe_load(_text(path))
        context = _named(document, "contexts", "context", document["current-context"])
        cluster = _named(document, "clusters", "cluster", context["cluster"])
        user = _named(document, "users", "user", context["user"]) if context.get("user") else {}
        url = str(cluster["server"]).rstrip("/")
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, StopIteration):
        raise InputError("is no kubeconfig with a current context", where=str(path)) from None
    for key in ("exec", "auth-provider", "username"):
        if key in user:
            raise InputError(f"logs in with {key!r}, which is not known here", where=str(path), fix=_FIX)
    if cluster.get("insecure-skip-tls-verify"):
        raise InputError("trusts any certificate", where=str(path), fix="name the cluster's certificate-authority")
    authority = _content(cluster, "certificate-authority", path.parent)
    token_file = user.get("tokenFile")
    return ApiAccess(
        url,
        _trust(authority, user, path.parent) if url.startswith("https:") else False,
        "" if token_file else str(user.get("token") or ""),
        path.parent / token_file if token_file else None,
    )


def _named(document: Mapping[str, Any], kind: str, part: str, name: object) -> Mapping[str, Any]:
    """Return the part of the entry with a name, of a list in a kubeconfig."""
    found: Mapping[str, Any] = next(each[part] for each in document[kind] if each["name"] == name)
    return found


def _content(entry: Mapping[str, Any], key: str, folder: Path) -> Path | bytes | None:
    """Return what a kubeconfig names by a path or has in base64; None if it has neither."""
    if data := entry.get(f"{key}-data"):
        try:
            return base64.b64decode(str(data), validate=True)
        except binascii.Error:
            raise InputError(f"its {key}-data is not base64", where="kubeconfig") from None
    return folder / entry[key] if entry.get(key) else None


def _trust(authority: Path | bytes | None, user: Mapping[str, Any], folder: Path) -> ssl.SSLContext:
    """Return what checks the API's certificate, and shows the user's own one if there is one."""
    try:
        if isinstance(authority, bytes):
            context = ssl.create_default_context(cadata=authority.decode("ascii"))
        else:
            context = ssl.create_default_context(cafile=authority)
        own, key = (_content(user, name, folder) for name in ("client-certificate", "client-key"))
        if own is not None and key is not None:
            with tempfile.TemporaryDirectory() as private:  # ssl reads certificates of its own from files alone
                context.load_cert_chain(_as_file(own, Path(private) / "own"), _as_file(key, Path(private) / "key"))
    except (OSError, ValueError) as error:  # ssl's errors are OSErrors
        raise InputError(f"a certificate cannot be used ({error})", where="Kubernetes' API") from None
    return context


def _as_file(content: Path | bytes, path: Path) -> Path:
    if isinstance(content, Path):
        return content
    path.write_bytes(content)
    return path


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error})", where=str(path)) from None
