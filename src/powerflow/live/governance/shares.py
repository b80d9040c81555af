"""Keep the shares of projects that operators have set; fair share divides GPUs between projects by their shares."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict

from powerflow.api.governance import ShareOrder, ShareRecord, audited
from powerflow.api.records import Caller
from powerflow.scheduler.events import SharesSet
from powerflow.store.store import Store

#: Setting in the store: all shares.
SHARES = "shares"


class Shares:
    """Keep the shares of one cluster's projects. Any thread may call this."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()  # held from reading the shares to storing changed ones
        self._known: dict[str, ShareRecord] | None = None

    def set(self, order: ShareOrder, caller: Caller, now_s: float) -> ShareRecord:
        """Store the share of a project, and return it. It replaces the project's earlier share."""
        new = ShareRecord(order.project, order.share, caller.user, now_s)
        with self._lock:
            known = self._all() | {new.project: new}
            what = audited(caller, now_s, "share set", new.project, {"share": new.share})
            self._store.govern(SHARES, [asdict(record) for record in known.values()], [what])
            self._known = known
        return new

    def show(self) -> Sequence[ShareRecord]:
        """Return all shares that operators have set, by name of the project."""
        known = self._all()
        return [known[project] for project in sorted(known)]

    def of(self, project: str) -> float:
        """Return the share of a project."""
        record = self._all().get(project)
        return 1.0 if record is None else record.share

    def event(self) -> SharesSet:
        """Return all shares as an event for the scheduler."""
        return SharesSet({record.project: record.share for record in self.show()})

    def _all(self) -> dict[str, ShareRecord]:
        if self._known is None:
            self._known = {item["project"]: ShareRecord(**item) for item in self._store.get(SHARES, [])}
        return self._known
