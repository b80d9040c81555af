"""Questions about jobs that only the brain can answer: anybody asks, the loop looks."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from powerflow.scheduler.insight import Insight, insight
from powerflow.scheduler.scheduler import Scheduler


@dataclass(slots=True)
class Question:
    """What somebody wants to know of a job, and waits for."""

    job_id: str
    answer: Insight | None = None
    answered: threading.Event = field(default_factory=threading.Event)


class Questions:
    """What is asked of one brain.

    Args:
        scheduler: The brain; the loop's alone.
        advance: Tells it of all progress up to now.
    """

    def __init__(self, scheduler: Scheduler, advance: Callable[[], None]) -> None:
        self._scheduler, self._advance = scheduler, advance
        self._asked: deque[Question] = deque()

    def ask(self, job_id: str) -> Question:
        """Leave a question. Any thread."""
        question = Question(job_id)
        self._asked.append(question)
        return question

    def answer(self, now_s: float) -> None:
        """Answer all that were left; of a job that it does not know the brain has nothing to say. The loop."""
        while self._asked:
            question = self._asked.popleft()
            if question.job_id in self._scheduler.ledger.slot_of:
                self._advance()
                question.answer = insight(self._scheduler, question.job_id, now_s)
            question.answered.set()
