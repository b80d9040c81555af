"""Say in one word how a job stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from powerflow.api.records import JobRecord


def state_word(job: JobRecord) -> str:
    """Return the state of a job as it is shown: while its processes are ending, it is completing (as for Slurm)."""
    return "completing" if job.completing else job.state.value
