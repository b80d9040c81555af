"""Ask another scheduler for its jobs every half minute, and tell the controller, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from powerflow.api.external import ExternalLook
from powerflow.errors import InputError
from powerflow.store.database import StoreError

#: Seconds between two looks: a busy slurmctld is not asked more often.
EVERY_S = 30.0


class Door(Protocol):
    """Where looks go: `powerflow.live.external_door.ExternalDoor`."""

    def take(self, look: ExternalLook, now_s: float) -> None:
        """Take in all that the other scheduler says."""

    def unheard(self, why: str) -> None:
        """Hear that the other scheduler does not answer."""


class Poller:
    """Look again and again, from `start` to `stop`.

    Args:
        look: Asks the other scheduler, given the present (Unix seconds); raises InputError if it does not answer.
        door: Takes each look.
        log: A structlog logger.
        every_s: Seconds between two looks.
    """

    def __init__(self, look: Callable[[float], ExternalLook], door: Door, log: Any, every_s: float = EVERY_S) -> None:
        self._look, self._door, self._log, self._every_s = look, door, log, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="powerflow-beside", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more. A look that has begun may go on for a while, and changes nothing."""
        self._stop.set()
        self._thread.join(1.0)

    def turn(self) -> None:
        """Look once."""
        try:
            look = self._look(time.time())
        except InputError as error:
            self._door.unheard(str(error))
            return
        if self._stop.is_set():
            return
        try:
            self._door.take(look, time.time())
        except StoreError as error:
            self._log.warning("jobs of the other scheduler were not stored", why=str(error))

    def _run(self) -> None:
        while not self._stop.is_set():
            self.turn()
            self._stop.wait(self._every_s)
