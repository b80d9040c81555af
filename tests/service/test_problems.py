"""What everything that goes wrong looks like, and how much one caller may ask for."""

from __future__ import annotations

import io
import json
import threading
import time
from typing import Any

import httpx
import pytest

from powerflow.api.job_spec import JobSpec
from powerflow.api.records import Caller, JobRecord, NodeAway
from powerflow.errors import InputError
from powerflow.service.app import build_app
from powerflow.service.body import BODY_LIMIT
from powerflow.service.logs import json_lines
from powerflow.service.middleware import INSIDE, LOOPBACK, WRITES_EACH, hosts_of
from powerflow.service.peers import trusted_proxies
from powerflow.service.server import ApiServer, take_port
from powerflow.service.tokens import Tokens
from tests.service.fake_cluster import UNAVAILABLE, FakeCluster
from tests.service.serving import JOBS, Api, bearer, problem, service


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
        httpx.get(f"{server.url}{JOBS}", headers=bearer("user"), trust_env=False, verify=False)
        assert log.getvalue() == ""
        cluster.broken = ZeroDivisionError("a bug")
        httpx.get(f"{server.url}{JOBS}", headers=bearer("user"), trust_env=False, verify=False)
    assert "request failed" in log.getvalue()


def test_no_token_is_known_where_there_are_none() -> None:
    app = build_app(FakeCluster(), Tokens([]), version="1", log=json_lines(io.StringIO()))
    with ApiServer(app) as server:
        assert (
            httpx.get(f"{server.url}{JOBS}", headers=bearer("user"), trust_env=False, verify=False).status_code == 401
        )


def test_a_port_that_is_taken_is_said_so() -> None:
    with ApiServer(service(FakeCluster())) as server, pytest.raises(InputError, match="cannot listen"):
        ApiServer(service(FakeCluster()), port=server.port).start()


def test_an_address_of_another_machine_is_said_so() -> None:
    with pytest.raises(InputError, match=r"203\.0\.113\.9:0: cannot listen \(.*\); give an address of this machine"):
        take_port("203.0.113.9", 0)


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
        httpx.Client(base_url=server.url, trust_env=False, verify=False, timeout=30) as http,
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
                f"{server.url}{JOBS}",
                json={"run": "true"},
                headers=bearer(role),
                trust_env=False,
                verify=False,
                timeout=60,
            )

        def jobs(role: str) -> httpx.Response:
            return httpx.get(f"{server.url}{JOBS}", headers=bearer(role), trust_env=False, verify=False, timeout=60)

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
