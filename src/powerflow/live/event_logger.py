"""Repeat the store's events in the structured log, so that one stream has all of them."""

from __future__ import annotations

from powerflow.live.context import LoopContext

#: Events logged in one turn of the loop.
AT_ONCE = 500


class EventLogger:
    """Logs the events of a store, by whomever they were written. For the controller's loop."""

    def __init__(self, context: LoopContext) -> None:
        self._store, self._log = context.store, context.log
        self._told = 0

    def start(self) -> None:
        """Pass over all events up to now."""
        self._told = self._store.last_event()

    def follow(self) -> None:
        """Log what has happened since the last call.

        Raises:
            StoreError: The store cannot be read now; the next call logs it.
        """
        for event in self._store.events(self._told, limit=AT_ONCE).items:
            fields = {"fields": event.fields} if event.fields else {}
            self._log.info(event.kind, job=event.job_id, what=event.text, **fields)
            self._told = event.number
