"""The active jobs between two turns: what is known of each, and what the scheduler and the store are yet to be told."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace

from powerflow.api.records import Refused
from powerflow.live.gpus.gpus import Gpus
from powerflow.live.gpus.wanted import type_wanted
from powerflow.live.jobs.active_job import ActiveJob, entry_of
from powerflow.live.jobs.cost_learning import CostLearning, class_of
from powerflow.scheduler import events as scheduler_events
from powerflow.store.models import JobUpdate, Seen, StoredJob
from powerflow.store.store import Store


class JobTable:
    """All active jobs.

    Args:
        store: Where what is known of them outlives us.
        power: Has their charges.
        learning: What is believed of them.
        pause_s: What a rescale is taken to cost, by ``rescale``.

    Attributes:
        entries: By id.
        events: What the scheduler is to be told at the next decision.
        unstored: Jobs whose decision is not written down yet; True: their GPUs change, not only their clock.
        dirty: Jobs of which the store does not know the latest.
        seen: Measurements that are not stored yet.
        ended: Ids of ended jobs whose logs are kept, oldest first.
    """

    def __init__(self, store: Store, power: Gpus, learning: CostLearning, pause_s: Mapping[str, float]) -> None:
        self.entries: dict[str, ActiveJob] = {}
        self.events: list[scheduler_events.Event] = []
        self.unstored: dict[str, bool] = {}
        self.dirty: set[str] = set()
        self.seen: list[Seen] = []
        self.ended: deque[str] = deque()
        self._leaving: set[str] = set()
        self._store, self._power, self._learning, self._pause_s = store, power, learning, pause_s

    def enter(self, job: StoredJob) -> ActiveJob:
        """Take in a job that the store knows; the scheduler hears of it by `introduce`."""
        entry = entry_of(job, class_of(job.spec, job.user))
        self.entries[job.id] = entry
        if job.cost_class != entry.kind.name:
            self.dirty.add(job.id)
        return entry

    def introduce(self, entry: ActiveJob) -> None:
        """Tell the scheduler of a job, with what is known of its class and of the work that it has done."""
        if entry.id in self._leaving:  # what still runs of it is on its way out
            self._gone(entry.id)
        self.events += self._learning.expect(entry.kind)
        believed = entry.steps_total or self._learning.believed_steps(entry.spec, entry.kind.name)
        pause_s = self._learning.pauses_s.get(entry.kind.name, self._pause_s[entry.spec.rescale])
        job = entry.job(believed)
        with suppress(Refused):  # what was asked for is not here any more: the scheduler says so
            job = replace(job, gpu_type=type_wanted(job.gpu_type, self._power.types))
        self.events.append(scheduler_events.Submitted(job, believed, pause_s))
        if entry.steps > 0:
            self.events.append(scheduler_events.Failed(entry.id, retry=True, done=entry.steps))
        entry.known = True
        if not entry.reason:
            entry.reason = "waits for the next decision"

    def clock_set(self, by_s: float) -> None:
        """The machine's clock was set by so many seconds: who waits for a while does so still."""
        for entry in self.entries.values():
            entry.eligible_s += by_s
            entry.explore_since_s += by_s

    def withdraw_from_scheduler(self, entry: ActiveJob) -> None:
        """The scheduler is to plan without this job from now on, and without its GPUs while it still holds them."""
        if entry.known:
            self.events.append(scheduler_events.Leaving(entry.id))
            self._leaving.add(entry.id)
        entry.known = False

    def let_go(self, holding: Collection[str]) -> None:
        """The scheduler may use the GPUs of those who were to leave and hold none any more.

        Args:
            holding: Jobs of which something runs.
        """
        for job_id in sorted(self._leaving.difference(holding)):
            self._gone(job_id)

    def _gone(self, job_id: str) -> None:
        self._leaving.discard(job_id)
        self.events.append(scheduler_events.Cancelled(job_id))

    def give_back(self, entry: ActiveJob, reason: str) -> None:
        """A job is to hold nothing, whatever the scheduler had decided for it."""
        if entry.placement:
            entry.placement, entry.clock_mhz = (), 0.0
            entry.epoch += 1
            self.unstored[entry.id] = True
        entry.training, entry.window, entry.explore_mhz, entry.reason = False, None, (), reason
        self.dirty.add(entry.id)

    def overtake(self, entry: ActiveJob, epoch: int) -> None:
        """What runs of a job was decided later than the store knows, which is older: that ends, and it starts again."""
        entry.epoch, entry.placement, entry.clock_mhz = epoch + 1, (), 0.0
        entry.reason = "starts again: what ran of it is not what the store knows"
        self.unstored[entry.id] = True

    def decided(self, entry: ActiveJob, *, gpus_change: bool) -> None:
        """Something was decided for a job, and waits to be written down and done."""
        self.unstored[entry.id] = self.unstored.get(entry.id, False) or gpus_change

    def drop(self, entry: ActiveJob) -> None:
        """A job has ended: only its log is kept, for a while."""
        del self.entries[entry.id]
        self.unstored.pop(entry.id, None)
        self.ended.append(entry.id)

    def retry(self, now_s: float) -> None:
        """Jobs that have waited long enough after a failure come back."""
        for entry in self.entries.values():
            if not entry.known and not entry.held and entry.eligible_s <= now_s:
                self.introduce(entry)

    def write_down(self, entry: ActiveJob) -> None:
        """All that is known of a job, what it was charged included."""
        self._store.update([update_of(entry)])
        self._power.save(self._store)
        self.dirty.discard(entry.id)

    def save(self) -> None:
        """Write what has changed of jobs, what was measured and who owes which joules."""
        self._store.update([update_of(self.entries[job_id]) for job_id in sorted(self.dirty & self.entries.keys())])
        self.dirty.clear()
        self._store.observe(self.seen)
        self.seen.clear()
        self._power.save(self._store)

    def copies(self) -> Mapping[str, ActiveJob]:
        """All entries as they are now, for readers in other threads."""
        return {job_id: copy.copy(entry) for job_id, entry in self.entries.items()}


def update_of(entry: ActiveJob) -> JobUpdate:
    """What the store is told of a job."""
    return JobUpdate(
        entry.id,
        steps=entry.steps,
        steps_total=entry.steps_total,
        step_time_s=None if math.isnan(entry.step_time_s) else entry.step_time_s,
        rescales=entry.rescales,
        attempts=entry.attempts,
        reason=entry.reason,
        started_s=entry.started_s,
        cost_class=entry.kind.name,
    )
