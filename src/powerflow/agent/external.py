"""Hold GPUs for ranks whose processes another scheduler starts and ends, such as those of Slurm's jobs.

An *external* rank has no command. Nothing is started for it: from its launch until somebody sends it a signal, it has
its GPUs, so that they are metered for it and may have a clock. Its own scheduler alone decides when its processes end:
no signal ever reaches them.

If Slurm's hooks are installed (`powerflow.agent.slurm_notes`), the rank of a job ends as soon as Slurm's Epilog has run
on this machine, so that the job's energy ends there, and its clocks are given back.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from powerflow.agent.engine_layer import EngineLayer
from powerflow.engine.cluster.rows import status_from_row, status_row
from powerflow.engine.protocol import (
    Engine,
    EngineError,
    Fenced,
    RankName,
    RankSpec,
    RankState,
    RankStatus,
)
from powerflow.osutil.files import read_json, replace_json
from powerflow.osutil.processes import boot_id

#: Format of the file.
FORMAT = 1
#: Variable of an external rank: the job that it stands for, such as ``slurm:4711@1764000000``.
EXTERNAL_JOB = "POWERFLOW_EXTERNAL_JOB"
_OF_SLURM = re.compile(r"slurm:([0-9]+)@.*")


class Note(Protocol):
    """A note that a job of Slurm holds GPUs of this machine since a moment (Unix seconds)."""

    @property
    def since_s(self) -> float:
        """When the job got its GPUs."""


class Notes(Protocol):
    """Notes of the jobs that hold GPUs of this machine: `powerflow.agent.slurm_notes.SlurmNotes`."""

    def changed(self) -> bool:
        """Return True if notes may have changed since the last call."""

    def look(self) -> Mapping[str, Note]:
        """Return all notes, by the job's number in Slurm."""

    def notices(self) -> Sequence[str]:
        """Return what operators should know about the notes as of the last look, one line each."""


@dataclass(frozen=True, slots=True)
class _Held:
    """An external rank, the Slurm number of its job ("" if it is none of Slurm's), and since when a note says so."""

    status: RankStatus
    number: str = ""
    noted_s: float | None = None

    def row(self) -> dict[str, Any]:
        return {"status": status_row(self.status), "number": self.number, "noted_s": self.noted_s}


class ExternalRanks(EngineLayer):
    """Engine that adds external ranks to those of another engine. Any thread may use it.

    The external ranks are kept in a file, so that they outlive this process. They end with the machine's boot.

    Args:
        engine: Runs all ranks that have a command.
        path: File of the external ranks.
        notes: Notes of Slurm's hooks; None if nobody writes any.
        tell: Called with each new line that operators should know about these notes.
        boot: Id of the machine's present boot; None to ask this machine.
        clock: Returns Unix seconds.
    """

    def __init__(
        self,
        engine: Engine,
        path: Path,
        notes: Notes | None = None,
        *,
        tell: Callable[[str], None] = lambda line: None,
        boot: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(engine)
        self._path, self._notes, self._clock = path, notes, clock
        self._tell, self._told = tell, frozenset[str]()
        self._boot = boot_id() if boot is None else boot
        self._guard = threading.Lock()
        self._reading = threading.Lock()  # of the notes
        self._changed = threading.Event()
        kept = read_json(path)
        kept = kept if kept is not None and kept.get("format") == FORMAT else {"boot": "", "ranks": [], "fences": {}}
        held = [_Held(status_from_row(row["status"]), row["number"], row["noted_s"]) for row in kept["ranks"]]
        self._fences: dict[str, int] = {str(gang): int(epoch) for gang, epoch in kept["fences"].items()}
        if kept["boot"] != self._boot:
            held = [self._ended(each, rebooted=True) for each in held]
        self._held = {each.status.name: each for each in held}

    def launch(self, spec: RankSpec) -> RankStatus:
        """Start a rank, or hold GPUs for an external one. See `Engine.launch`."""
        if spec.command:
            return self._engine.launch(spec)
        found = _OF_SLURM.fullmatch(spec.env.get(EXTERNAL_JOB, ""))
        number = found[1] if found else ""
        notes = self._read_notes() if number else {}
        with self._guard:
            if spec.name.epoch < self._fences.get(spec.name.gang, spec.name.epoch):
                raise Fenced(f"{spec.name}: a later placement of this job was launched")
            if (known := self._held.get(spec.name)) is not None:
                return known.status
            status = RankStatus(spec.name, spec.node, RankState.RUNNING, 0, None, self._clock(), math.nan)
            self._keep({**self._held, spec.name: self._judged(_Held(status, number), notes.get(number))})
        return status

    def ranks(self) -> Sequence[RankStatus]:
        """Return the status of every rank."""
        with self._guard:
            external = [each.status for each in self._held.values()]
        return [*self._engine.ranks(), *external]

    def signal(self, name: RankName, number: int) -> bool:
        """Send a signal to a rank; an external rank gives its GPUs back, and its processes get no signal."""
        with self._guard:
            if (held := self._held.get(name)) is not None:
                if held.status.state.may_run:
                    self._keep({**self._held, name: self._ended(held)})
                return held.status.state.may_run
        return self._engine.signal(name, number)

    def forget(self, name: RankName) -> None:
        """Delete the status and the log of a rank that has ended."""
        with self._guard:
            if (held := self._held.get(name)) is not None:
                if not held.status.state.may_run:
                    self._keep({other: each for other, each in self._held.items() if other != name})
                return
        self._engine.forget(name)

    def fence(self, gang: str, epoch: int) -> None:
        """Refuse all later launches of a gang with an epoch lower than ``epoch``. See `Engine.fence`."""
        self._engine.fence(gang, epoch)
        with self._guard:
            if self._fences.get(gang, -1) < epoch:
                self._fences[gang] = epoch
                if any(name.gang == gang for name in self._held):
                    self._keep(self._held)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the state of a rank may have changed. See `Engine.wait`."""
        self._see_notes()
        if self._changed.is_set():
            self._changed.clear()
            return True
        return self._engine.wait(timeout_s)

    def log(self, name: RankName, offset: int = 0, limit: int = 65536) -> tuple[bytes, int]:
        """Return a part of what a rank wrote; nothing of an external rank. See `Engine.log`."""
        return (b"", 0) if name in self._held else self._engine.log(name, offset, limit)

    def log_offset(self, name: RankName, since_s: float) -> int:
        """Return where in a rank's log the output since a time begins. See `Engine.log_offset`."""
        return 0 if name in self._held else self._engine.log_offset(name, since_s)

    def check(self, spec: RankSpec) -> str:
        """Return why a rank cannot run on its node as its spec says; "" if nothing is known against it."""
        return self._engine.check(spec) if spec.command else ""

    def _see_notes(self) -> None:
        """End the ranks of jobs whose note is gone, or is the note of a later start of the same job.

        A rank is not ended before a note of its job was there: perhaps the hooks are not installed.
        """
        if self._notes is None:
            return
        with self._guard:  # the note of a job is mostly there before its rank, and does not change until its end
            unnoted = any(
                each.number and each.noted_s is None and each.status.state.may_run for each in self._held.values()
            )
        with self._reading:
            news = self._notes.changed()
        if not news and not unnoted:
            return
        notes = self._read_notes()
        with self._guard:
            now = {name: self._judged(held, notes.get(held.number)) for name, held in self._held.items()}
            if now != self._held:
                self._keep(now)

    def _read_notes(self) -> Mapping[str, Note]:
        if self._notes is None:
            return {}
        with self._reading:
            notes, lines = self._notes.look(), frozenset(self._notes.notices())
            for line in sorted(lines - self._told):
                self._tell(line)
            self._told = lines
        return notes

    def _judged(self, held: _Held, note: Note | None) -> _Held:
        if not held.number or not held.status.state.may_run:
            return held
        if held.noted_s is None:
            return held if note is None else replace(held, noted_s=note.since_s)
        return held if note is not None and note.since_s == held.noted_s else self._ended(held)

    def _ended(self, held: _Held, *, rebooted: bool = False) -> _Held:
        if not held.status.state.may_run:
            return held
        ended = replace(held.status, state=RankState.EXITED, code=0, ended_s=self._clock(), rebooted=rebooted)
        return replace(held, status=ended)

    def _keep(self, held: dict[RankName, _Held]) -> None:
        """Write all external ranks to the file, and only then take them over.

        Raises:
            EngineError: The file cannot be written; nothing has changed.
        """
        fences = {gang: epoch for gang, epoch in self._fences.items() if any(name.gang == gang for name in held)}
        rows = [each.row() for each in held.values()]
        try:
            replace_json(self._path, {"format": FORMAT, "boot": self._boot, "ranks": rows, "fences": fences})
        except OSError as error:
            raise EngineError(f"{self._path} cannot be written ({error.strerror})", retry=True) from error
        self._held = held
        self._changed.set()
