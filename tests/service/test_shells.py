"""Shells over HTTP: who waits for output holds up nobody, and what is wrong is a problem document."""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx
import pytest

from powerflow.api.shells import as_text
from powerflow.service import shells
from powerflow.service.middleware import READS
from powerflow.service.server import ApiServer
from tests.service.fake_cluster import FakeCluster
from tests.service.serving import Api, bearer, problem, service


@pytest.fixture
def shell(api: Api) -> str:
    """Path of a shell beside a job that runs."""
    job = api.submit()
    api.cluster.run(job)
    answer = api.post(f"/api/v1/jobs/{job}/shells", {"command": ["top"], "terminal": None})
    assert answer.status_code == 201
    assert answer.json() == {"id": "0" * 16, "job_id": job, "rank": f"{job}.1.0", "node": "n1"}
    return f"/api/v1/jobs/{job}/shells/{'0' * 16}"


def test_output_is_waited_for_and_follows_input(api: Api, shell: str) -> None:
    first = api.get(f"{shell}/output").json()
    assert (first["number"], first["ended"]) == (1, False)
    answers: list[Any] = []

    def wait() -> None:
        answers.append(api.get(f"{shell}/output", after=1, wait_s=30).json())

    thread = threading.Thread(target=wait)
    thread.start()
    assert api.post(f"{shell}/input", {"offset": 0, "data": as_text(b"x")}).json() == {"offset": 1}
    thread.join(60.0)
    assert answers[0]["out"] == as_text(b"x")
    assert api.get(f"{shell}/output", after=2).json() == {
        "number": 2,
        "out": "",
        "err": "",
        "ended": False,
        "code": None,
        "why": "",
    }
    assert api.post(f"{shell}/resize", {"rows": 20, "columns": 70}).status_code == 200
    assert api.post(f"{shell}/close").status_code == 200
    problem(api.get(f"{shell}/output"), 404, "not-found")


def test_those_who_wait_hold_up_nobody_else(api: Api, shell: str) -> None:
    after = api.get(f"{shell}/output").json()["number"]

    def wait() -> None:
        api.get(f"{shell}/output", after=after, wait_s=30)

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(READS + 1)]
    for thread in threads:
        thread.start()
    assert api.get("/api/v1/top").status_code == 200
    api.post(f"{shell}/input", {"offset": 0, "end": True})
    for thread in threads:
        thread.join(60.0)


def test_stopping_does_not_wait_for_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shells, "_LOOK_S", 0.05)
    cluster = FakeCluster()
    with (
        ApiServer(service(cluster)) as server,
        httpx.Client(base_url=server.url, trust_env=False, verify=False, timeout=60) as http,
    ):
        http.headers.update(bearer("user"))
        job = http.post("/api/v1/jobs", json={"run": "true"}).json()["id"]
        cluster.run(job)
        shell = http.post(f"/api/v1/jobs/{job}/shells", json={}).json()["id"]
        path = f"/api/v1/jobs/{job}/shells/{shell}/output"
        after = http.get(path).json()["number"]
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(http.get(path, params={"after": after, "wait_s": 30})))
        thread.start()
        time.sleep(0.1)
        server.hang_up()
        thread.join(60.0)
        assert answers[0].json()["number"] == after


def test_only_who_has_opened_it_may_use_it(api: Api, shell: str) -> None:
    for role in ("other", "operator"):
        problem(api.get(f"{shell}/output", role), 403, "forbidden")
        problem(api.post(f"{shell}/input", {"offset": 0}, role), 403, "forbidden")
        problem(api.post(f"{shell}/close", role=role), 403, "forbidden")
    problem(api.get(f"{shell}/output", "viewer"), 403, "forbidden")


@pytest.mark.parametrize(
    ("order", "where"),
    [
        ({"command": "ls"}, "body.command"),
        ({"command": ["a\0b"]}, "body.command"),
        ({"rank": "../etc"}, "body.rank"),
        ({"terminal": {"kind": "xterm", "rows": 0, "columns": 80}}, "body.terminal.rows"),
        ({"user": "root"}, "body.user"),
    ],
)
def test_what_is_no_order_is_refused(api: Api, order: dict[str, Any], where: str) -> None:
    job = api.submit()
    api.cluster.run(job)
    found = problem(api.post(f"/api/v1/jobs/{job}/shells", order), 422, "invalid")
    assert found["where"] == where
