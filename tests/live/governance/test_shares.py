"""Shares of projects: set by an operator, kept over a restart, and seen where fair share acts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from powerflow.api.governance import ShareOrder
from tests.live.controller_bench import ROOT, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, explore_steps=0)
    yield bench
    bench.close()


def test_gpus_are_divided_by_shares_also_after_a_restart(bench: Bench) -> None:
    record = bench.service.set_share(ShareOrder("vision", 3.0), ROOT)
    assert (record.project, record.share, record.by) == ("vision", 3.0, "root")
    bench.restart()
    assert [(each.project, each.share) for each in bench.service.shares()] == [("vision", 3.0)]
    bench.steps_total = 10_000
    jobs = {project: [bench.submit(project=project, gpus=1) for _ in range(8)] for project in ("vision", "speech")}
    bench.turn(5)
    held = {name: sum(bench.controller.jobs[job].gpus for job in ids) for name, ids in jobs.items()}
    assert held == {"vision": 6, "speech": 2}
    waiting = next(job for job in jobs["speech"] if not bench.controller.jobs[job].gpus)
    for job, told in ((jobs["vision"][0], (3.0, 6)), (waiting, (1.0, 2))):
        said = bench.service.explain(job)
        assert (said.fair_share, said.due_gpus) == told
    accounts = bench.service.accounts(since_s=0.0, until_s=bench.controller.clock(), by="project").items
    assert {account.name: account.fair_share for account in accounts} == {
        "vision": 3.0,
        "speech": 1.0,
        "idle": None,
        "total": None,
    }
    entries = [(entry.target, entry.fields) for entry in bench.service.audit().items if entry.action == "share set"]
    assert entries == [("vision", {"share": 3.0})]


def test_without_shares_accounts_say_nothing_of_them(bench: Bench) -> None:
    bench.submit(project="vision")
    bench.turn(3)
    accounts = bench.service.accounts(since_s=0.0, until_s=bench.controller.clock(), by="project").items
    assert [account.fair_share for account in accounts] == [None] * len(accounts)


def test_a_share_that_changes_moves_gpus(bench: Bench) -> None:
    bench.steps_total = 10_000
    jobs = {project: [bench.submit(project=project, gpus=1) for _ in range(8)] for project in ("vision", "speech")}
    bench.turn(5)

    def held(project: str) -> int:
        return sum(bench.controller.jobs[job].gpus for job in jobs[project])

    assert (held("vision"), held("speech")) == (4, 4)
    bench.service.set_share(ShareOrder("speech", 3.0), ROOT)
    bench.turn(400)
    assert (held("vision"), held("speech")) == (2, 6)
