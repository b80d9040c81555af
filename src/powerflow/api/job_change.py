"""Change a job that was submitted before, as ``scontrol update`` does."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from powerflow.api.job_file import spec_from
from powerflow.api.job_spec import (
    Dependency,
    Energy,
    GpuRange,
    JobSpec,
    Name,
    Output,
    Part,
    Priority,
    ProcessLimits,
    TimeLimit,
    Work,
)
from powerflow.api.merge import merged

#: Keys that can be changed while a job runs: neither its processes nor its GPUs depend on them.
WHILE_RUNNING = frozenset({"time_limit", "retries"})
#: Number of a job.
JOB = r"^[1-9][0-9]{0,8}$"
#: Most jobs in one request.
MOST_JOBS = 1000
#: Units of keys, for the audit.
_UNITS = {"time_limit": "time_limit_s", "between_steps": "between_steps_s"}


class JobsOrder(Part):
    """Change the state of several jobs in one request."""

    jobs: tuple[Annotated[str, Field(pattern=JOB)], ...] = Field(min_length=1, max_length=MOST_JOBS, strict=False)
    to: Literal["cancelled", "held", "released"]


class JobChange(Part):
    """New values for keys of a job; keys that are not given stay as they are, null removes the value.

    What the script does, and how it is started, cannot be changed: cancel the job, and submit another.
    """

    name: Name | None = None
    gpus: GpuRange | None = None
    priority: Priority | None = None
    energy: Energy | None = None
    project: Name | None = None
    work: Work | None = None
    limits: ProcessLimits | None = None
    time_limit: TimeLimit | None = None
    output: Output | None = None
    retries: int | None = Field(default=None, ge=0, le=100)
    dependency: Dependency | None = None

    @property
    def may_run(self) -> bool:
        """True if a running job can be changed in this way."""
        return self.model_fields_set <= WHILE_RUNNING


def changed(spec: JobSpec, change: JobChange) -> JobSpec:
    """Return a job with a change.

    Raises:
        InputError: The job with this change is not valid. The message says why.
    """
    below = spec.model_dump(mode="json", by_alias=True)
    return spec_from(merged(below, change.model_dump(mode="json", by_alias=True, exclude_unset=True)))


def flat(change: JobChange) -> dict[str, Any]:
    """Return the new values by key, as the audit shows them."""
    given = change.model_dump(mode="json", exclude_unset=True) | ({"gpus": str(change.gpus)} if change.gpus else {})
    found: dict[str, Any] = {}
    for key, value in given.items():
        found |= value if isinstance(value, dict) else {key: value}
    return {_UNITS.get(key, key): value for key, value in found.items()}
