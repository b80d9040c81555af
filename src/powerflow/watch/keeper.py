"""Settle what a watch has seen, and keep it."""

from __future__ import annotations

from powerflow.errors import InputError
from powerflow.watch.ledger import WatchLedger
from powerflow.watch.watcher import SettledUse, Watcher, state_of


class Keeper:
    """Settles energy and keeps it; what cannot be written now (a full disk) is written with the next look."""

    def __init__(self, watcher: Watcher, ledger: WatchLedger) -> None:
        self._watcher, self._ledger = watcher, ledger
        self._waiting = SettledUse()
        self._gpus: dict[str, int] = {}  # of each job; the watcher forgets them before it ends a job

    def settle(self, now_s: float, *, all_of_it: bool) -> list[str]:
        """Assign energy to jobs, and keep it.

        Args:
            now_s: The moment, Unix seconds.
            all_of_it: True when the watch ends, as in `Watcher.settle`.

        Returns:
            Why it could not be kept; nothing if it was.
        """
        self._gpus.update(self._watcher.memory.gpu_counts())
        self._waiting.then(self._watcher.settle(now_s, all_of_it=all_of_it))
        if not (self._waiting.jobs or self._waiting.others or all_of_it):
            return []
        try:
            self._ledger.save(self._waiting, self._gpus, state_of(self._watcher))
        except InputError as error:
            return [str(error)]
        for job in self._waiting.ended:
            self._gpus.pop(job, None)
        self._waiting = SettledUse()
        return []
