"""GPUs that say what a test tells them to say, and a machine whose processes may be killed."""

from __future__ import annotations

import json
import math
from pathlib import Path

from powerflow.agent.ledger import Ledger
from powerflow.device.protocol import DeviceError, DeviceLost, Reading
from powerflow.engine.devices import LedgerRow

NAN = math.nan


class Card:
    """A GPU whose energy counter is right, until the test says otherwise."""

    emulated = True
    node, gpu_type = "n0", "A100"

    def __init__(self, uuid: str = "A", index: int = 0) -> None:
        self.uuid, self.index = uuid, index
        self.time_s, self.power_w, self.energy_j = 100.0, 0.0, 0.0
        self.drawn_j = 0.0  # in truth
        self.error: DeviceError | None = None
        self.pids: tuple[int, ...] = ()
        self.locked_mhz: float | None = None
        self.reads = 0

    def draw(self, watts: float, seconds: float) -> None:
        """Draw so much for so long, from now on."""
        self.power_w = watts
        self.time_s += seconds
        self.energy_j += watts * seconds
        self.drawn_j += watts * seconds

    def read(self) -> Reading:
        self.reads += 1
        if self.error is not None:
            raise self.error
        clock_mhz = self.locked_mhz or 1410.0
        return Reading(self.time_s, self.power_w, self.energy_j, clock_mhz, self.locked_mhz, 1.0, pids=self.pids)

    def clocks_mhz(self) -> list[float]:
        return [705.0, 945.0, 1410.0]

    def lock_clock(self, clock_mhz: float) -> None:
        self.locked_mhz = clock_mhz

    def unlock_clock(self) -> None:
        self.locked_mhz = None

    def lose(self) -> None:
        self.error = DeviceLost("GPU is lost")


class Box:
    """A machine: some cards, a disk, and a process with the ledger that may be killed at any moment."""

    def __init__(self, directory: Path, *cards: Card) -> None:
        self.path, self.cards, self.boot, self.now_s = directory / "ledger.json", cards, "first boot", 1000.0
        self.start()

    def start(self) -> None:
        """As after SIGKILL: nothing is left but the file."""
        self.ledger = Ledger(self.path, self.cards, boot=self.boot, clock=lambda: self.now_s)

    def reboot(self) -> None:
        """The counters and the clock begin at 0 again, and no process is left."""
        self.boot = f"after {self.boot}"
        self.now_s = 10.0
        for card in self.cards:
            card.time_s, card.energy_j, card.power_w = 10.0, 0.0, 0.0
        self.start()

    def draw(self, watts: float, seconds: float) -> None:
        """All cards draw so much for so long."""
        self.now_s += seconds
        for card in self.cards:
            card.draw(watts, seconds)

    def rows(self) -> list[LedgerRow]:
        """What a report would say now."""
        self.ledger.save()
        rows = [LedgerRow(*row) for row in json.loads(json.dumps(self.ledger.stored().rows))]
        assert len({row.number for row in rows}) == len(rows)
        return rows

    def by_rank(self) -> dict[str, tuple[float, float]]:
        """Joules and GPU-seconds by rank; "" is idle."""
        found: dict[str, tuple[float, float]] = {}
        for row in self.rows():
            joules, seconds = found.get(row.rank, (0.0, 0.0))
            found[row.rank] = joules + row.energy_mj / 1e3, seconds + row.gpu_s
        return found
