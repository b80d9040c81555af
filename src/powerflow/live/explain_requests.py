"""Let any thread ask the scheduler about jobs, through the controller's loop."""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from dataclasses import dataclass, field

from powerflow.live.context import LoopContext
from powerflow.scheduler.what_if import Insight, what_if


@dataclass(slots=True)
class ExplainRequest:
    """A question about a job; ``answered`` is set when ``answer`` holds the answer."""

    job_id: str
    answer: Insight | None = None
    answered: threading.Event = field(default_factory=threading.Event)


class ExplainRequests:
    """Pass questions to one scheduler. Any thread may call `ask`; only the controller's loop may call the rest."""

    def __init__(self, context: LoopContext) -> None:
        self._scheduler, self._table, self._time = context.scheduler, context.table, context.scheduler_time
        self._log = context.log
        self._asked: deque[ExplainRequest] = deque()

    def ask(self, job_id: str) -> ExplainRequest:
        """Add a question about a job, and return it; the loop fills in the answer later."""
        request = ExplainRequest(job_id)
        self._asked.append(request)
        return request

    def __bool__(self) -> bool:
        return bool(self._asked)

    def answer(self, now_s: float) -> None:
        """Answer one question, if any waits.

        Only one question is answered per call, because with many jobs an answer takes long.

        If the scheduler does not know the job, the answer is None. A defect of PowerFlow is logged, and the controller
        continues.
        """
        if not self._asked:
            return
        request = self._asked.popleft()
        try:
            if request.job_id in self._scheduler.ledger.slot_of:
                self._table.advance(self._scheduler)
                said = what_if(self._scheduler, request.job_id, self._time.scheduler(now_s))
                start_s = None if said.start_s is None else self._time.wall(said.start_s)
                request.answer = dataclasses.replace(said, start_s=start_s)
        except Exception as error:
            self._log.error("cannot explain a job", job=request.job_id, error=f"{type(error).__name__}: {error}")
        finally:
            request.answered.set()
