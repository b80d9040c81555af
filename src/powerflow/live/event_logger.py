"""Copy the events in the store to the structured log, so that one log has all events."""

from __future__ import annotations

from powerflow.live.context import LoopContext

#: Events logged in one turn of the loop.
AT_ONCE = 500


class EventLogger:
    """Write all events of a store to the structured log. Only the controller's loop may use it."""

    def __init__(self, context: LoopContext) -> None:
        self._store, self._log = context.store, context.log
        self._told = 0

    def start(self) -> None:
        """Skip all events up to now."""
        self._told = self._store.last_event()

    def follow(self) -> None:
        """Log the events since the last call.

        Raises:
            StoreError: The store cannot be read now. The next call logs the events.
        """
        for event in self._store.events(self._told, limit=AT_ONCE).items:
            fields = {"fields": event.fields} if event.fields else {}
            self._log.info(event.kind, job=event.job_id, what=event.text, **fields)
            self._told = event.number
