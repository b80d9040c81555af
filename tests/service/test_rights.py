"""Who may change jobs and nodes, and who may read."""

from __future__ import annotations

from typing import Any

import pytest

from powerflow.api.records import JobState
from tests.service.serving import JOBS, Api, problem


def test_jobs_are_held_released_and_cancelled(api: Api) -> None:
    job = api.submit()
    states = [api.post(f"{JOBS}/{job}/{action}").json()["state"] for action in ("hold", "release", "cancel", "cancel")]
    assert states == ["held", "queued", "cancelled", "cancelled"]
    problem(api.post(f"{JOBS}/{job}/release"), 409, "refused")
    problem(api.post(f"{JOBS}/99/cancel"), 404, "not-found")


WRITES = [(JOBS, {"run": "true"}), *((f"{JOBS}/1/{verb}", None) for verb in ("cancel", "hold", "release"))]
NODE_WRITES = [
    ("/api/v1/nodes/n1/drain", {"reason": "fan"}),
    ("/api/v1/nodes/n1/declare-off", {"reason": "fire"}),
    ("/api/v1/nodes/n1/resume", None),
]
READS = [JOBS, f"{JOBS}/1", f"{JOBS}/1/explain", f"{JOBS}/1/log"]
READS += [f"/api/v1/{name}" for name in ("events", "nodes", "top", "accounts", "predictions")]


@pytest.mark.parametrize(("path", "body"), [*WRITES, *NODE_WRITES])
def test_viewers_change_nothing(api: Api, path: str, body: Any) -> None:
    api.submit()
    problem(api.post(path, body, "viewer"), 403, "forbidden")
    assert api.cluster.job("1").record.state is JobState.QUEUED
    assert len(api.cluster.events().items) == 1


@pytest.mark.parametrize(("path", "body"), [*WRITES[1:], *NODE_WRITES])
def test_users_change_only_what_is_theirs(api: Api, path: str, body: Any) -> None:
    api.submit("operator")
    problem(api.post(path, body), 403, "forbidden")
    assert len(api.cluster.events().items) == 1


def test_operators_change_everything(api: Api) -> None:
    job = api.submit()
    assert api.post(f"{JOBS}/{job}/hold", role="operator").json()["state"] == "held"
    assert api.post("/api/v1/nodes/n1/drain", {"reason": "fan"}, "operator").json()["state"] == "drained"
    assert api.post("/api/v1/nodes/n1/drain", None, "operator").status_code == 200
    assert api.post("/api/v1/nodes/n1/resume", None, "operator").json()["state"] == "up"
    assert api.post("/api/v1/nodes/n1/declare-off", {"reason": "fire"}, "operator").json()["state"] == "failed"
    problem(api.post("/api/v1/nodes/n2/declare-off", {}, "operator"), 409, "refused")
    problem(api.post("/api/v1/nodes/n9/drain", {}, "operator"), 404, "not-found")
    problem(api.post("/api/v1/nodes/-x/drain", {}, "operator"), 422, "invalid")


@pytest.mark.parametrize("token", ["", "Bearer", "Bearer pf_nobody", "Basic pf_user", "pf_user", "Bearer é"])
def test_without_a_token_there_is_nothing(api: Api, token: str) -> None:
    for path in (*READS, "/metrics", "/nowhere"):
        answer = api.http.get(path, headers={b"Authorization": token.encode()})
        problem(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("path", "body"), [*WRITES, *NODE_WRITES])
def test_without_a_token_nothing_changes(api: Api, path: str, body: Any) -> None:
    api.submit()
    problem(api.http.post(path, json=body), 401, "unauthenticated")
    problem(api.http.post(path, content=b"{"), 401, "unauthenticated")
    assert len(api.cluster.events().items) == 1


def test_every_reader_reads(api: Api) -> None:
    api.submit()
    for path in READS:
        assert [api.get(path, role).status_code for role in ("viewer", "user", "operator")] == [200] * 3
