"""The agent's ranks: who runs, who ended, who is being started; from disk when the agent is new.

Two facts decide what became of a rank, whoever was killed when: its shim holds its lock exactly while it lives, and
writes the status before it goes. So a free lock and no status means that the shim was killed: the rank is *lost*.
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
    """One rank that runs or ran: its status, its shim, and a descriptor that tells when the shim ends (-1: ended)."""

    status: RankStatus
    shim: int
    pidfd: int = -1


@dataclass
class RankTable:
    """Ranks by name.

    Attributes:
        home: The engine's directory.
        cgroups: Where ranks are limited.
        entries: Ranks that run or ran.
        version: Rises with every change.
    """

    home: Path
    cgroups: cgroups.Cgroups
    entries: dict[str, RankHandle] = field(default_factory=dict)
    version: int = 0

    def directory(self, name: str) -> Path:
        """Where a rank's records are."""
        return self.home / "ranks" / name

    def load(self) -> None:
        """Find every rank on disk."""
        (self.home / "ranks").mkdir(exist_ok=True)
        (self.home / "fences").mkdir(exist_ok=True)
        for directory in sorted((self.home / "ranks").iterdir()):
            with contextlib.suppress(ValueError):  # a folder that is none of ours
                RankName.parse(directory.name)
                self.refresh(directory.name)

    def refresh(self, name: str) -> RankHandle | None:
        """Take a rank in as its records have it; None, and no records any more, if it never ran."""
        directory = self.directory(name)
        deadline_s = time.monotonic() + _SHIM_STARTS_S
        while True:
            alive = not self._lock_is_free(directory)
            if (entry := self._recall_or_none(name, alive)) or not alive or time.monotonic() > deadline_s:
                break
            time.sleep(0.002)  # a shim that has its lock and no process yet: a moment
        if entry:
            self.entries[name] = entry
            self.version += 1
        elif not alive:
            self._remove(name)
        return entry

    def ended(self, name: str) -> None:
        """A rank's shim ended: see what it left."""
        entry = self.entries[name]
        os.close(entry.pidfd)
        entry.pidfd = -1
        self.refresh(name)

    def admit(self, spec: RankSpec) -> Path:
        """Write down that a rank is about to be launched; its directory.

        Raises:
            Fenced: If its gang was fenced at a later epoch.
            EngineError: If the disk does not take it.
        """
        if (least := self.fence_of(spec.name.gang)) > spec.name.epoch:
            raise Fenced(f"{spec.name} is fenced: {spec.name.gang} is at epoch {least}")
        directory = self.directory(str(spec.name))
        try:
            directory.mkdir(exist_ok=True)
            replace_json(directory / "spec.json", records.spec_row(spec))
        except OSError as error:
            self._remove(str(spec.name))
            raise EngineError(f"cannot write down {spec.name}: {error}", retry=True) from None
        return directory

    def drop(self, name: str) -> None:
        """Forget a rank that does not run."""
        entry = self.entries.get(name)
        if entry and entry.status.state is not RankState.RUNNING:
            self._remove(name)
            del self.entries[name]
            self.version += 1

    def drop_failed(self, name: str) -> None:
        """Remove the records of a launch that came to nothing."""
        if name not in self.entries:
            self._remove(name)

    def fence(self, gang: str, epoch: int) -> None:
        """Refuse launches of this gang below this epoch; never goes back."""
        if epoch > self.fence_of(gang):
            replace_json(self.home / "fences" / gang, {"epoch": epoch}, durable=True)

    def fence_of(self, gang: str) -> int:
        """Lowest epoch of a gang that may be launched."""
        found = read_json(self.home / "fences" / gang)
        return 0 if found is None else int(found["epoch"])

    def signal(self, name: str, number: int) -> bool:
        """Send a signal to all that stems from a rank; whether it runs."""
        entry = self.entries.get(name)
        if entry is None or entry.status.state is not RankState.RUNNING:
            return False
        # the shim is alive, or an unreaped child of ours, or its pidfd would say so: its pid is still its own
        reached = [process.send(pid, number) for pid in [*process.descendants(entry.shim)]]
        return any(reached)

    def running(self) -> list[str]:
        """Names of ranks that run."""
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
        """The same as `_recall`; None, too, where a power cut left records that say nothing."""
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
            ),
            shim,
        )

    def _lost(self, name: str, who: dict[str, Any]) -> dict[str, Any]:
        """End what a killed shim left behind, and write down that nobody knows how its rank ended."""
        rank, ticks = who["rank"]
        deadline_s = time.monotonic() + _LEFTOVERS_END_S
        while who["boot"] == boot_id() and time.monotonic() < deadline_s:
            left = cgroups.kill(who["groups"])
            if start_ticks(rank) in (ticks, None):  # while a session has members its number is not used again
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
        """Remove a rank's records, all at once for whoever reads them."""
        gone = self.home / f".gone-{name}"
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.directory(name), gone)
        shutil.rmtree(gone, ignore_errors=True)


def _with_its_machine(end: dict[str, Any]) -> bool:
    """Whether a rank of an earlier boot was ended by that boot's end, and not by itself before."""
    return end["code"] is None or end["code"] < 0 or bool(end.get("told"))
