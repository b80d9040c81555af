"""Follow the ranks of one machine: which have changed since when, and which records were deleted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from powerflow.engine.cluster.rows import status_row
from powerflow.engine.protocol import RankName, RankStatus

#: Deleted ranks that are remembered. A controller that has missed more of them gets all ranks.
_GONE_KEPT = 10_000


class RankChanges:
    """The table of a machine's ranks, in which each rank has the version of its last change.

    Attributes:
        version: Number that rises with each change.
    """

    def __init__(self) -> None:
        self.version = 1
        self._known: dict[RankName, tuple[RankStatus, int]] = {}
        self._gone: dict[RankName, int] = {}
        self._gpus: dict[RankName, tuple[str, ...]] = {}

    def given(self, name: RankName, uuids: tuple[str, ...]) -> None:
        """Note which GPUs, by UUID, a rank has got."""
        self._gpus[name] = uuids

    def take(self, statuses: Iterable[RankStatus]) -> tuple[list[RankStatus], list[RankStatus]]:
        """Take the statuses of all ranks; return the ranks that are new, and those that have just ended."""
        began, ended = [], []
        now = {status.name: replace(status, gpus=self._gpus.get(status.name, ())) for status in statuses}
        for name in self._known.keys() - now.keys():
            last, _ = self._known.pop(name)
            self._gpus.pop(name, None)
            self._gone[name] = self._next()
            if last.state.may_run:
                ended.append(last)
        for name, status in now.items():
            before = self._known[name][0] if name in self._known else None
            if before == status:
                continue
            self._known[name] = status, self._next()
            if status.state.may_run and before is None:
                began.append(status)
            elif not status.state.may_run and (before is None or before.state.may_run):
                ended.append(status)
        for name in list(self._gone)[: -_GONE_KEPT or None]:
            del self._gone[name]
        return began, ended

    def since(self, version: int) -> dict[str, Any]:
        """Return what has changed since a version, as JSON data. Version 0 gives all ranks."""
        return {
            "version": self.version,
            "ranks": [status_row(status) for status, changed in self._known.values() if changed > version],
            "gone": [str(name) for name, changed in self._gone.items() if changed > version] if version else [],
        }

    def names(self, gang: str) -> list[RankName]:
        """Return the ranks of a gang."""
        return [name for name in self._known if name.gang == gang]

    def runs(self, name: RankName) -> bool:
        """Return True if a rank runs."""
        return name in self._known and self._known[name][0].state.may_run

    def _next(self) -> int:
        self.version += 1
        return self.version
