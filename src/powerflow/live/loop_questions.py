"""Let any thread ask the scheduler, through the controller's loop: no other thread may use the scheduler."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from powerflow.live.context import LoopContext

Answer = TypeVar("Answer")


@dataclass(slots=True, eq=False)
class Question(Generic[Answer]):
    """A function to call in the loop; ``answered`` is set when ``answer`` holds its result, None if it failed."""

    ask: Callable[[LoopContext, float], Answer]
    answer: Answer | None = None
    answered: threading.Event = field(default_factory=threading.Event)


class LoopQuestions:
    """Pass questions to one controller's loop. Any thread may call `put`; only the loop may call the rest."""

    def __init__(self, context: LoopContext) -> None:
        self._context = context
        self._asked: deque[Question[Any]] = deque()

    def put(self, ask: Callable[[LoopContext, float], Answer]) -> Question[Answer]:
        """Add a question, and return it; the loop fills in the answer later.

        Args:
            ask: Returns the answer from the objects of the loop and the present (Unix seconds). It must not change
                anything.
        """
        question = Question(ask)
        self._asked.append(question)
        return question

    def __bool__(self) -> bool:
        return bool(self._asked)

    def answer(self, now_s: float) -> None:
        """Answer one question, if any waits.

        Only one question is answered per call, because with many jobs an answer takes long. A defect of PowerFlow is
        logged, and the controller continues.
        """
        if not self._asked:
            return
        question = self._asked.popleft()
        try:
            self._context.table.advance(self._context.scheduler)
            question.answer = question.ask(self._context, now_s)
        except Exception as error:
            self._context.log.error("a question about jobs failed", error=f"{type(error).__name__}: {error}")
        finally:
            question.answered.set()
