"""The audit says who submitted, cancelled, held and released which job, and from where."""

from __future__ import annotations

import pytest

from powerflow.api.records import Caller, Forbidden, Refused, Role
from tests.gangs.bench import spec_of
from tests.live.controller_bench import Bench

ADA = Caller("ada", Role.USER, "192.0.2.1")
OPS = Caller("ops", Role.OPERATOR, "192.0.2.2 through 10.0.0.7")


def test_what_people_do_to_jobs_is_audited_once_each(bench: Bench) -> None:
    job, _ = bench.service.submit(spec_of(name="resnet", gpus=2), ADA, "key")
    bench.service.submit(spec_of(name="resnet", gpus=2), ADA, "key")
    bench.service.hold(job.id, OPS)
    bench.service.release(job.id, ADA)
    with pytest.raises(Forbidden):
        bench.service.cancel(job.id, Caller("mallory", Role.USER, "192.0.2.66"))
    bench.service.cancel(job.id, OPS)
    bench.service.cancel(job.id, OPS)
    said = [(entry.user, entry.address, entry.action, entry.target) for entry in bench.service.audit().items]
    assert said == [
        ("ada", "192.0.2.1", "job submitted", f"job {job.id}"),
        ("ops", "192.0.2.2 through 10.0.0.7", "job held", f"job {job.id}"),
        ("ada", "192.0.2.1", "job released", f"job {job.id}"),
        ("ops", "192.0.2.2 through 10.0.0.7", "job cancelled", f"job {job.id}"),
    ]
    first, *_, last = bench.service.audit().items
    assert first.fields == {"name": "resnet", "gpus": "2", "project": ""}
    assert last.fields == {"owner": "ada"}


def test_one_user_cannot_fill_the_queue_and_what_was_taken_is_still_known_by_its_key(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("powerflow.live.job_checks.MOST_ACTIVE", 2)
    for key in ("a", "b"):
        bench.service.submit(spec_of(), ADA, key)
    bench.turn()
    with pytest.raises(Refused, match="ada has 2 jobs that have not ended; cancel jobs"):
        bench.service.submit(spec_of(), ADA, "c")
    again, new = bench.service.submit(spec_of(), ADA, "b")
    assert (again.id, new) == ("2", False)
    bench.service.submit(spec_of(), OPS)
    bench.service.cancel("1", ADA)
    bench.turn()
    assert bench.service.submit(spec_of(), ADA, "c")[1]
