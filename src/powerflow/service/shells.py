"""Define the routes by which users run commands beside the ranks of their jobs.

Requests for output and with input may wait for the command. No thread waits for it.
"""

from __future__ import annotations

import re
import time
from functools import cache
from typing import Annotated

from fastapi import APIRouter, Query, Request

from powerflow.api import operations as ops
from powerflow.api.operations import PREFIX
from powerflow.api.shells import ShellInput, ShellOrder, ShellPiece, ShellRecord, ShellSize, ShellTaken
from powerflow.service.routes import FromCaller, FromCluster, serves
from powerflow.service.schemas import AfterNumber, JobId, ShellId

#: Paths of requests that may wait for a command.
WAITING = re.compile(rf"{PREFIX}/jobs/[^/]+/shells/[^/]+/(?:output|input)")
#: Seconds between two looks whether the client is still there.
_LOOK_S = 1.0


@cache
def shell_routes() -> APIRouter:
    """Return the routes for shells."""
    router = APIRouter()

    @serves(router, ops.OPEN_SHELL, body=True, asks_node=True)
    async def open_shell(cluster: FromCluster, job_id: JobId, order: ShellOrder, caller: FromCaller) -> ShellRecord:
        return await cluster.open_shell(job_id, order, caller)

    @serves(router, ops.SHELL_OUTPUT, asks_node=True)
    async def shell_output(
        cluster: FromCluster,
        request: Request,
        job_id: JobId,
        shell: ShellId,
        caller: FromCaller,
        after: AfterNumber = 0,
        wait_s: Annotated[float, Query(ge=0, le=30, description="Seconds to wait if there is no output yet.")] = 0.0,
    ) -> ShellPiece:
        until = time.monotonic() + wait_s
        while True:
            left_s = 0.0 if request.app.state.stopping else max(0.0, until - time.monotonic())
            look_s = min(left_s, _LOOK_S)
            piece = await cluster.shell_output(job_id, shell, caller, after=after, wait_s=look_s)
            if piece.number != after or look_s == left_s or await request.is_disconnected():
                return piece

    @serves(router, ops.SHELL_INPUT, body=True, asks_node=True)
    async def shell_input(
        cluster: FromCluster, job_id: JobId, shell: ShellId, given: ShellInput, caller: FromCaller
    ) -> ShellTaken:
        return await cluster.shell_input(job_id, shell, given, caller)

    @serves(router, ops.RESIZE_SHELL, body=True, asks_node=True)
    async def resize_shell(
        cluster: FromCluster, job_id: JobId, shell: ShellId, size: ShellSize, caller: FromCaller
    ) -> ShellRecord:
        return await cluster.resize_shell(job_id, shell, size, caller)

    @serves(router, ops.CLOSE_SHELL)
    async def close_shell(cluster: FromCluster, job_id: JobId, shell: ShellId, caller: FromCaller) -> ShellRecord:
        return await cluster.close_shell(job_id, shell, caller)

    return router
