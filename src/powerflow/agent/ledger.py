"""Keep the ledger of one machine: the energy and time of each of its GPUs, by rank.

A rank gets a GPU when `Ledger.began` is called, and gives it back when `Ledger.ended` is called. Both read the energy
counter of the GPU at that moment, so the energy of a rank is exact however short it runs. Between these moments the
counter is read about once a second (`Ledger.read`).

Each **row** of the ledger is the total of one GPU for one rank, or for no rank (the *idle row*). Totals only grow. The
sum of all rows of a GPU is what the GPU was metered to draw, to the last millijoule. Rows are kept on disk together
with the meter's accounts, in one file that is replaced as a whole. So if this process is killed, the next one counts on
from the last counter that was stored: nothing is lost, and nothing is counted twice.
"""

from __future__ import annotations

import errno
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from powerflow.device.meter import Meter
from powerflow.device.protocol import DeviceError, Gpu, Reading
from powerflow.engine.devices import LedgerRow
from powerflow.osutil.files import read_json, replace_json
from powerflow.osutil.processes import boot_id

FORMAT = 1

#: By how much numbers and versions are raised after a boot. A power cut may have undone the last writes, and what was
#: reported from them must not be given another meaning.
AFTER_BOOT = 1_000_000

#: Finds, from new readings by UUID, the GPUs whose energy belongs to no rank, although a rank has them.
Judge = Callable[[Mapping[str, Reading]], Collection[str]]


@dataclass(slots=True)
class _Row:
    number: int
    uuid: str
    rank: str
    energy_mj: int = 0
    gpu_s: float = 0.0
    held: bool = True
    final: bool = False
    version: int = 0

    def plain(self) -> list[Any]:
        """Return the fields, in order, for JSON."""
        mj, s = self.energy_mj, self.gpu_s
        return [self.number, self.uuid, self.rank, mj, s, self.held, self.final, self.version]


class StoredLedger(NamedTuple):
    """A ledger as it was last written to disk: its version, the version that was acknowledged, and all rows."""

    version: int
    acknowledged: int
    rows: tuple[LedgerRow, ...]


class Ledger:
    """Ledger of one machine's GPUs. Only one thread may use it.

    Args:
        path: File of the ledger. It is created, or continued.
        gpus: All GPUs of the machine.
        boot: Id of the machine's present boot; None to ask this machine.
        clock: Monotonic clock of the machine, seconds.

    Attributes:
        id: Id of this ledger; another file has another id.
        version: Rises whenever a row changes.
        acknowledged: Version up to which all rows are stored elsewhere.
        meter: Reads the GPUs.
    """

    def __init__(
        self, path: Path, gpus: Sequence[Gpu], *, boot: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._clock = path, clock
        self._boot = boot_id() if boot is None else boot
        self._rows: dict[int, _Row] = {}
        self._idle: dict[str, _Row] = {}
        self._holders: dict[str, list[_Row]] = {gpu.uuid: [] for gpu in gpus}  # the newest last
        self._changed: set[int] = set()
        self._shared: Collection[str] = ()
        self._stored = StoredLedger(0, 0, ())
        self._dirty, self._dropped = True, False
        self._owner, self._written = time.time_ns(), (0, 0)  # who writes the file, and what it wrote last
        state = read_json(path)
        if state is None or state.get("format") != FORMAT:
            state = {"id": uuid.uuid4().hex, "version": 0, "acknowledged": 0, "next": 1, "boot": self._boot, "rows": []}
        self.id, self.version, self.acknowledged = str(state["id"]), int(state["version"]), int(state["acknowledged"])
        self._next, self._clock_s = int(state["next"]), float(state.get("clock_s", clock()))
        self.meter = Meter(gpus, state.get("meter"), boot=self._boot)
        self._recall(state["rows"])
        if state["boot"] != self._boot:
            self._next, self.version, self._clock_s = self._next + AFTER_BOOT, self.version + AFTER_BOOT, clock()
            for row in [row for rows in self._holders.values() for row in rows]:
                self._release(row)  # no process survives a boot
        for gpu in gpus:
            if gpu.uuid not in self._idle:
                self._idle[gpu.uuid] = self._new(gpu.uuid, "")

    # -- ranks --------------------------------------------------------------------------------------------------------

    def began(self, rank: str, uuids: Collection[str]) -> None:
        """Give GPUs to a rank that is about to start. GPUs that the rank has already stay as they are.

        Raises:
            DeviceError: The machine does not have one of the GPUs.
        """
        for uid in uuids:
            if uid not in self._holders:
                raise DeviceError(f"this machine has no GPU {uid}")
        fresh = [uid for uid in uuids if all(row.rank != rank for row in self._holders[uid])]
        if not fresh:
            return
        self._pass_time()
        self.meter.sample(fresh)
        for uid in fresh:
            self._holders[uid].append(self._new(uid, rank))
        self._book()

    def ended(self, rank: str) -> None:
        """Take back the GPUs of a rank that has ended. Do nothing if it has none."""
        rows = [row for rows in self._holders.values() for row in rows if row.rank == rank]
        if not rows:
            return
        self._pass_time()
        self.meter.sample([row.uuid for row in rows])
        for row in rows:
            self._release(row)
        self._book()

    def read(self, judge: Judge = lambda readings: ()) -> None:
        """Read all GPUs. The energy of GPUs that ``judge`` finds goes to no rank from this reading on."""
        self._pass_time()
        self.meter.sample()
        self._shared = judge(self.meter.readings)
        self._book()

    def ranks(self) -> frozenset[str]:
        """Return the names of the ranks that have GPUs."""
        return frozenset(row.rank for rows in self._holders.values() for row in rows)

    def holders(self) -> dict[str, str]:
        """Return the rank that has each GPU, by UUID, without GPUs that no rank has."""
        return {uid: rows[-1].rank for uid, rows in self._holders.items() if rows}

    def held(self) -> dict[str, tuple[str, ...]]:
        """Return the UUIDs of the GPUs that each rank has."""
        found: dict[str, tuple[str, ...]] = {}
        for uid, rows in self._holders.items():
            for row in rows:
                found[row.rank] = (*found.get(row.rank, ()), uid)
        return found

    # -- what is reported ---------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the ledger to disk, if it has changed. Only what was written is reported.

        Raises:
            OSError: The file cannot be written, or a process that was started later has taken it over.
        """
        if not self._dirty:
            return
        self._refuse_if_taken_over()
        content = {
            "format": FORMAT,
            "owner": self._owner,
            "id": self.id,
            "version": self.version,
            "acknowledged": self.acknowledged,
            "next": self._next,
            "boot": self._boot,
            "clock_s": self._clock_s,
            "meter": self.meter.state(),
            "rows": [row.plain() for row in self._rows.values()],
        }
        # after a power cut a dropped row must not be there again: the controller has forgotten that it took it
        replace_json(self._path, content, durable=self._dropped)
        self._written = _identity(self._path)
        self._stored = StoredLedger(self.version, self.acknowledged, tuple(map(_reported, self._rows.values())))
        self._dirty = self._dropped = False

    def stored(self) -> StoredLedger:
        """Return the ledger as it was last written to disk."""
        return self._stored

    def acknowledge(self, version: int) -> None:
        """Drop the final rows of a version that is stored elsewhere, with all rows up to it."""
        if (until := min(version, self.version)) <= self.acknowledged:
            return
        self.acknowledged, self._dirty = until, True
        gone = [row.number for row in self._rows.values() if row.final and row.version <= self.acknowledged]
        for number in gone:
            del self._rows[number]
        self._dropped = self._dropped or bool(gone)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _refuse_if_taken_over(self) -> None:
        """Refuse to write over the ledger of a process that was started later, while this one was stopped."""
        try:
            found = _identity(self._path)
        except FileNotFoundError:
            return
        if found != self._written and (read_json(self._path) or {}).get("owner", 0) > self._owner:
            raise OSError(errno.ESTALE, "another process has taken it over", str(self._path))

    def _pass_time(self) -> None:
        """Add the time since the last call to the row of each GPU."""
        now_s = self._clock()
        seconds, self._clock_s = max(0.0, now_s - self._clock_s), now_s
        if not seconds:
            return
        for uid, rows in self._holders.items():
            row = rows[-1] if rows else self._idle[uid]
            row.gpu_s += seconds
            self._changed.add(row.number)

    def _book(self) -> None:
        """Add the energy of the last readings to the rows, and set to which row the next energy goes."""
        self._dirty = True
        owners = {
            uid: str((rows[-1] if rows and uid not in self._shared else self._idle[uid]).number)
            for uid, rows in self._holders.items()
        }
        for uid, parts in self.meter.hand_out(owners).items():
            for owner, drawn_mj in parts.items():
                row = self._rows.get(int(owner)) if owner is not None else None
                row = row or self._idle[uid]
                row.energy_mj += drawn_mj
                self._changed.add(row.number)
        for row in self._rows.values():
            # a GPU that does not answer goes on drawing for the rank that had it last, until it answers
            if not row.held and not row.final and self._is_over(row):
                row.final = True
                self._changed.add(row.number)
        if self._changed:
            self.version += 1
            for number in self._changed:
                self._rows[number].version = self.version
            self._changed.clear()

    def _is_over(self, row: _Row) -> bool:
        return row.uuid not in self._holders or self.meter.owner(row.uuid) != str(row.number)

    def _new(self, uid: str, rank: str) -> _Row:
        row = self._rows[self._next] = _Row(self._next, uid, rank)
        self._changed.add(row.number)
        self._next += 1
        return row

    def _release(self, row: _Row) -> None:
        row.held = False
        self._holders[row.uuid].remove(row)

    def _recall(self, rows: Sequence[Sequence[Any]]) -> None:
        for values in rows:
            row = self._rows[int(values[0])] = _Row(*values)
            if row.uuid not in self._holders:  # the GPU was taken out of the machine
                row.held = False
            elif not row.rank:
                self._idle[row.uuid] = row
            elif row.held:
                self._holders[row.uuid].append(row)


def _reported(row: _Row) -> LedgerRow:
    return LedgerRow(row.number, row.uuid, row.rank, row.energy_mj, row.gpu_s, row.final, row.version)


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns
