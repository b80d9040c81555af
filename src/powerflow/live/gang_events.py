"""Record the events of ranks in the store and the job table: progress, measurements, completion, failure."""

from __future__ import annotations

import contextlib
from collections import deque

from powerflow.api.external import ExternalEnd
from powerflow.api.records import JobState, Refused
from powerflow.device.protocol import DeviceError
from powerflow.engine.protocol import EngineError
from powerflow.gangs.manager import DEFECT_CHARS
from powerflow.gangs.types import (
    Continued,
    GangCompleted,
    GangEvent,
    GangFailed,
    Hung,
    Noted,
    Progressed,
    RankLost,
    Rescaled,
    Started,
    Vacated,
    backoff_s,
)
from powerflow.live.context import LoopContext
from powerflow.live.governance.step import GovernanceStep
from powerflow.live.gpu_service import GpuService
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.measurement import Measurement
from powerflow.live.node_watch import NodeWatch
from powerflow.live.step_learning import StepLearning
from powerflow.scheduler import events as scheduler_events
from powerflow.scheduler.plan import gpus_said, nodes_said
from powerflow.store.database import StoreError
from powerflow.store.models import Placement
from powerflow.units import duration

#: Setting in the store: how long each class paused for a rescale.
PAUSES = "pauses"
#: What was noted at most this much later was noted at once, seconds.
LATE_S = 5.0
#: Most events handled in one turn, so that one job cannot block the loop.
EVENTS_AT_ONCE = 2000


class GangEvents:
    """Handle the events of all gangs, one by one. Only the controller's loop may use it.

    If an event cannot be stored, this event and all later events wait for the next turn.

    Args:
        step_learning: Learns from the steps that ranks report.
    """

    def __init__(
        self,
        context: LoopContext,
        nodes: NodeWatch,
        gpu_service: GpuService,
        governance: GovernanceStep,
        measurement: Measurement,
        step_learning: StepLearning,
    ) -> None:
        self._gangs, self._table, self._store = context.gangs, context.table, context.store
        self._learning, self._power, self._scheduler = context.learning, context.power, context.scheduler
        self._nodes, self._gpu_service, self._governance = nodes, gpu_service, governance
        self._measurement, self._step_learning, self._log = measurement, step_learning, context.log
        self._waiting: deque[GangEvent] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def poll(self) -> None:
        """Let every gang take its next actions, and keep the events of the gangs for `take_all`."""
        self._waiting.extend(self._gangs.poll())

    def take_all(self, now_s: float) -> None:
        """Handle waiting events, at most `EVENTS_AT_ONCE` of them.

        If a defect of PowerFlow makes an event fail, only the job of this event fails ("internal: …").

        Raises:
            StoreError: The store cannot be written. The event that failed is handled again at the next call.
        """
        for _ in range(min(len(self._waiting), EVENTS_AT_ONCE)):
            event = self._waiting[0]
            job = self._table.jobs.get(event.job_id)
            if job is not None:
                try:
                    self._handle(event, job, now_s)
                except Refused:  # it was cancelled in the store a moment ago
                    self.stop(job)
                except (StoreError, EngineError, DeviceError, OSError):
                    raise  # no fault of the job's
                except Exception as error:
                    self._break_off(job, error, now_s)
            self._waiting.popleft()

    def stop(self, job: ActiveJob) -> None:
        """End all ranks of a job that has its final state in the store. The job is completing until they have ended."""
        self._table.write_down(job)
        self._governance.save()  # its last decision, so that what has ended is known as a whole
        self._table.withdraw(job)
        self._gangs.kill(job.id)
        self._governance.dropped(job)
        self._table.complete(job)

    def ended_outside(self, job: ActiveJob, end: ExternalEnd, now_s: float) -> None:
        """Note the end of a job that another scheduler runs, and give its GPUs back."""
        if end.state is JobState.COMPLETED:
            self._complete(job, end.text, end.ended_s, end.text, now_s)
            self._gangs.kill(job.id)
        else:
            self._store.move(job.id, end.state, now_s, exit=end.text, reason=end.text, ended_s=end.ended_s)
            self.stop(job)

    def finish(self, now_s: float) -> None:
        """Store when the last process ended of those completing jobs that have no process any more.

        Raises:
            StoreError: The store cannot be written. The next call continues.
        """
        holding = set(self._gangs.holding().values())
        over = [job for job in self._table.completing.values() if job.id not in holding]
        if over:
            self._measurement.settle(now_s)
        for job in over:
            self._table.write_down(job)
            self._store.finish(job.id, self._end_s(job, now_s), now_s)
            self._table.completed(job)

    def _end_s(self, job: ActiveJob, now_s: float) -> float:
        """Return when the last process of a job ended, which may be earlier than its end was noted."""
        found_s = self._gangs.last_end_s(job.id)
        begun_s = job.submitted_s if job.started_s is None else job.started_s
        return now_s if found_s is None else min(max(found_s, begun_s), now_s)

    def _break_off(self, job: ActiveJob, error: Exception, now_s: float) -> None:
        self._log.error("a defect ended a job", job=job.id, exc_info=error)
        text = f"internal: {type(error).__name__}: {error}"[:DEFECT_CHARS]
        with contextlib.suppress(Refused):  # it has ended meanwhile
            self._store.move(job.id, JobState.FAILED, now_s, exit=text, reason=text, processes=None)
        self.stop(job)

    def _handle(self, event: GangEvent, job: ActiveJob, now_s: float) -> None:
        match event:
            case Progressed():
                self._progressed(event, job, now_s)
            case Started():
                self._started(job, now_s)
            case Rescaled():
                self._rescaled(event, job, now_s)
            case Continued():
                self._continued(event, job, now_s)
            case RankLost() | Hung():
                text = event.reason if isinstance(event, RankLost) else f"rank {event.rank} {event.what} and was ended"
                self._store.append("rank lost", text, now_s, job.id, rank=event.rank)
            case Noted():
                self._store.append(event.kind, event.text, now_s, job.id)
            case Vacated():
                job.stopped()
                if event.steps_safe is not None and not job.placement and event.steps_safe < job.steps:
                    job.progressed(float(event.steps_safe))
                    if job.known:
                        self._table.emit(scheduler_events.Failed(job.id, retry=True, done=job.steps))
            case GangCompleted():
                self._completed(event, job, now_s)
            case GangFailed():
                self._failed(event, job, now_s)

    def _started(self, job: ActiveJob, now_s: float) -> None:
        before = job.started(now_s)
        self._table.changed(job)
        if before:
            text = f"from {before} to {gpus_said(job.gpus)} when it started again"
            self._store.append("rescaled", text, now_s, job.id, gpus=job.gpus)

    def _rescaled(self, event: Rescaled, job: ActiveJob, now_s: float) -> None:
        before = job.rescaled(event.gpus_before, event.gpus)
        if event.gpus != event.gpus_before:
            expected_s = self._learning.paused(job.kind.name, event.pause_s)
            self._store.put(PAUSES, self._learning.pauses_s)
            alike = [other for other in self._table.jobs.values() if other.known and other.kind.name == job.kind.name]
            self._table.emit(*(scheduler_events.PauseMeasured(other.id, expected_s) for other in alike))
        kind, text = _change_said(event, before, job.placement)
        self._store.append(kind, text, now_s, job.id, pause_s=event.pause_s, gpus=event.gpus)

    def _continued(self, event: Continued, job: ActiveJob, now_s: float) -> None:
        """Set the reason that tells what became of the steps that a script had done before it was launched again."""
        lost = max(0, round(job.steps) - event.step)
        if event.went_on:
            kind = "resumed"
            text = f"resumed at step {event.step}" + (f"; {lost} steps are repeated" if lost else "")
        else:
            kind = "began again"
            text = f"began again at step {event.step}, not from a checkpoint: {lost} steps are lost"
            job.began_again(text)
        self._store.append(kind, text, now_s, job.id, step=event.step, lost=lost)

    def _progressed(self, report: Progressed, job: ActiveJob, now_s: float) -> None:
        if report.step < job.steps and job.known:
            self._table.emit(scheduler_events.WorkLost(job.id, float(report.step)))
        total = float(report.steps_total) if report.steps_total else None
        if total and total != job.steps_total and job.known:
            self._table.emit(scheduler_events.SizeLearned(job.id, total))
        job.progressed(float(report.step), total)
        job.batched(report.local_batch, report.accumulation)
        self._table.changed(job)
        self._step_learning.stepped(report, job, now_s)

    def _completed(self, event: GangCompleted, job: ActiveJob, now_s: float) -> None:
        job.progressed(float(event.steps) if event.steps is not None else job.steps)
        text, ended_s = f"completed, but {event.note}" if event.note else "completed", self._end_s(job, now_s)
        self._complete(job, text, ended_s, _late(text, now_s - ended_s), now_s)

    def _complete(self, job: ActiveJob, text: str, ended_s: float, told: str, now_s: float) -> None:
        self._measurement.settle(now_s)
        self._table.write_down(job)
        self._governance.save()  # its last decision, so that what has ended is known as a whole
        self._store.move(job.id, JobState.COMPLETED, now_s, exit=text, reason=text, text=told, ended_s=ended_s)
        self._store.intents.retire(job.id)
        self._learning.completed(job.kind.name, job.steps)
        self._governance.completed(job, ended_s)
        if job.known:
            self._table.emit(scheduler_events.Completed(job.id, job.steps))
        self._table.drop(job)

    def _failed(self, event: GangFailed, job: ActiveJob, now_s: float) -> None:
        """Let a job that has failed start again.

        Let it fail for good after its last retry, or if it would fail in the same way again.
        """
        if event.epoch < job.epoch and not job.placement:
            return  # it was told to leave meanwhile
        placement = event.places or job.placement  # before `settle`, which takes away lost GPUs
        self._measurement.settle(now_s)
        node_lost = any(not self._nodes.answers(node) for node, _ in placement)
        place_lost = node_lost or self._gpu_service.failed_on(placement)
        excused = place_lost or event.excused
        spent = job.failures >= job.spec.retries and not excused
        if event.final or spent:
            if spent:
                job.failed(job.spec.retries + 1)  # a fixed number: if the store fails, this line runs again
            self._give_up(event, job, now_s)
            return
        failures = job.failures + (not excused)
        job.stopped()
        wait_s = 0.0 if excused else backoff_s(failures)
        kind = "requeued" if excused else "failure"
        told = event.text if excused else _late(event.text, now_s - self._end_s(job, now_s))
        self._store.append(kind, told, now_s, job.id, failures=failures, wait_s=wait_s)
        job.failed(failures, now_s + wait_s)
        if event.steps_safe is not None:
            job.progressed(float(event.steps_safe))
        self._table.withdraw(job)
        if event.excused:
            said = f"{event.text}: starts again; this does not count as a failure"
        else:
            again = "continues on other GPUs" if place_lost else f"retry {failures} of {job.spec.retries} follows"
            said = f"failed ({event.text}); {again}"
        self._table.vacate(job, said)

    def _give_up(self, event: GangFailed, job: ActiveJob, now_s: float) -> None:
        self._table.write_down(job)
        self._governance.save()  # its last decision, so that what has ended is known as a whole
        text, lines, ended_s = event.text, event.last_lines, self._end_s(job, now_s)
        told = _late(text, now_s - ended_s)
        self._store.move(
            job.id, JobState.FAILED, now_s, exit=text, reason=text, last_lines=lines, text=told, ended_s=ended_s
        )
        self._store.intents.retire(job.id)
        self._governance.dropped(job)
        if job.known:
            self._table.emit(scheduler_events.Failed(job.id, retry=False))
        self._table.drop(job)


def _late(text: str, by_s: float) -> str:
    """Add to the text of an event that it happened earlier, if this is some time ago."""
    return text if by_s < LATE_S else f"{text}; this was {duration(by_s)} before it was noted"


def _change_said(event: Rescaled, before: Placement, now: Placement) -> tuple[str, str]:
    """Return the kind of the event, and in words what has changed of a job's GPUs: their count, or where they are."""
    pause = f"{event.pause_s:.2f} s"
    if event.gpus != event.gpus_before:
        return "rescaled", f"from {event.gpus_before} to {gpus_said(event.gpus)} in {pause}"
    from_nodes, to_nodes = ([node for node, _ in placement] for placement in (before, now))
    if before in ((), now):
        return "recovered", f"trains on {gpus_said(event.gpus)} again after a pause of {pause}"
    if from_nodes == to_nodes:
        return "moved", f"to other GPUs of {nodes_said(to_nodes)} in {pause}"
    return "moved", f"from {nodes_said(from_nodes)} to {nodes_said(to_nodes)} in {pause}"
