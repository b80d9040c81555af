"""Define the record of one job with everything that is known about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from powerflow.api.job_spec import JobSpec
from powerflow.api.records import JobRecord


@dataclass(frozen=True, slots=True)
class JobDetail:
    """One job with everything that is known about it.

    Attributes:
        record: The job as a list of jobs shows it.
        spec: The job as its user submitted it.
        gpus_held: Numbers of the job's GPUs in each node, by the node's name.
        ranks: The job's processes whose logs are kept, running ones first: name, state, node, pid, exit code; phase,
            step and generation if the process reports them; ``out_of_memory`` if the kernel killed it for that.
        last_lines: The last lines of the job's log, if it failed.
    """

    record: JobRecord
    spec: JobSpec
    gpus_held: Mapping[str, Sequence[int]] = field(default_factory=dict)
    ranks: Sequence[Mapping[str, Any]] = ()
    last_lines: Sequence[str] = ()
