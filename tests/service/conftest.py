"""What holds for tests of the service."""

from __future__ import annotations

import io
from collections.abc import Iterator

import httpx
import pytest

from powerflow.service.middleware import LOOPBACK
from powerflow.service.server import ApiServer
from tests.service.fake_cluster import FakeCluster
from tests.service.serving import Api, service


@pytest.fixture
def nodeid(request: pytest.FixtureRequest) -> None:
    """What schemathesis 4 still reads, and pytest 9.2 no longer has."""
    request.node._nodeid = request.node.nodeid


@pytest.fixture
def api() -> Iterator[Api]:
    cluster, log = FakeCluster(), io.StringIO()
    app = service(cluster, hosts=LOOPBACK, log=log, access_log=True)
    # here and elsewhere, `verify=False` of plain HTTP: no certificates are loaded, which takes longer than the request
    with ApiServer(app) as server, httpx.Client(base_url=server.url, trust_env=False, verify=False, timeout=30) as http:
        yield Api(cluster, log, http)
