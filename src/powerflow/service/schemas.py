"""Define types that only the REST API needs: parts of paths and queries, and the answer of ``GET /health``."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Query
from pydantic import BaseModel, ConfigDict

from powerflow.api.governance import NAME
from powerflow.api.job_spec import JOB_NAME
from powerflow.api.pages import RecordFilter
from powerflow.api.records import JobState

JobId = Annotated[str, Path(pattern=r"^[0-9]{1,18}$", description="Number of a job.", examples=["12"])]
ShellId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$", description="Id of a shell.", examples=["3f0c9a5d27e1b846"])]
NodeName = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", description="Name of a node.", examples=["n1"])
]
CapNumber = Annotated[int, Path(ge=1, le=2**31)]
JobNameQuery = Annotated[
    str | None, Query(pattern=JOB_NAME, max_length=128, description="Only jobs to which their owners gave this name.")
]
NameQuery = Annotated[str | None, Query(pattern=NAME)]
AfterJob = Annotated[
    str | None, Query(pattern=r"^[1-9][0-9]{0,8}$", description="Value of `next` in the previous page.")
]
States = Annotated[list[JobState] | None, Query(description="Job states; all by default.")]
Completing = Annotated[
    bool, Query(description="With `state`: true for jobs whose processes are ending, too, whatever their state.")
]
Since = Annotated[float, Query(ge=0, le=1e11, description="Start of the window, in Unix seconds.")]
Until = Annotated[float | None, Query(ge=0, le=1e11, description="End of the window. Default: now.")]
LogRank = Annotated[str | None, Query(pattern=NAME, description="Name of a rank. Default: the first rank.")]
LogOffset = Annotated[int, Query(ge=-(2**53), le=2**53, description="First byte; negative: from the end.")]
LogLimit = Annotated[int, Query(ge=1, le=1 << 20, description="Bytes at most.")]
LogTail = Annotated[int | None, Query(ge=0, le=10**9, description="Begin so many lines before the end.")]
LogSince = Annotated[
    float | None, Query(ge=0, le=1e11, description="Begin with the output since this time, in Unix seconds.")
]
AfterNumber = Annotated[int, Query(ge=0, le=2**62, description="Number of the last item that the caller has.")]
Latest = Annotated[bool, Query(description="True for the last items, not the first.")]
Clocks = Annotated[bool, Query(description="True for entries about GPU clocks, too.")]
_Moment = Annotated[float | None, Query(ge=0, le=1e11)]
_Kinds = Annotated[
    list[Annotated[str, Query(max_length=64)]] | None,
    Query(max_length=100, description="Kinds of events, or actions of the audit: whole names or first words."),
]


def selects(
    job: Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$", description="Only of this job.")] = None,
    user: Annotated[str | None, Query(pattern=NAME, description="Only of this user.")] = None,
    node: Annotated[str | None, Query(max_length=128, description="Only of this node.")] = None,
    kind: _Kinds = None,
    since_s: _Moment = None,
    until_s: _Moment = None,
) -> RecordFilter:
    """Read from a query which events, or entries of the audit, to list. Times are Unix seconds."""
    return RecordFilter(job_id=job, user=user, node=node, kinds=kind or (), since_s=since_s, until_s=until_s)


Only = Annotated[RecordFilter, Depends(selects)]
Limit = Annotated[int, Query(ge=1, le=1000)]


class Health(BaseModel):
    """Health of the controller. ``ok`` is True if its main loop runs; `ClusterApi.healthy` has further fields."""

    model_config = ConfigDict(extra="allow")

    ok: bool
    version: str
