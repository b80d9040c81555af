"""A job as tests of the store submit it."""

from __future__ import annotations

from powerflow.api.job_file import spec_from
from powerflow.api.job_spec import JobSpec
from powerflow.store.store import Store

SPEC = spec_from(
    {"run": "python train.py", "gpus": "1..4", "rescale": "restart", "project": "vision", "work": {"iterations": 500}}
)


PLAIN = JobSpec(run="sleep 1")


def submit(store: Store, count: int = 1, user: str = "ada") -> list[str]:
    return [store.submit(PLAIN, user, 1.0)[0].id for _ in range(count)]
