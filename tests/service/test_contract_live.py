"""The real service keeps what its OpenAPI document promises: a real cluster, loop and store over a fake engine.

What `test_contract` asks of a fake cluster is asked here of everything up to the processes: the loop takes a turn after
each request that changes something, so that what was asked for is done, and the next answer tells of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis.pytest
from hypothesis import settings
from schemathesis import BaseSchema, Case
from schemathesis.config import SchemathesisConfig
from schemathesis.openapi import from_asgi
from schemathesis.specs.openapi.checks import positive_data_acceptance

from powerflow.api.governance import BudgetOrder, CapOrder, SignalOrder
from powerflow.api.records import JobState
from powerflow.engine.protocol import RankSpec
from powerflow.errors import InputError
from powerflow.service.app import OPENAPI
from tests.gangs.fake_engine import Player, Script
from tests.live.controller_bench import ADA, ROOT, Bench
from tests.service.serving import bearer, service
from tests.service.test_contract import BEYOND, BOUNDED

#: What no schema allows is refused before it comes to the cluster: `test_contract` asks that.
VALID = SchemathesisConfig.from_dict({"generation": {"mode": "positive"}})


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr("powerflow.live.governance.signals.poll", _nobody_there)
    busy = _busy(Bench(tmp_path, energy_price=0.001))
    yield busy
    busy.close()


@pytest.fixture
def api(bench: Bench, nodeid: None) -> BaseSchema:
    app = service(bench.service)
    app.state.stopping = True  # as while it shuts down: who waits for events is answered at once
    return from_asgi(OPENAPI, app, config=VALID)


def _nobody_there(url: str, *_: Any, **__: Any) -> Any:
    raise InputError("does not answer", where=url)


def _busy(bench: Bench) -> Bench:
    """Jobs of all kinds, 12 and those before it among them, which the document names: in every state, with rules."""
    fake_rank, failing = bench.engine.play, iter([Script(2, 1, line="boom\n")])

    def play(spec: RankSpec) -> Player:
        if bench.job(spec.name.gang).spec.rescale == "in-place":
            return fake_rank(spec)
        return next(failing, None) or Script(20, line="step {turn}\n")

    bench.engine.play = play
    failed = bench.submit(rescale="none", retries=0)
    bench.until_state(failed, JobState.FAILED)
    for rescale in ("in-place", "none", "restart", "in-place"):
        bench.submit(rescale=rescale, project="vision")
    bench.turn(40)
    bench.steps_total = 10_000
    held = bench.submit()
    bench.service.hold(held, ADA)
    for number in range(7):
        bench.submit(gpus=1 + number % 2, project="vision" if number % 2 else "")
    bench.service.set_budget(BudgetOrder(1e9, "day", "UTC", "", sure=True), ROOT)
    bench.service.set_cap(CapOrder(watts=60e3), ROOT)
    bench.service.set_signal(SignalOrder("tariff", constant=0.3), ROOT)
    bench.turn(20)
    return bench


@schemathesis.pytest.from_fixture("api").parametrize()
@settings(BOUNDED, max_examples=1)
def test_every_answer_of_the_real_desk_is_as_documented(case: Case[Any], bench: Bench) -> None:
    beyond: list[Any] = [*BEYOND.get(case.operation.label, [])]
    if case.operation.label == "POST /api/v1/caps/lift":  # a scope is one of those there are
        beyond.append(positive_data_acceptance)
    answer = case.call_and_validate(headers=bearer("operator"), excluded_checks=beyond)
    if case.method != "GET" and answer.status_code < 400:
        bench.turn()
