"""A service over a `FakeCluster`, with one token for each role."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from typing import TextIO

from fastapi import FastAPI

from powerflow.api.cluster_api import ClusterApi
from powerflow.api.records import Role
from powerflow.service.app import build_app
from powerflow.service.logs import json_lines
from powerflow.service.peers import Network
from powerflow.service.tokens import TokenEntry, Tokens, hash_of

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
