"""Define the routes by which users submit, change and watch jobs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from powerflow.api import operations as ops
from powerflow.api.accounts import EndedJob
from powerflow.api.bulk_answer import JobsChanged
from powerflow.api.decisions import DecisionRecord, Explanation
from powerflow.api.job_change import JobChange, JobsOrder
from powerflow.api.job_detail import JobDetail
from powerflow.api.job_spec import JobSpec
from powerflow.api.logs import JobLogs, LogChunk
from powerflow.api.operations import PREFIX
from powerflow.api.pages import JobFilter, NumberedPage, Page
from powerflow.api.records import JobRecord, Role
from powerflow.service.routes import FromCaller, FromCluster, serves, window_end
from powerflow.service.schemas import (
    AfterJob,
    AfterNumber,
    Completing,
    JobId,
    JobNameQuery,
    Limit,
    LogLimit,
    LogOffset,
    LogRank,
    LogSince,
    LogTail,
    NameQuery,
    Since,
    States,
    Until,
)

_HIDDEN = "(hidden)"


@cache
def job_routes() -> APIRouter:
    """Return the routes for jobs, their history and their logs."""
    router = APIRouter()

    @serves(router, ops.SUBMIT, body=True, repeatable=True)
    def submit(
        cluster: FromCluster,
        spec: JobSpec,
        caller: FromCaller,
        response: Response,
        key: Annotated[
            str | None,
            Header(
                alias="Idempotency-Key",
                pattern=r"^[!-~]{1,255}$",
                description="Marks a repeated request, which then returns the same job with status 200.",
            ),
        ] = None,
    ) -> JobRecord:
        """Submit a job. It belongs to the user of the token.

        A request with the same `Idempotency-Key` can be repeated: the job is not submitted again.
        """
        record, new = cluster.submit(spec, caller, key)
        response.status_code = 201 if new else 200
        response.headers["Location"] = f"{PREFIX}/jobs/{record.id}"
        return record

    @serves(router, ops.JOBS)
    def jobs(
        cluster: FromCluster,
        request: Request,
        response: Response,
        state: States = None,
        completing: Completing = False,
        user: NameQuery = None,
        project: NameQuery = None,
        name: JobNameQuery = None,
        after: AfterJob = None,
        limit: Limit = 100,
    ) -> Page[JobRecord]:
        only = JobFilter(states=state or (), completing=completing, user=user, project=project, name=name)
        page = cluster.jobs(only, after=after, limit=limit)
        _link(page, request, response)
        return page

    @serves(router, ops.HISTORY)
    def history(
        cluster: FromCluster,
        request: Request,
        response: Response,
        since_s: Since = 0.0,
        until_s: Until = None,
        state: States = None,
        user: NameQuery = None,
        project: NameQuery = None,
        after: AfterJob = None,
        limit: Limit = 100,
    ) -> Page[EndedJob]:
        only = JobFilter(states=state or (), user=user, project=project)
        page = cluster.history(since_s, window_end(since_s, until_s), only, after=after, limit=limit)
        _link(page, request, response)
        return page

    @serves(router, ops.JOB)
    def job(cluster: FromCluster, job_id: JobId, caller: FromCaller) -> JobDetail:
        """Show one job. Only the job's owner and operators see the values of its environment variables."""
        detail = cluster.job(job_id)
        if caller.role is Role.OPERATOR or caller.user == detail.record.user:
            return detail
        hidden = dict.fromkeys(detail.spec.env, _HIDDEN)
        return replace(detail, spec=detail.spec.model_copy(update={"env": hidden}))

    @serves(router, ops.CANCEL)
    def cancel(cluster: FromCluster, job_id: JobId, caller: FromCaller) -> JobRecord:
        return cluster.cancel(job_id, caller)

    @serves(router, ops.CHANGE_JOBS, body=True)
    def change_jobs(cluster: FromCluster, order: JobsOrder, caller: FromCaller) -> JobsChanged:
        return cluster.change_jobs(order, caller)

    @serves(router, ops.UPDATE, body=True)
    def update(cluster: FromCluster, job_id: JobId, change: JobChange, caller: FromCaller) -> JobRecord:
        return cluster.update(job_id, change, caller)

    @serves(router, ops.HOLD)
    def hold(cluster: FromCluster, job_id: JobId, caller: FromCaller) -> JobRecord:
        return cluster.hold(job_id, caller)

    @serves(router, ops.RELEASE)
    def release(cluster: FromCluster, job_id: JobId, caller: FromCaller) -> JobRecord:
        return cluster.release(job_id, caller)

    @serves(router, ops.EXPLAIN)
    def explain(cluster: FromCluster, job_id: JobId) -> Explanation:
        return cluster.explain(job_id)

    @serves(router, ops.DECISIONS)
    def decisions(
        cluster: FromCluster, job_id: JobId, after: AfterNumber = 0, limit: Limit = 100
    ) -> NumberedPage[DecisionRecord]:
        return cluster.decisions(job_id, after=after, limit=limit)

    @serves(router, ops.LOGS)
    def logs(cluster: FromCluster, job_id: JobId) -> JobLogs:
        return cluster.logs(job_id)

    @serves(router, ops.LOG, asks_node=True)
    def log(
        cluster: FromCluster,
        job_id: JobId,
        rank: LogRank = None,
        offset: LogOffset = 0,
        limit: LogLimit = 65536,
        tail: LogTail = None,
        since_s: LogSince = None,
    ) -> LogChunk:
        return cluster.log(job_id, rank=rank, offset=offset, limit=limit, tail=tail, since_s=since_s)

    return router


def _link(page: Page[Any], request: Request, response: Response) -> None:
    """Name the next page in a header, if there is one."""
    if page.next is not None:
        following = request.url.include_query_params(after=page.next)
        response.headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
