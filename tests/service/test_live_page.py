"""The stream of the live page, over real connections: whole at first, then changes, and right after any loss."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from powerflow.service import live_page
from tests.dashboard.test_wire import applied
from tests.service.fake_cluster import UNAVAILABLE
from tests.service.serving import Api, problem


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_page, "EVERY_S", 0.01)
    monkeypatch.setattr(live_page, "LEAST_REST", 0.0)


@dataclass
class Heard:
    kind: str
    id: str
    data: Any


@contextmanager
def listening(api: Api, after: str = "", role: str = "viewer", **headers: str) -> Iterator[Iterator[Heard]]:
    cookie = {"Cookie": f"powerflow-{api.http.base_url.port}=pf_{role}", "Sec-Fetch-Site": "same-origin", **headers}
    with api.http.stream("GET", "/live", params={"after": after} if after else {}, headers=cookie) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield _events(answer)


def _events(answer: httpx.Response) -> Iterator[Heard]:
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif "data" in fields:
            yield Heard(fields["event"], fields.get("id", ""), json.loads(fields["data"]))
            fields = {}


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_a_job_that_starts_is_in_the_changes_and_they_add_up_to_the_whole(api: Api, encoding: str) -> None:
    job = api.submit()
    with listening(api, **{"Accept-Encoding": encoding}) as events:
        first = next(events)
        assert first.kind == "state"
        assert first.data["waiting"]["order"] == [job]
        api.cluster.run(job, gpus=2)
        state = first.data
        while not state["running"]["order"]:
            change = next(events)
            assert change.kind == "change"
            assert "words" not in change.data, "only what has changed"
            state = applied(state, change.data)
    assert state["nodes"]["n1"]["jobs"] == [job, job, "", ""]
    with listening(api) as events:
        whole = next(events).data
    assert {**whole, "time_s": 0} == {**state, "time_s": 0}


def test_who_comes_back_gets_what_has_changed_since_also_by_the_header_of_browsers(api: Api) -> None:
    with listening(api) as events:
        first = next(events)
    api.cluster.now_s += 2
    job = api.submit()
    for back in ({"after": first.id}, {"Last-Event-ID": first.id}):
        with listening(api, **back) as events:
            change = next(events)
        assert (change.kind, change.data["waiting"]["order"]) == ("change", [job])
        assert "nodes" not in change.data


@pytest.mark.parametrize("after", ["0a0a0a0a-1", "nonsense", "-", "0" * 300])
def test_who_comes_back_to_another_controller_gets_everything(api: Api, after: str) -> None:
    with listening(api, after) as events:
        assert next(events).kind == "state"


def test_who_was_away_for_long_gets_everything(api: Api) -> None:
    with listening(api) as events:
        first = next(events)
        for _ in range(live_page.KEPT + 1):
            api.cluster.now_s += 1
            next(events)
    with listening(api, first.id) as events:
        assert next(events).kind == "state"


def test_trouble_of_the_controller_is_told_and_the_stream_goes_on(api: Api) -> None:
    with listening(api) as events:
        next(events)
        api.cluster.broken = UNAVAILABLE
        told = next(event for event in events if event.kind == "trouble")
        assert told.data == "the store is locked"
        api.cluster.broken = None
        assert next(event for event in events if event.kind != "trouble").kind == "change"


def test_nobody_hears_anything_and_a_page_of_another_site_neither(api: Api) -> None:
    problem(api.http.get("/live"), 401, "unauthenticated")
    cookie = {"Cookie": f"powerflow-{api.http.base_url.port}=pf_viewer", "Sec-Fetch-Site": "same-site"}
    problem(api.http.get("/live", headers=cookie), 403, "forbidden")


def test_the_stream_speaks_the_language_of_the_browser(api: Api) -> None:
    with listening(api, **{"Accept-Language": "ja"}) as events:
        assert next(events).data["words"]["running"] == "実行中のジョブ"
