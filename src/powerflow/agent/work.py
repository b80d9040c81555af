"""Add up the work that each GPU of a machine has done, as its hardware counts it, whichever job it works for.

A training step has a fixed amount of work: the same operations on tensor cores and the same bytes to and from memory,
at any clock. So work per second is the speed of a job, up to a factor that nobody needs to know: the ratio of two
speeds of the same job. It is known without the job's help.

Three totals of a GPU only grow. Between two readings with the times t₁ and t₂ they grow by

- ``busy``: u · f · (t₂ − t₁), in 10⁹ cycles;
- ``tensor``: a · f · (t₂ − t₁), in 10⁹ cycles;
- ``dram``: m · (t₂ − t₁), in seconds of the full bandwidth.

f is the mean of the clocks at both readings. u is `Reading.utilisation`, and a and m are `Activity.tensor` and
`Activity.dram`, all three of the second reading, which says what was since the first one.

``busy`` is no work. A GPU counts as busy while any program runs on it, also while that waits for memory. So if a job is
always busy, its busy cycles per second fall in proportion to the clock, although it may be slowed less or not at all.
It is there for GPUs that report nothing better: it gives the largest slowdown that the GPU's own clock can cause. It
does not show that a GPU waits for a slower one, since communication kernels count as busy while they wait.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from powerflow.device.protocol import Reading

#: Readings further apart than this say nothing about the time between them, seconds.
GAP_S = 10.0
#: Cycles of a GPU at 1 MHz in a second, in 10⁹.
GIGACYCLES = 1e-3


@dataclass(frozen=True, slots=True)
class GpuWork:
    """Work of one GPU since its first reading. Only the difference between two of these means something.

    Attributes:
        busy: Cycles in which the GPU was busy, in 10⁹.
        tensor: Cycles in which its tensor cores computed, as a mean over its multiprocessors, in 10⁹; nan if the GPU
            does not report it.
        dram: Traffic to its memory, in seconds of the full bandwidth; nan if the GPU does not report it.
        counted_s: Seconds that were counted: the difference of a total, divided by that of ``counted_s``, is the work
            per second.
    """

    busy: float
    tensor: float
    dram: float
    counted_s: float


@dataclass(slots=True)
class _Total:
    """One total of a GPU that it may not report."""

    value: float = math.nan
    silent_s: float = 0.0  # since it was reported last
    ended: bool = False  # it was not reported for so long that a part of the total is unknown

    def misses(self, share: float, seconds: float) -> bool:
        """Return True if this was reported until now and is missing, so that these seconds must not be counted."""
        if not math.isnan(share) or math.isnan(self.value):
            self.silent_s = 0.0
            return False
        self.silent_s += seconds
        if self.silent_s > GAP_S:
            self.value, self.ended = math.nan, True
        return not self.ended

    def add(self, amount: float) -> None:
        """Add an amount; nan if it was not reported."""
        if not math.isnan(amount) and not self.ended:
            self.value = amount if math.isnan(self.value) else self.value + amount


@dataclass(slots=True)
class _Counted:
    """What was counted of one GPU."""

    last: Reading
    busy: float = 0.0
    counted_s: float = 0.0
    tensor: _Total = field(default_factory=_Total)
    dram: _Total = field(default_factory=_Total)

    def add(self, reading: Reading) -> None:
        """Add the work between the last reading and this one; nothing if it is not newer."""
        before, seconds = self.last, reading.time_s - self.last.time_s
        if not seconds > 0.0:
            return
        self.last = reading
        cycles = (before.clock_mhz + reading.clock_mhz) / 2 * seconds * GIGACYCLES
        busy = reading.utilisation * cycles
        if seconds > GAP_S or math.isnan(busy):
            return
        did = reading.activity
        tensor, dram = (did.tensor, did.dram) if did is not None else (math.nan, math.nan)
        if any([self.tensor.misses(tensor, seconds), self.dram.misses(dram, seconds)]):  # asks both
            return
        self.tensor.add(tensor * cycles)
        self.dram.add(dram * seconds)
        self.busy += busy
        self.counted_s += seconds


class WorkCounters:
    """Adds up the work of GPUs from their readings. Any thread may use it.

    Time is counted for all totals of a GPU or for none of them, so that each can be divided by the counted seconds. It
    is not counted between readings more than `GAP_S` apart; if clock or utilisation is not reported; and if ``tensor``
    or ``dram`` was reported before and is missing now. If one of them stays missing for more than `GAP_S`, the GPU
    counts as one that does not report it: it is nan from then on, and the other totals go on.
    """

    def __init__(self) -> None:
        self._counted: dict[str, _Counted] = {}
        self._guard = threading.Lock()  # held for moments only

    def take_all(self, readings: Mapping[str, Reading]) -> None:
        """Take the readings of several GPUs, by UUID: see `take`."""
        for uuid, reading in readings.items():
            self.take(uuid, reading)

    def take(self, uuid: str, reading: Reading) -> None:
        """Add the work between the last reading of a GPU and this one.

        A reading that is not newer than the last one changes nothing.

        Args:
            uuid: UUID of the GPU.
            reading: The reading, with its time on the monotonic clock of the machine.
        """
        with self._guard:
            counted = self._counted.setdefault(uuid, _Counted(reading))
            counted.add(reading)

    def of(self, uuid: str) -> GpuWork:
        """Return the work of a GPU so far. For a GPU without a reading nothing is known, and no second is counted."""
        with self._guard:
            counted = self._counted.get(uuid)
            if counted is None:
                return GpuWork(0.0, math.nan, math.nan, 0.0)
            return GpuWork(counted.busy, counted.tensor.value, counted.dram.value, counted.counted_s)
