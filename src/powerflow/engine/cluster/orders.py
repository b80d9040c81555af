"""Send orders to one agent: those that are asked for and answered at once, and a queue of those that may wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from powerflow.engine.cluster.link import Link
from powerflow.engine.cluster.sealed import Session
from powerflow.engine.protocol import EngineError, Fenced

Order = dict[str, Any]


async def ask(link: Link, session: Session, order: Order, timeout_s: float) -> dict[str, Any]:
    """Send an order, and return the agent's answer.

    Raises:
        EngineError: The agent has refused the order.
        TimeoutError: No answer came in time.
        ConnectionError: The link has ended.
        NotGenuine: The answer is not the agent's: the agent was started anew, for example.
    """
    number, message = session.seal(order)
    answer = session.open(number, await link.request(message, timeout_s))
    if "error" in answer:
        raise (Fenced if answer.get("fenced") else EngineError)(answer["error"], **_retry(answer))
    return answer


def _retry(answer: dict[str, Any]) -> dict[str, bool]:
    return {"retry": bool(answer.get("retry"))}


@dataclass(slots=True)
class _Queued:
    order: Order
    timeout_s: float
    key: str
    done: Callable[[dict[str, Any] | EngineError], None]


class Outbox:
    """Orders to one agent that may wait until it answers. They arrive in order, at least once."""

    def __init__(self) -> None:
        self._queue: deque[_Queued] = deque()
        self._filled = asyncio.Event()

    def __bool__(self) -> bool:
        """Return True if orders wait."""
        return bool(self._queue)

    def put(
        self,
        order: Order,
        timeout_s: float = 10.0,
        done: Callable[[dict[str, Any] | EngineError], None] = lambda answer: None,
        key: str = "",
    ) -> None:
        """Add an order.

        Args:
            order: The order.
            timeout_s: Longest wait for the answer before the order is sent again.
            done: Called with the agent's answer, or with its refusal.
            key: An order with the same key that still waits is dropped, because this one replaces it; "" for none.
        """
        if key:
            self._queue = deque(queued for i, queued in enumerate(self._queue) if not i or queued.key != key)
        self._queue.append(_Queued(order, timeout_s, key, done))
        self._filled.set()

    async def send(self, link: Link, session: Session) -> None:
        """Send one order after another, for ever.

        Raises:
            TimeoutError, ConnectionError, NotGenuine: As `ask`. The order stays in the queue.
        """
        while True:
            while not self._queue:
                self._filled.clear()
                await self._filled.wait()
            queued = self._queue[0]
            answer: dict[str, Any] | EngineError
            try:
                answer = await ask(link, session, queued.order, queued.timeout_s)
            except EngineError as error:
                answer = error
            self._queue.popleft()
            queued.done(answer)
