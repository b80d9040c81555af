"""Questions about jobs that only the scheduler can answer: anybody asks, the loop looks."""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from powerflow.live.wall_clock import SchedulerTime
from powerflow.scheduler.scheduler import Scheduler
from powerflow.scheduler.what_if import Insight, insight


@dataclass(slots=True)
class ExplainRequest:
    """What somebody wants to know of a job, and waits for."""

    job_id: str
    answer: Insight | None = None
    answered: threading.Event = field(default_factory=threading.Event)


class ExplainRequests:
    """What is asked of one scheduler.

    Args:
        scheduler: The scheduler; the loop's alone.
        advance: Tells it of all progress up to now.
        log: A structlog logger.
        scheduler_time: What the scheduler calls now.
    """

    def __init__(
        self, scheduler: Scheduler, advance: Callable[[], None], log: Any, scheduler_time: SchedulerTime
    ) -> None:
        self._scheduler, self._advance, self._log, self._scheduler_time = scheduler, advance, log, scheduler_time
        self._asked: deque[ExplainRequest] = deque()

    def ask(self, job_id: str) -> ExplainRequest:
        """Leave a question. Any thread."""
        question = ExplainRequest(job_id)
        self._asked.append(question)
        return question

    def __bool__(self) -> bool:
        return bool(self._asked)

    def answer(self, now_s: float) -> None:
        """Answer one that was left: with many jobs that takes a while, and the loop has other things to do. The loop.

        Of a job that it does not know the scheduler has nothing to say, and neither where looking fails: that is a bug,
        which is logged, but nobody's question may end the controller.
        """
        if not self._asked:
            return
        question = self._asked.popleft()
        try:
            if question.job_id in self._scheduler.ledger.slot_of:
                self._advance()
                said = insight(self._scheduler, question.job_id, self._scheduler_time.scheduler(now_s))
                start_s = None if said.start_s is None else self._scheduler_time.wall(said.start_s)
                question.answer = dataclasses.replace(said, start_s=start_s)
        except Exception as error:
            self._log.error("cannot look into a job", job=question.job_id, error=f"{type(error).__name__}: {error}")
        finally:
            question.answered.set()
