"""Carry out requests of the API in the controller's loop.

The API writes to the store first and then sends a command. If a controller ends before it has carried out a command,
the next controller reads the same request from the store.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass
from typing import assert_never

from powerflow.api.external import ExternalEnd, ExternalJob
from powerflow.api.records import NotFound
from powerflow.live.context import LoopContext
from powerflow.live.external_jobs import ExternalJobs
from powerflow.live.gang_events import GangEvents
from powerflow.live.governance.step import GovernanceStep
from powerflow.live.gpu_service import GpuService
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.measurement import Measurement
from powerflow.live.node_watch import NodeWatch

#: Commands carried out in one turn; the rest waits for the next, which comes at once.
COMMANDS_AT_ONCE = 500


@dataclass(frozen=True)
class _OfJob:
    job_id: str


class JobSubmitted(_OfJob):
    """Tell the controller's loop that a job was submitted."""


class JobEnded(_OfJob):
    """Tell the controller's loop that a job was cancelled."""


class JobChanged(_OfJob):
    """Tell the controller's loop that the specification of a job was changed."""


class JobHeld(_OfJob):
    """Tell the controller's loop that a job must not run until it is released."""


class JobReleased(_OfJob):
    """Tell the controller's loop that a held job may run again."""


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """Tell the controller's loop that a node was drained, or resumed."""

    node: str
    drained: bool


@dataclass(frozen=True, slots=True)
class NodeDeclaredOff:
    """Tell the controller's loop that an operator says that a node is off."""

    node: str


@dataclass(frozen=True, slots=True)
class CapsChanged:
    """Tell the controller's loop that a power cap was set or lifted."""


@dataclass(frozen=True, slots=True)
class StagesChanged:
    """Tell the controller's loop that the rollout stage of some projects was set."""


@dataclass(frozen=True, slots=True)
class SharesChanged:
    """Tell the controller's loop that the share of a project was set."""


@dataclass(frozen=True, slots=True)
class ExternalSeen:
    """Tell the controller's loop that another scheduler runs a job, and on which GPUs."""

    job_id: str
    job: ExternalJob


@dataclass(frozen=True, slots=True)
class ExternalEnded:
    """Tell the controller's loop that a job of another scheduler has ended."""

    job_id: str
    end: ExternalEnd


ApiCommand = (
    JobSubmitted
    | JobEnded
    | JobChanged
    | JobHeld
    | JobReleased
    | NodeChanged
    | NodeDeclaredOff
    | CapsChanged
    | StagesChanged
    | SharesChanged
    | ExternalSeen
    | ExternalEnded
)


class ApiCommands:
    """Pass commands of the API to one controller.

    Any thread may call `put`; only the controller's loop may call the rest.
    """

    def __init__(
        self,
        context: LoopContext,
        nodes: NodeWatch,
        gpu_service: GpuService,
        governance: GovernanceStep,
        measurement: Measurement,
        gang_events: GangEvents,
        external: ExternalJobs,
    ) -> None:
        self._external = external
        self._table, self._store, self._nodes, self._gpu_service = context.table, context.store, nodes, gpu_service
        self._governance, self._measurement, self._gang_events = governance, measurement, gang_events
        self._waiting: deque[ApiCommand] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, command: ApiCommand) -> None:
        """Add a command for the loop. Write the request to the store before this call."""
        self._waiting.append(command)

    def take_all(self, now_s: float) -> None:
        """Carry out waiting commands, at most `COMMANDS_AT_ONCE` of them.

        Raises:
            StoreError: The store cannot be used. The command that failed is carried out at the next call.
        """
        for _ in range(min(len(self._waiting), COMMANDS_AT_ONCE)):
            self.carry_out(self._waiting[0], now_s)
            self._waiting.popleft()

    def carry_out(self, command: ApiCommand, now_s: float) -> None:
        """Carry out one command. A command about a job that is not active any more is ignored."""
        match command:
            case JobSubmitted(job_id):
                if job_id not in self._table.jobs and not (stored := self._store.job(job_id)).state.ended:
                    self._table.enter(stored)
            case JobEnded() | JobChanged() | JobHeld() | JobReleased():
                if job := self._table.jobs.get(command.job_id):
                    self._carry_out_on(job, command)
                elif isinstance(command, JobEnded) and command.job_id not in self._table.completing:
                    self._complete(command.job_id)
            case NodeChanged(node, drained):
                self._change(node, drained)
            case NodeDeclaredOff(node):
                self._nodes.declare_off(node)
            case CapsChanged():
                self._table.emit(self._measurement.metered(), *self._governance.caps_news(now_s))
            case StagesChanged():
                self._governance.stages_changed()
            case SharesChanged():
                self._governance.shares_changed()
            case ExternalSeen(job_id, seen):
                self._external.seen(job_id, seen)
            case ExternalEnded(job_id, end):
                self._external.ended(job_id, end, now_s)
            case _:
                assert_never(command)

    def _carry_out_on(self, job: ActiveJob, command: JobEnded | JobChanged | JobHeld | JobReleased) -> None:
        match command:
            case JobEnded():
                self._gang_events.stop(job)
            case JobChanged():
                self._table.change(job, self._store.job(job.id).spec)
            case JobHeld():
                if not job.held:
                    self._table.hold(job)
            case JobReleased():
                if job.held:
                    self._table.release(job)

    def _complete(self, job_id: str) -> None:
        """Note when the processes of a job have ended that was cancelled before the loop has heard of it."""
        with contextlib.suppress(NotFound):
            if (stored := self._store.job(job_id)).completing:
                self._table.adopt_completing(stored, 0)

    def _change(self, node: str, drained: bool) -> None:
        if drained:
            self._nodes.drain(node)
        else:
            self._gpu_service.pardon(node)
            self._nodes.resume(node)
