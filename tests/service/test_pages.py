"""The pages of the dashboard: who may see them, how a person signs in, and what other sites cannot do."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from powerflow.api.records import Role
from powerflow.dashboard.assets import assets
from powerflow.service.browser import cookie_name, cookie_of
from powerflow.service.server import ApiServer
from powerflow.service.tokens import create_token, revoke_tokens
from tests.service.fake_cluster import UNAVAILABLE, FakeCluster
from tests.service.serving import TOKENS, Api, problem, service

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


@contextmanager
def signed_in(api: Api, role: str = "user") -> Iterator[httpx.Client]:
    """A browser whose user has signed in with the form."""
    with httpx.Client(base_url=api.http.base_url, trust_env=False, verify=False, timeout=30) as browser:
        answer = post(browser, "/sign-in", token=f"pf_{role}")
        assert answer.status_code == 303, answer.text
        yield browser


def post(browser: httpx.Client, path: str, *, site: str = "same-origin", **fields: str) -> httpx.Response:
    return browser.post(path, data=fields, headers={"Sec-Fetch-Site": site})


@pytest.fixture
def browser(api: Api) -> Iterator[httpx.Client]:
    with signed_in(api) as client:
        yield client


# --- signing in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", TOKENS)
def test_every_role_can_sign_in_with_the_form_and_is_told_who_it_is(api: Api, role: str) -> None:
    with signed_in(api, role) as browser:
        page = browser.get("/").text
    user, least = TOKENS[role]
    assert f"<bdi>{user}</bdi> · {least}" in page


def test_the_cookie_is_kept_from_scripts_from_other_sites_and_from_other_controllers(api: Api) -> None:
    answer = post(api.http, "/sign-in", token="pf_user")
    name, _, attributes = answer.headers["set-cookie"].partition("=")
    assert name == f"powerflow-{api.http.base_url.port}", "cookies do not know ports"
    assert attributes.split("; ") == ["pf_user", "Path=/", "HttpOnly", "SameSite=Strict"]


def test_behind_a_proxy_that_decrypts_the_cookie_is_sent_through_encrypted_connections_only() -> None:
    said = cookie_of("pf_x", {b"host": "cluster.example", b"origin": "https://cluster.example"})
    assert said.endswith("; Secure")
    assert cookie_name("cluster.example") == "powerflow"


def test_nobody_gets_the_form_at_the_address_that_was_asked_for_and_comes_back_to_it(api: Api) -> None:
    job = api.submit()
    answer = api.http.get(f"/jobs/{job}")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert f'name="to" value="/jobs/{job}"' in answer.text
    assert post(api.http, "/sign-in", token="pf_user", to=f"/jobs/{job}").headers["location"] == f"/jobs/{job}"


@pytest.mark.parametrize("to", ["https://evil.example/", "//evil.example/", "/sign-out", "/jobs/1/../..", "\\evil", ""])
def test_the_form_leads_nowhere_else(api: Api, to: str) -> None:
    assert post(api.http, "/sign-in", token="pf_user", to=to).headers["location"] == "/"


@pytest.mark.parametrize("token", ["pf_nobody", "", "pf_user; Path=/", "x" * 500, "ü"])
def test_an_unknown_token_is_refused_in_words_and_sets_no_cookie(api: Api, token: str) -> None:
    answer = post(api.http, "/sign-in", token=token)
    assert answer.status_code == 401
    assert "This token is not valid" in answer.text
    assert "set-cookie" not in answer.headers
    assert token not in answer.text or not token


def test_a_form_that_is_too_long_is_not_read(api: Api) -> None:
    problem(post(api.http, "/sign-in", token="x" * 5000), 413, "too-large")


def test_a_token_in_the_url_is_nobody(api: Api) -> None:
    assert api.http.get("/", params={"token": "pf_operator"}).status_code == 401
    assert "pf_operator" not in api.log.getvalue()


def test_who_signs_out_is_nobody(browser: httpx.Client) -> None:
    answer = post(browser, "/sign-out")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert browser.get("/").status_code == 401


def test_a_revoked_token_ends_the_session_at_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    from powerflow.service.app import build_app
    from powerflow.service.logs import json_lines
    from powerflow.service.tokens import Tokens

    path = tmp_path_factory.mktemp("state") / "tokens.json"
    token = create_token(path, "ada", Role.USER)
    app = build_app(FakeCluster(), Tokens.load(path), version="1", log=json_lines(io.StringIO()))
    with (
        ApiServer(app) as server,
        httpx.Client(base_url=server.url, trust_env=False, verify=False, timeout=30) as browser,
    ):
        post(browser, "/sign-in", token=token)
        assert browser.get("/").status_code == 200
        revoke_tokens(path, "ada")
        assert browser.get("/").status_code == 401


def test_failed_attempts_are_counted_for_the_audit_and_a_first_visit_is_none() -> None:
    from powerflow.service.app import build_app
    from powerflow.service.logs import json_lines
    from powerflow.service.refused import RefusedTokens
    from powerflow.service.tokens import Tokens

    refused = RefusedTokens()
    app = build_app(FakeCluster(), Tokens([]), version="1", log=json_lines(io.StringIO()), refused=refused)
    with (
        ApiServer(app) as server,
        httpx.Client(base_url=server.url, trust_env=False, verify=False, timeout=30) as browser,
    ):
        browser.get("/")
        assert refused.take(0.0) == ()
        post(browser, "/sign-in", token="pf_guess")
        browser.get("/", headers={"Cookie": f"powerflow-{server.port}=pf_guess"})
    assert refused.take(1.0) == [("127.0.0.1", 2)]


# --- other sites --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"},  # another port of this host
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Origin": "http://[::1"},
        {},
    ],
)
def test_another_site_cannot_change_anything_with_the_cookie_of_a_user(api: Api, headers: dict[str, str]) -> None:
    job = api.submit()
    cookie = {"Cookie": f"powerflow-{api.http.base_url.port}=pf_user"}
    problem(api.http.post(f"/api/v1/jobs/{job}/cancel", headers={**cookie, **headers}), 403, "forbidden")
    problem(api.http.post("/sign-out", headers={**cookie, **headers}), 403, "forbidden")
    assert api.get(f"/api/v1/jobs/{job}").json()["record"]["state"] == "queued"
    assert api.http.post("/sign-in", data={"token": "pf_user"}, headers=headers).status_code == 403


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "same-origin"}, {"Origin": "here"}])
def test_a_page_of_the_service_can(api: Api, headers: dict[str, str]) -> None:
    job = api.submit()
    if "Origin" in headers:  # a browser without Sec-Fetch-Site
        headers = {"Origin": str(api.http.base_url).rstrip("/")}
    cookie = {"Cookie": f"powerflow-{api.http.base_url.port}=pf_user"}
    assert api.http.post(f"/api/v1/jobs/{job}/cancel", headers={**cookie, **headers}).status_code == 200


def test_another_site_cannot_read_with_the_cookie_but_may_link(api: Api) -> None:
    cookie = {"Cookie": f"powerflow-{api.http.base_url.port}=pf_user", "Sec-Fetch-Site": "same-site"}
    problem(api.http.get("/api/v1/top", headers={**cookie, "Sec-Fetch-Mode": "no-cors"}), 403, "forbidden")
    assert api.http.get("/", headers={**cookie, "Sec-Fetch-Mode": "navigate"}).status_code == 200


def test_who_follows_a_link_of_another_site_is_led_on_with_the_cookie(api: Api) -> None:
    """The browser leaves a strict cookie out of the first request, and sends it when this page loads itself again."""
    answer = api.http.get("/jobs/1", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0">' in answer.text
    assert '<a href="/jobs/1">' in answer.text


def test_a_host_name_that_suddenly_points_here_gets_no_page_and_no_form(api: Api) -> None:
    for path in ("/", "/sign-in"):
        problem(api.http.get(path, headers={"Host": "evil.example"}), 421, "unknown-host")


def test_the_cookie_of_another_controller_is_not_taken(api: Api) -> None:
    assert api.http.get("/", headers={"Cookie": "powerflow-1=pf_user"}).status_code == 401
    both = f"powerflow-1=pf_operator; powerflow-{api.http.base_url.port}=pf_viewer"
    assert "<bdi>vera</bdi>" in api.http.get("/", headers={"Cookie": both}).text


# --- what a person may do -----------------------------------------------------------------------------------------


def test_the_owner_of_a_job_holds_releases_and_cancels_it_on_its_page(api: Api, browser: httpx.Client) -> None:
    job = api.submit()
    for act, state in (("hold", "held"), ("release", "queued"), ("cancel", "cancelled")):
        assert f'action="/jobs/{job}/{act}"' in browser.get(f"/jobs/{job}").text
        answer = post(browser, f"/jobs/{job}/{act}")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{job}")
        assert api.get(f"/api/v1/jobs/{job}").json()["record"]["state"] == state
    assert 'action="/jobs/' not in browser.get(f"/jobs/{job}").text, "it has ended"
    assert post(browser, f"/jobs/{job}/release").status_code == 409


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("other", 403), ("operator", 303)])
def test_others_can_do_nothing_with_it_but_operators(api: Api, role: str, status: int) -> None:
    job = api.submit()
    with signed_in(api, role) as browser:
        offered = f'action="/jobs/{job}/cancel"' in browser.get(f"/jobs/{job}").text
        answer = post(browser, f"/jobs/{job}/cancel")
    assert (offered, answer.status_code) == (status == 303, status)
    assert answer.headers.get("content-type", "text/html; charset=utf-8").startswith("text/html")


def test_nothing_is_done_for_another_site_for_nobody_or_by_a_link(api: Api, browser: httpx.Client) -> None:
    job = api.submit()
    assert post(browser, f"/jobs/{job}/cancel", site="cross-site").status_code == 403
    assert browser.get(f"/jobs/{job}/cancel").status_code == 405
    assert post(api.http, f"/jobs/{job}/cancel").status_code == 401
    assert api.get(f"/api/v1/jobs/{job}").json()["record"]["state"] == "queued"
    assert post(browser, "/jobs/99/cancel").status_code == 404


# --- pages --------------------------------------------------------------------------------------------------------


def test_no_page_has_a_script_or_a_style_of_its_own_or_anything_of_another_host(
    api: Api, browser: httpx.Client
) -> None:
    job = api.submit(name="a")
    api.cluster.run(job, gpus=2, progress=0.5, eta_s=api.cluster.now_s + 60)
    api.submit(name="b")
    for path in ("/", f"/jobs/{job}", "/jobs/77"):
        answer = browser.get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"\sstyle=|<style|\son\w+=|<script(?! [^>]*src=)|javascript:", answer.text)
        for address in re.findall(r'(?:href|src|action)="([^"]*)"', answer.text):
            assert re.match(r"/(?!/)|#", address), address


def test_a_hostile_name_is_a_text(api: Api, browser: httpx.Client) -> None:
    job = api.submit(name=HOSTILE)
    api.cluster.run(job)
    api.cluster.write(job, HOSTILE)
    for path in ("/", f"/jobs/{job}"):
        page = browser.get(path).text
        assert "&lt;script&gt;alert(1)" in page
        assert "<script>alert" not in page
        assert "<img" not in page


def test_the_page_of_the_cluster_shows_what_runs_and_why_others_wait(api: Api, browser: httpx.Client) -> None:
    job, other = api.submit(name="resnet"), api.submit(name="bert")
    api.cluster.run(job, gpus=2)
    api.cluster.change(other, reason="waits for GPUs: 3 more would do")
    page = browser.get("/").text
    running, _, waiting = page.partition('<h2 id="waiting">')
    assert "resnet" in running
    assert "waits for GPUs: 3 more would do" in waiting
    assert page.count('class="g-job c') == 2, "one tile for each GPU that it holds"
    assert f'title="GPU 0 of n1: job {job}"' in page
    assert "no right to set clocks on n2" in page
    assert "−20\u202f%" in page, "9e8 J became 7.2e8 J in the simulation"
    assert "Modelled, not metered" in page


def test_without_the_live_page_s_script_the_page_says_so_and_is_whole(
    browser: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an installation that could not reach npm's registry."""
    found = {name: asset for name, asset in assets().items() if not name.startswith("live.")}
    monkeypatch.setattr("powerflow.dashboard.render.assets", lambda: found)
    page = browser.get("/").text
    assert "This installation has no live view" in page
    assert "<script" not in page
    assert 'id="waiting"' in page


def test_a_page_is_in_the_language_that_the_browser_prefers(api: Api, browser: httpx.Client) -> None:
    page = browser.get("/", headers={"Accept-Language": "ja"}).text
    assert '<html lang="ja">' in page
    assert "待ち行列" in page


def test_a_job_that_does_not_exist_is_a_page_too(browser: httpx.Client) -> None:
    answer = browser.get("/jobs/77")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "there is no job 77" in answer.text


def test_a_store_that_fails_is_said_in_words(api: Api, browser: httpx.Client) -> None:
    api.cluster.broken = UNAVAILABLE
    answer = browser.get("/")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "the store is locked" in answer.text


def test_the_path_of_a_file_changes_with_its_content_and_needs_no_token(api: Api) -> None:
    page = api.http.get("/").text
    found = re.search(r'href="(/static/dashboard-[0-9a-f]{12}\.css)"', page)
    assert found is not None
    answer = api.http.get(found[1])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert "immutable" in answer.headers["cache-control"]
    problem(api.http.get("/static/dashboard-000000000000.css"), 401, "unauthenticated")
    problem(api.get("/static/dashboard-000000000000.css"), 404, "not-found")


def test_a_form_says_which_methods_it_has(api: Api) -> None:
    assert problem_page(api.get("/sign-out"), 405) == "POST"
    assert problem_page(api.post("/"), 405) == "GET, HEAD"


def problem_page(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status
    return answer.headers["allow"]


def test_head_answers_as_get_without_the_page(browser: httpx.Client) -> None:
    answer = browser.head("/")
    assert (answer.status_code, answer.content) == (200, b"")


def test_a_service_for_all_hosts_shows_the_form_under_any_name() -> None:
    with (
        ApiServer(service(FakeCluster(), hosts=None)) as server,
        httpx.Client(trust_env=False, verify=False, timeout=30) as http,
    ):
        assert http.get(server.url, headers={"Host": "cluster.example"}).status_code == 401
