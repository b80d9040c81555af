"""What each operation answers."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest

from powerflow.service.server import ApiServer
from tests.service.fake_cluster import UNAVAILABLE, FakeCluster
from tests.service.serving import JOBS, Api, bearer, problem, service

# --- submitting ---------------------------------------------------------------------------------------------------


def test_a_job_belongs_to_the_token_s_user_and_says_where_it_is(api: Api) -> None:
    answer = api.post(JOBS, {"run": "true", "gpus": "1..4", "rescale": "restart"})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"{JOBS}/1"
    assert (answer.json()["user"], answer.json()["gpus_asked"]) == ("ada", "1..4")
    assert api.get(f"{JOBS}/1").json()["spec"]["gpus"] == {"least": 1, "most": 4, "gpu_type": None}


def test_nobody_can_submit_as_another(api: Api) -> None:
    problem(api.post(JOBS, {"run": "true", "user": "root"}), 422, "invalid")


def test_the_same_key_is_the_same_job(api: Api) -> None:
    first = api.post(JOBS, {"run": "true"}, **{"Idempotency-Key": "k1"})
    again = api.post(JOBS, {"run": "true"}, **{"Idempotency-Key": "k1"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    problem(api.post(JOBS, {"run": "false"}, **{"Idempotency-Key": "k1"}), 409, "refused")
    other = api.post(JOBS, {"run": "true"}, "other", **{"Idempotency-Key": "k1"})
    assert other.status_code == 201, "a key is its user's own"
    assert len(api.get(JOBS).json()["items"]) == 2


def test_a_bad_job_says_where_and_how(api: Api) -> None:
    body = problem(api.post(JOBS, {"run": "true", "gpus": "none"}), 422, "invalid")
    assert body["where"] == "body.gpus"
    assert "1..8" in body["fix"]
    body = problem(api.post(JOBS, {"run": "true", "gpus": "1..4"}), 422, "invalid")
    assert (body["where"], body["detail"]) == ("body.gpus", "rescale is none, so gpus must be one number, not 1..4")
    problem(api.post(JOBS, {"run": "true", "gpus": 99}), 409, "refused")


def test_what_is_no_json_is_a_bad_request(api: Api) -> None:
    answer = api.http.post(JOBS, content=b"{run:", headers={**bearer("user"), "Content-Type": "application/json"})
    problem(answer, 400, "bad-request")


def test_who_does_not_say_that_it_is_json_is_told_to(api: Api) -> None:
    """``curl -d`` says that it sends a form."""
    headers = {**bearer("user"), "Content-Type": "application/x-www-form-urlencoded"}
    body = problem(api.http.post(JOBS, content=b'{"run": "true"}', headers=headers), 422, "invalid")
    assert (body["where"], body["fix"]) == ("body", "send Content-Type: application/json")


# --- reading ------------------------------------------------------------------------------------------------------


def test_pages_follow_one_another_to_the_end(api: Api) -> None:
    numbers = [api.submit() for _ in range(7)]
    seen: list[str] = []
    url = f"{JOBS}?limit=3&user=ada"
    while url:
        answer = api.get(url)
        seen += [job["id"] for job in answer.json()["items"]]
        link = answer.links.get("next", {})
        assert bool(link) == (answer.json()["next"] is not None)
        url = link.get("url", "")
        assert not url.startswith("http"), "behind a proxy our own address would be wrong"
    assert seen == numbers[::-1]


def test_jobs_are_filtered(api: Api) -> None:
    mine, other = api.submit(project="vision"), api.submit("other", project="nlp")
    api.cluster.run(other)

    def found(**query: Any) -> list[str]:
        return [job["id"] for job in api.get(JOBS, **query).json()["items"]]

    assert found(state="queued") == [mine]
    assert found(state=["queued", "running"]) == [other, mine]
    assert found(user="bob") == [other]
    assert found(project="vision") == [mine]
    assert found(project="none") == []


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 1001}, {"state": "nix"}, {"after": "../etc"}, {"after": "0"}, {"user": "a b"}]
)
def test_bad_filters_are_refused(api: Api, query: dict[str, Any]) -> None:
    assert "query" in problem(api.get(JOBS, **query), 422, "invalid")["where"]


@pytest.mark.parametrize("job", ["x", "1x", "-1", "1%2F2", "1" * 19, "%00", "1%0A", "..%2f..%2fetc"])
def test_only_numbers_are_jobs(api: Api, job: str) -> None:
    for answer in (api.get(f"{JOBS}/{job}"), api.post(f"{JOBS}/{job}/cancel")):
        assert answer.status_code in (404, 422)
        assert answer.headers["content-type"] == "application/problem+json"


def test_the_environment_is_for_its_owner_and_operators(api: Api) -> None:
    job = api.submit(env={"API_KEY": "s3cret"})
    shown = {role: api.get(f"{JOBS}/{job}", role).text for role in ("user", "other", "viewer", "operator")}
    assert {role: "s3cret" in text for role, text in shown.items()} == {
        "user": True,
        "other": False,
        "viewer": False,
        "operator": True,
    }
    assert all("API_KEY" in text for text in shown.values())


def test_a_log_is_read_piece_by_piece(api: Api) -> None:
    job = api.submit()
    api.cluster.write(job, "one\ntwo\n")
    first = api.get(f"{JOBS}/{job}/log", limit=4).json()
    assert (first["text"], first["offset"], first["ended"]) == ("one\n", 4, False)
    assert api.get(f"{JOBS}/{job}/log", offset=-4).json()["text"] == "two\n"
    api.cluster.end(job)
    assert api.get(f"{JOBS}/{job}/log", offset=4).json()["ended"] is True
    problem(api.get(f"{JOBS}/{job}/log", rank="7.7.7"), 404, "not-found")
    problem(api.get(f"{JOBS}/{job}/log", rank="../../x"), 422, "invalid")


def test_events_go_on_from_where_one_was(api: Api) -> None:
    job = api.submit()
    first = api.get("/api/v1/events").json()
    assert [event["kind"] for event in first["items"]] == ["submitted"]
    assert api.get("/api/v1/events", after=first["after"]).json() == {"items": [], "after": first["after"]}
    api.cluster.end(job)
    assert [event["kind"] for event in api.get("/api/v1/events", after=first["after"]).json()["items"]] == ["completed"]
    problem(api.get("/api/v1/events", job="99"), 404, "not-found")


def test_who_waits_for_an_event_gets_it(api: Api) -> None:
    job = api.submit()
    asked = threading.Event()
    original = api.cluster.events

    def watched(**query: Any) -> Any:
        found = original(**query)
        asked.set()  # looked, and found nothing: what comes now is what is waited for
        return found

    api.cluster.events = watched  # type: ignore[method-assign]
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(api.get("/api/v1/events", after=1, wait_s=30)))
    waiting.start()
    assert asked.wait(30)
    api.cluster.end(job)
    waiting.join(30)
    assert [event["kind"] for event in answers[0].json()["items"]] == ["completed"]


def test_stopping_does_not_wait_for_those_who_wait() -> None:
    cluster = FakeCluster()
    app = service(cluster)
    asked = threading.Event()
    original = cluster.events

    def watched(**query: Any) -> Any:
        asked.set()
        return original(**query)

    cluster.events = watched  # type: ignore[method-assign]
    answers: list[int] = []
    server = ApiServer(app)
    server.start()
    url = f"{server.url}/api/v1/events?wait_s=30"
    waiting = threading.Thread(
        target=lambda: answers.append(
            httpx.get(url, headers=bearer("user"), timeout=60, trust_env=False, verify=False).status_code
        )
    )
    waiting.start()
    assert asked.wait(30)
    server.stop()
    waiting.join(30)
    assert answers == [200]
    server.stop()  # twice is once


def test_the_cluster(api: Api) -> None:
    api.cluster.run(api.submit(), gpus=2)
    top = api.get("/api/v1/top", "viewer").json()
    assert (top["gpus"], top["gpus_busy"], top["running"], top["emulated"]) == (8, 2, 1, True)
    assert top["jobs_energy_j"] + top["idle_energy_j"] == top["energy_j"]
    nodes = api.get("/api/v1/nodes").json()["items"]
    assert [gpu["job_id"] for gpu in nodes[0]["gpus"]] == ["1", "1", None, None]
    accounts = api.get("/api/v1/accounts", by="user").json()
    assert [account["name"] for account in accounts["items"]] == ["ada", "idle", "total"]
    problem(api.get("/api/v1/accounts", since_s=5, until_s=4), 422, "invalid")
    problem(api.get("/api/v1/accounts", since_s="nan"), 422, "invalid")
    assert api.get(f"{JOBS}/1/explain").json()["now"]["gpus"] == 2


# --- health, metrics, document ----------------------------------------------------------------------------------------


def test_health_needs_no_token_and_is_503_where_the_loop_does_not_turn(api: Api) -> None:
    answer = api.http.get("/api/v1/health")
    assert (answer.status_code, answer.json()["ok"], answer.json()["version"]) == (200, True, "1.2.3")
    api.cluster.broken = UNAVAILABLE
    assert api.http.get("/api/v1/health").status_code == 503


def test_the_document_is_openapi_3_1_with_examples_and_every_error(api: Api) -> None:
    document = api.http.get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    operations = [(path, op) for path, methods in document["paths"].items() for op in methods.values()]
    assert len(operations) == 44
    for path, operation in operations:
        good = [r for status, r in operation["responses"].items() if status.startswith("2")]
        assert all("example" in r["content"]["application/json"] for r in good), path
        bad = {status: r for status, r in operation["responses"].items() if int(status) >= 400}
        assert all(list(r["content"]) == ["application/problem+json"] for s, r in bad.items() if path[-6:] != "health")
        assert ("401" in bad) == bool(operation["security"])
        assert operation["summary"]
        assert operation["description"]
