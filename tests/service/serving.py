"""A service over a `FakeCluster`, with one token for each role, and a caller of it."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Collection, Sequence
from typing import Any, TextIO

import httpx
from fastapi import FastAPI

from powerflow.api.cluster_api import ClusterApi
from powerflow.api.records import Role
from powerflow.service.app import build_app
from powerflow.service.logs import json_lines
from powerflow.service.peers import Network
from powerflow.service.tokens import TokenEntry, Tokens, hash_of
from tests.service.fake_cluster import FakeCluster

JOBS = "/api/v1/jobs"
#: User, role and token of every caller of the tests.
TOKENS = {
    "viewer": ("vera", Role.VIEWER),
    "user": ("ada", Role.USER),
    "other": ("bob", Role.USER),
    "operator": ("ops", Role.OPERATOR),
}


def service(
    cluster: ClusterApi,
    *,
    hosts: Collection[str] | None = None,
    open_metrics: bool = False,
    log: TextIO | None = None,
    proxies: Sequence[Network] = (),
    access_log: bool = False,
) -> FastAPI:
    tokens = Tokens([TokenEntry(user, role, hash_of(f"pf_{name}")) for name, (user, role) in TOKENS.items()])
    lines = json_lines(log or io.StringIO())
    return build_app(
        cluster,
        tokens,
        version="1.2.3",
        log=lines,
        hosts=hosts,
        open_metrics=open_metrics,
        access_log=access_log,
        proxies=proxies,
    )


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer pf_{name}"}


class Api:
    """A real server over a fake cluster, and a caller of it."""

    def __init__(self, cluster: FakeCluster, log: io.StringIO, http: httpx.Client) -> None:
        self.cluster = cluster
        self.log = log
        self.http = http

    def get(self, path: str, role: str = "user", **query: Any) -> httpx.Response:
        return self.http.get(path, params=query, headers=bearer(role))

    def post(self, path: str, body: Any = None, role: str = "user", **headers: str) -> httpx.Response:
        return self.http.post(path, json=body, headers={**bearer(role), **headers})

    def logged(self, event: str) -> dict[str, Any]:
        """The first such line of the log, which may come a moment after the answer."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            for line in self.log.getvalue().splitlines():
                found: dict[str, Any] = json.loads(line)
                if found["event"] == event:
                    return found
            time.sleep(0.01)
        raise AssertionError(f"{event!r} was never logged")

    def submit(self, role: str = "user", **spec: Any) -> str:
        answer = self.post(JOBS, {"run": "python train.py", **spec}, role)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


def problem(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert set(body) <= {"type", "title", "status", "detail", "instance", "where", "fix"}
    assert (body["status"], body["type"]) == (status, f"urn:powerflow:problem:{kind}")
    assert "Traceback" not in answer.text
    return body
