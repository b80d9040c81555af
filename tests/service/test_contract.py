"""The service keeps what its OpenAPI document promises, whatever it is sent.

The requests are made up when the test runs, not when it is collected: that takes seconds, and each worker collects all
tests. So all operations are one test, with a subtest for each.
"""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis.pytest
from hypothesis import HealthCheck, settings
from schemathesis import BaseSchema, Case
from schemathesis.config import SchemathesisConfig
from schemathesis.openapi import from_asgi
from schemathesis.specs.openapi.checks import positive_data_acceptance

from powerflow.api.job_spec import JobSpec
from powerflow.api.records import Caller, Role
from powerflow.service.app import OPENAPI
from tests.service.fake_cluster import FakeCluster
from tests.service.serving import bearer, service
from tests.slow import ALL


def _cluster() -> FakeCluster:
    """Three jobs of three users, one of which has ended: names that the document gives as examples exist."""
    cluster = FakeCluster()
    for user in ("ada", "bob", "ops") * 4:
        cluster.submit(JobSpec(run="python train.py"), Caller(user, Role.USER))
    cluster.run("12", gpus=2)
    cluster.end("2")
    return cluster


#: A body that is too long by its schema may be too long for any: 413.
REFUSALS = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]
CONFIG = SchemathesisConfig.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": REFUSALS}}})
#: What a schema cannot say: a window ends after it begins; progress is a regular expression with a group; a
#: cap has either watts or a share; a zone is one of those there are; a signal is one of three things.
BEYOND = {
    "GET /api/v1/accounts": [positive_data_acceptance],
    "GET /api/v1/predictions": [positive_data_acceptance],
    "GET /api/v1/history": [positive_data_acceptance],
    "POST /api/v1/jobs": [positive_data_acceptance],
    "POST /api/v1/jobs/{job_id}/update": [positive_data_acceptance],
    "POST /api/v1/caps": [positive_data_acceptance],
    "POST /api/v1/budgets": [positive_data_acceptance],
    "POST /api/v1/signals": [positive_data_acceptance],
}
BOUNDED = settings(
    max_examples=5 if ALL else 1, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@pytest.fixture
def api(nodeid: None) -> BaseSchema:
    app = service(_cluster())
    app.state.stopping = True  # as while it shuts down: who waits for events is answered at once
    return from_asgi(OPENAPI, app, config=CONFIG)


@schemathesis.pytest.from_fixture("api").parametrize()
@BOUNDED
def test_every_answer_is_as_documented(case: Case[Any]) -> None:
    """Asked with every right; one of the checks asks again without a token, which must end in 401."""
    beyond: list[Any] = BEYOND.get(case.operation.label, [])
    case.call_and_validate(headers=bearer("operator"), excluded_checks=beyond)
