"""Keep the table of the fork server's ranks. The table is read from disk when the fork server starts.

Two facts decide the state of a rank, even if processes were killed. First, the rank's shim holds the rank's lock
exactly as long as the shim lives. Second, the shim writes the status before it ends. So if the lock is free and there
is no status, the shim was killed, and the rank is *lost*.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from powerflow.engine.local import cgroups, process, records
from powerflow.engine.protocol import EngineError, Fenced, RankName, RankSpec, RankState, RankStatus
from powerflow.osutil.files import read_json, replace_json, try_lock
from powerflow.osutil.processes import boot_id, start_ticks

_SHIM_STARTS_S = 10.0
_LEFTOVERS_END_S = 5.0


@dataclass(slots=True)
class RankHandle:
    """A rank that runs or ran.

    The fields are the status of the rank, the pid of its shim, and a pidfd of the shim (a file descriptor that stands
    for a process); the pidfd is −1 if the shim has ended.
    """

    status: RankStatus
    shim: int
    pidfd: int = -1


@dataclass
class RankTable:
    """Table of ranks by name.

    Attributes:
        home: Folder of the engine.
        cgroups: Control groups that limit ranks.
        entries: Ranks that run or ran, by name.
        version: Number that rises with every change of the table.
    """

    home: Path
    cgroups: cgroups.Cgroups
    entries: dict[str, RankHandle] = field(default_factory=dict)
    version: int = 0

    def directory(self, name: str) -> Path:
        """Return the directory with the records of a rank."""
        return self.home / "ranks" / name

    def load(self) -> None:
        """Read the records of all ranks from disk into the table."""
        (self.home / "ranks").mkdir(exist_ok=True)
        (self.home / "fences").mkdir(exist_ok=True)
        for directory in sorted((self.home / "ranks").iterdir()):
            with contextlib.suppress(ValueError):  # a folder that is no rank's
                RankName.parse(directory.name)
                self.refresh(directory.name)

    def refresh(self, name: str) -> RankHandle | None:
        """Read the records of a rank from disk into the table, and return the rank's entry.

        If the rank never ran, its records are deleted, and the result is None.
        """
        directory = self.directory(name)
        deadline_s = time.monotonic() + _SHIM_STARTS_S
        while True:
            alive = not self._lock_is_free(directory)
            if (entry := self._recall_or_none(name, alive)) or not alive or time.monotonic() > deadline_s:
                break
            time.sleep(0.002)  # its shim has the lock, and starts the process in a moment
        if entry:
            self.entries[name] = entry
            self.version += 1
        elif not alive:
            self._remove(name)
        return entry

    def ended(self, name: str) -> None:
        """Read the records of a rank into the table after its shim has ended."""
        entry = self.entries[name]
        os.close(entry.pidfd)
        entry.pidfd = -1
        self.refresh(name)

    def admit(self, spec: RankSpec) -> Path:
        """Write to disk that a rank is about to be launched; return the directory of its records.

        Raises:
            Fenced: The epoch of the rank is lower than the fence of its gang.
            EngineError: The record cannot be written.
        """
        if (least := self.fence_of(spec.name.gang)) > spec.name.epoch:
            raise Fenced(f"{spec.name} is refused: {spec.name.gang} is at epoch {least} already")
        directory = self.directory(str(spec.name))
        try:
            directory.mkdir(exist_ok=True)
            replace_json(directory / "spec.json", records.spec_row(spec))
        except OSError as error:
            self._remove(str(spec.name))
            raise EngineError(f"cannot write the record of {spec.name}: {error}", retry=True) from None
        return directory

    def drop(self, name: str) -> None:
        """Delete a rank from the table and from disk. If the rank runs, do nothing."""
        entry = self.entries.get(name)
        if entry and entry.status.state is not RankState.RUNNING:
            self._remove(name)
            del self.entries[name]
            self.version += 1

    def drop_failed(self, name: str) -> None:
        """Delete the records of a rank whose launch has failed."""
        if name not in self.entries:
            self._remove(name)

    def fence(self, gang: str, epoch: int) -> None:
        """Refuse all later launches of a gang with an epoch lower than ``epoch``. A fence is never lowered."""
        if epoch > self.fence_of(gang):
            replace_json(self.home / "fences" / gang, {"epoch": epoch}, durable=True)

    def fence_of(self, gang: str) -> int:
        """Return the fence of a gang: the lowest epoch that may still be launched."""
        found = read_json(self.home / "fences" / gang)
        return 0 if found is None else int(found["epoch"])

    def signal(self, name: str, number: int) -> bool:
        """Send a signal to a rank and its descendants; return False if no process got it."""
        entry = self.entries.get(name)
        if entry is None or entry.status.state is not RankState.RUNNING:
            return False
        # its pidfd says that the shim lives, or is a zombie of ours: so its pid was not given to another process
        reached = [process.send(pid, number) for pid in [*process.descendants(entry.shim)]]
        return any(reached)

    def running(self) -> list[str]:
        """Return the names of the ranks that run."""
        return [name for name, entry in self.entries.items() if entry.status.state is RankState.RUNNING]

    def _lock_is_free(self, directory: Path) -> bool:
        try:
            descriptor = try_lock(directory / "lock")
        except OSError:
            return True
        if descriptor is None:
            return False
        os.close(descriptor)
        return True

    def _recall_or_none(self, name: str, alive: bool) -> RankHandle | None:
        """Return a rank's entry from its records; None if the records are missing, or damaged by a power cut."""
        try:
            return self._recall(name, alive)
        except (KeyError, TypeError, ValueError, IndexError):
            return None

    def _recall(self, name: str, alive: bool) -> RankHandle | None:
        directory = self.directory(name)
        who, end = read_json(directory / "process.json"), read_json(directory / "status.json")
        spec = read_json(directory / "spec.json")
        if who is None or spec is None or (end is not None and end["state"] == "failed"):
            return None
        shim, shim_ticks = who["shim"]
        status = RankStatus(
            RankName.parse(name), spec["node"], RankState.RUNNING, who["rank"][0], None, who["started_s"], math.nan
        )
        if end is None and alive:
            pidfd = process.open_process(shim, shim_ticks)
            return None if pidfd is None else RankHandle(status, shim, pidfd)
        if end is None:
            end = self._lost(name, who)
        return RankHandle(
            replace(
                status,
                state=RankState(end["state"]),
                code=end["code"],
                ended_s=end["ended_s"],
                rebooted=who["boot"] != boot_id() and _with_its_machine(end),
                out_of_memory=end.get("out_of_memory"),
            ),
            shim,
        )

    def _lost(self, name: str, who: dict[str, Any]) -> dict[str, Any]:
        """Kill the processes that a killed shim left behind, and record on disk that its rank is lost.

        Return the record.
        """
        rank, ticks = who["rank"]
        deadline_s = time.monotonic() + _LEFTOVERS_END_S
        while who["boot"] == boot_id() and time.monotonic() < deadline_s:
            left = cgroups.kill(who["groups"])
            if start_ticks(rank) in (ticks, None):  # a session's number is not used again while it has members
                for pid in process.session(rank):
                    left = process.send(pid, signal.SIGKILL) or left
            if not left:
                break
            time.sleep(0.002)
        cgroups.leave(who["groups"])
        end = {"state": "lost", "code": None, "ended_s": time.time()}
        with contextlib.suppress(OSError):
            replace_json(self.directory(name) / "status.json", end)
        return end

    def _remove(self, name: str) -> None:
        """Delete the records of a rank; another process sees either all of them or none."""
        gone = self.home / f".gone-{name}"
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.directory(name), gone)
        shutil.rmtree(gone, ignore_errors=True)


def _with_its_machine(end: dict[str, Any]) -> bool:
    """Return True if a rank of an earlier boot was ended by the shutdown, and not for another reason before."""
    return end["code"] is None or end["code"] < 0 or bool(end.get("told"))
