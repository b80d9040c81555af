"""What happened, as it goes into the store, told to the structured log too: one stream has all of it."""

from __future__ import annotations

from typing import Any

from powerflow.store.store import Store

#: So many at a time: a turn of the loop must not wait for a long story.
AT_ONCE = 500


class EventLogger:
    """Follows the events of a store, whoever wrote them. For the controller's loop.

    Args:
        store: Whose.
        log: A structlog logger.
    """

    def __init__(self, store: Store, log: Any) -> None:
        self._store, self._log = store, log
        self._told = 0

    def start(self) -> None:
        """What has happened up to now has been told by others."""
        self._told = self._store.last_event()

    def follow(self) -> None:
        """Tell what has happened since.

        Raises:
            StoreError: It cannot be read now; it will be told the next time.
        """
        for event in self._store.events(self._told, limit=AT_ONCE).items:
            self._log.info(
                event.kind, job=event.job_id, what=event.text, **{"fields": event.fields} if event.fields else {}
            )
            self._told = event.number
