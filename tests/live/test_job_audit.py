"""The audit says who submitted, cancelled, held and released which job, and from where."""

from __future__ import annotations

import pytest

from powerflow.live.records import Caller, Forbidden, Role
from tests.live.controller_bench import Bench
from tests.live.gang_bench import spec_of

ADA = Caller("ada", Role.USER, "192.0.2.1")
OPS = Caller("ops", Role.OPERATOR, "192.0.2.2 through 10.0.0.7")


def test_what_people_do_to_jobs_is_audited_once_each(bench: Bench) -> None:
    job, _ = bench.desk.submit(spec_of(name="resnet", gpus=2), ADA, "key")
    bench.desk.submit(spec_of(name="resnet", gpus=2), ADA, "key")
    bench.desk.hold(job.id, OPS)
    bench.desk.release(job.id, ADA)
    with pytest.raises(Forbidden):
        bench.desk.cancel(job.id, Caller("mallory", Role.USER, "192.0.2.66"))
    bench.desk.cancel(job.id, OPS)
    bench.desk.cancel(job.id, OPS)
    said = [(entry.user, entry.address, entry.action, entry.target) for entry in bench.desk.audit().items]
    assert said == [
        ("ada", "192.0.2.1", "job submitted", f"job {job.id}"),
        ("ops", "192.0.2.2 through 10.0.0.7", "job held", f"job {job.id}"),
        ("ada", "192.0.2.1", "job released", f"job {job.id}"),
        ("ops", "192.0.2.2 through 10.0.0.7", "job cancelled", f"job {job.id}"),
    ]
    first, *_, last = bench.desk.audit().items
    assert first.fields == {"name": "resnet", "gpus": "2", "project": ""}
    assert last.fields == {"owner": "ada"}
