"""What each operation answers, who may ask it, and what everything that goes wrong looks like."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from powerflow.api.job_spec import JobSpec
from powerflow.api.records import Caller, JobRecord, JobState, NodeAway
from powerflow.errors import InputError
from powerflow.service.app import build_app
from powerflow.service.body import BODY_LIMIT
from powerflow.service.logs import json_lines
from powerflow.service.middleware import INSIDE, LOOPBACK, WRITES_EACH, hosts_of
from powerflow.service.peers import trusted_proxies
from powerflow.service.server import ApiServer, take_port
from powerflow.service.tokens import Tokens
from tests.service.fake_cluster import UNAVAILABLE, FakeCluster
from tests.service.serving import bearer, service

JOBS = "/api/v1/jobs"


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


@pytest.fixture
def api() -> Iterator[Api]:
    cluster, log = FakeCluster(), io.StringIO()
    app = service(cluster, hosts=LOOPBACK, log=log, access_log=True)
    with ApiServer(app) as server, httpx.Client(base_url=server.url, trust_env=False, timeout=30) as http:
        yield Api(cluster, log, http)


def problem(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert set(body) <= {"type", "title", "status", "detail", "instance", "where", "fix"}
    assert (body["status"], body["type"]) == (status, f"urn:powerflow:problem:{kind}")
    assert "Traceback" not in answer.text
    return body


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
        target=lambda: answers.append(httpx.get(url, headers=bearer("user"), timeout=60, trust_env=False).status_code)
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


# --- changing, and who may ------------------------------------------------------------------------------------------


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
READS += [f"/api/v1/{name}" for name in ("events", "nodes", "top", "accounts")]


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


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("budgets", {"amount_j": 5e-324, "period": "day"}, "amount_j"),  # its share would be infinite
        ("budgets", {"amount_j": 3599.0, "period": "day"}, "amount_j"),
        ("budgets", {"amount_j": 3.7e15, "period": "day"}, "amount_j"),
        ("caps", {"watts": 5e-324}, "watts"),
        ("caps", {"watts": 1e11}, "watts"),
        ("caps", {"share": 1e-9}, "share"),
        ("caps", {"watts": 60e3, "ramp_w_per_s": 5e-324}, "ramp_w_per_s"),
        ("signals", {"kind": "tariff", "constant": 1e10}, "constant"),
        ("signals", {"kind": "tariff", "constant": 1.0, "max_age_s": 5e-324}, "max_age_s"),
    ],
)
def test_amounts_that_nobody_can_mean_are_refused(api: Api, path: str, body: Any, field: str) -> None:
    said = problem(api.post(f"/api/v1/{path}", body, "operator"), 422, "invalid")
    assert said["where"] == f"body.{field}"
    assert "than or equal to" in said["detail"]


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
    assert len(operations) == 37
    for path, operation in operations:
        good = [r for status, r in operation["responses"].items() if status.startswith("2")]
        assert all("example" in r["content"]["application/json"] for r in good), path
        bad = {status: r for status, r in operation["responses"].items() if int(status) >= 400}
        assert all(list(r["content"]) == ["application/problem+json"] for s, r in bad.items() if path[-6:] != "health")
        assert ("401" in bad) == bool(operation["security"])
        assert operation["summary"]
        assert operation["description"]


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_store_that_cannot_be_used_is_503_and_says_when_to_ask_again(api: Api) -> None:
    for error in (UNAVAILABLE, OSError(28, "No space left on device")):
        api.cluster.broken = error
        answer = api.post(JOBS, {"run": "true"})
        problem(answer, 503, "unavailable")
        assert answer.headers["retry-after"] == "1"
    api.cluster.broken = None
    assert api.get(JOBS).json()["items"] == []


def test_a_node_that_is_away_is_another_problem_than_a_store_that_is(api: Api) -> None:
    """A client repeats a request after 503: the store may work again soon."""
    api.cluster.broken = NodeAway("node n1 does not answer", fix="try again when it answers")
    answer = api.get(f"{JOBS}/1/log")
    problem(answer, 504, "node-away")
    assert "retry-after" not in answer.headers


def test_a_bug_shows_nothing_of_itself_and_is_in_the_log(api: Api) -> None:
    api.cluster.broken = ZeroDivisionError("secret inside")
    body = problem(api.get(JOBS), 500, "internal")
    assert "secret" not in json.dumps(body)
    assert "ZeroDivisionError: secret inside" in api.logged("request failed")["exception"]
    api.cluster.broken = None
    assert api.get(JOBS).status_code == 200


def test_a_body_has_a_limit_said_or_not(api: Api) -> None:
    big = b'{"run": "' + b"x" * BODY_LIMIT + b'"}'
    headers = {**bearer("user"), "Content-Type": "application/json"}
    problem(api.http.post(JOBS, content=big, headers=headers), 413, "too-large")
    problem(api.http.post(JOBS, content=iter([big[:9], big[9:]]), headers=headers), 413, "too-large")
    assert api.cluster.events().items == []


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.nip.io", ""])
def test_on_loopback_a_strange_host_name_gets_nothing(api: Api, host: str) -> None:
    for path in (JOBS, "/api/v1/health"):
        problem(api.http.get(path, headers={**bearer("user"), "Host": host}), 421, "unknown-host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1:1", "[::1]:8080", "[::1]"])
def test_on_loopback_its_own_names_are_known(api: Api, host: str) -> None:
    assert api.http.get("/api/v1/health", headers={"Host": host}).status_code == 200


def test_hosts_follow_the_address() -> None:
    assert hosts_of("127.0.0.1") == LOOPBACK
    assert hosts_of("0.0.0.0") is None


def test_no_way_and_no_method(api: Api) -> None:
    problem(api.get("/nowhere"), 404, "not-found")
    problem(api.get(f"{JOBS}/"), 404, "not-found")
    answer = api.http.delete(JOBS, headers=bearer("user"))
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "GET, POST"


def test_requests_are_logged_without_tokens_and_queries(api: Api) -> None:
    api.get(JOBS, user="ada")
    line = api.logged("request")
    assert {key: line[key] for key in ("event", "method", "path", "status", "user")} == {
        "event": "request",
        "method": "GET",
        "path": JOBS,
        "status": 200,
        "user": "ada",
    }
    assert line["duration_s"] > 0
    assert "pf_" not in api.log.getvalue()


def test_requests_are_logged_only_on_demand_but_failures_always() -> None:
    log, cluster = io.StringIO(), FakeCluster()
    with ApiServer(service(cluster, log=log)) as server:
        httpx.get(f"{server.url}{JOBS}", headers=bearer("user"), trust_env=False)
        assert log.getvalue() == ""
        cluster.broken = ZeroDivisionError("a bug")
        httpx.get(f"{server.url}{JOBS}", headers=bearer("user"), trust_env=False)
    assert "request failed" in log.getvalue()


def test_no_token_is_known_where_there_are_none() -> None:
    app = build_app(FakeCluster(), Tokens([]), version="1", log=json_lines(io.StringIO()))
    with ApiServer(app) as server:
        assert httpx.get(f"{server.url}{JOBS}", headers=bearer("user"), trust_env=False).status_code == 401


def test_a_port_that_is_taken_is_said_so() -> None:
    with ApiServer(service(FakeCluster())) as server, pytest.raises(InputError, match="cannot listen"):
        ApiServer(service(FakeCluster()), port=server.port).start()


def test_an_address_of_another_machine_is_said_so() -> None:
    with pytest.raises(InputError, match=r"203\.0\.113\.9:0: cannot listen \(.*\); give an address of this machine"):
        take_port("203.0.113.9", 0)


# --- who is asked, and how much -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("proxies", "said"), [((), "127.0.0.1"), (("127.0.0.0/8",), "203.0.113.66 through 127.0.0.1")])
def test_a_forwarded_address_is_believed_from_a_named_proxy_only(proxies: tuple[str, ...], said: str) -> None:
    seen: list[str] = []

    class Cluster(FakeCluster):
        def cancel(self, job_id: str, caller: Caller) -> JobRecord:
            seen.append(caller.address)
            return super().cancel(job_id, caller)

    with (
        ApiServer(service(Cluster(), proxies=trusted_proxies(proxies))) as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=30) as http,
    ):
        assert http.post(JOBS, json={"run": "true"}, headers=bearer("user")).status_code == 201
        forged = {"X-Forwarded-For": "8.8.8.8, 203.0.113.66", "X-Forwarded-Proto": "https"}
        assert http.post(f"{JOBS}/1/cancel", headers={**bearer("user"), **forged}).status_code == 200
    assert seen == [said]


def test_a_user_has_a_bounded_number_of_requests_here_and_others_are_answered_meanwhile() -> None:
    """Submissions of one user hang; reads and those of others do not, and one too many is told to come again."""
    go_on, submitting = threading.Event(), threading.Semaphore(0)

    class Cluster(FakeCluster):
        def submit(self, spec: JobSpec, caller: Caller, key: str | None = None) -> tuple[JobRecord, bool]:
            if caller.user == "ada":
                submitting.release()
                go_on.wait(60)
            return super().submit(spec, caller, key)

    answers: list[httpx.Response] = []
    with ApiServer(service(Cluster())) as server:

        def ask(role: str = "user") -> httpx.Response:
            return httpx.post(
                f"{server.url}{JOBS}", json={"run": "true"}, headers=bearer(role), trust_env=False, timeout=60
            )

        def jobs(role: str) -> httpx.Response:
            return httpx.get(f"{server.url}{JOBS}", headers=bearer(role), trust_env=False, timeout=60)

        threads = [threading.Thread(target=lambda: answers.append(ask())) for _ in range(INSIDE + 4)]
        for thread in threads:
            thread.start()
        assert all(submitting.acquire(timeout=60) for _ in range(WRITES_EACH))
        until = time.monotonic() + 60
        while len(answers) < 4 and time.monotonic() < until:
            time.sleep(0.01)
        refused = jobs("user")
        problem(refused, 429, "too-many")
        assert refused.headers["retry-after"] == "1"
        assert ask("other").status_code == 201
        assert jobs("viewer").status_code == 200
        go_on.set()
        for thread in threads:
            thread.join(60)
    assert {answer.status_code for answer in answers} == {201, 429}
    assert sum(answer.status_code == 201 for answer in answers) == INSIDE


@pytest.mark.parametrize("body", [b'{"run": ' + b"[" * 1000, b'{"run": "x", "env": {' + b'"A": "1", ' * 9000 + b"}}"])
def test_a_body_that_is_too_deep_or_too_rich_is_refused_in_a_line(api: Api, body: bytes) -> None:
    answer = api.http.post(JOBS, content=body, headers={**bearer("user"), "Content-Type": "application/json"})
    assert len(problem(answer, 422, "invalid")["detail"]) < 100


def test_what_is_wrong_is_said_in_bounded_words(api: Api) -> None:
    answer = api.post(JOBS, {"run": "true", "name": "x y" * 100_000})
    assert answer.status_code == 422
    assert len(answer.text) < 2000
