"""Define a GPU, of whatever vendor. Units: watts, joules, MHz; indices count from 0 on each node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

#: A GPU of the cluster: its node and its index there.
Place = tuple[str, int]


class DeviceError(RuntimeError):
    """A GPU could not carry out a request."""


class NotPermitted(DeviceError):
    """The system does not permit it: reading may work, setting clocks does not."""


class Unsupported(DeviceError):
    """This GPU cannot do it (MIG, no energy counter, no clocks to lock)."""


class DeviceLost(DeviceError):
    """The GPU is gone (fell off the bus, driver unloaded)."""


@dataclass(frozen=True, slots=True)
class Reading:
    """State of one GPU at one moment.

    Attributes:
        time_s: Seconds on the monotonic clock of this machine.
        power_w: Power now; nan if not reported, as for all figures below.
        energy_j: Its energy counter: joules since some fixed moment.
        clock_mhz: GPU clock now.
        locked_mhz: Clock that it is locked to; None if it is free. If the GPU does not report it: the clock requested
            last, unless it runs faster.
        utilisation: Share of time in which something ran, 0 to 1.
        held_back: Why it runs below the requested clock: any of ``power``, ``heat``, ``idle``, ``other``.
        power_limit_w: Its power limit.
        ecc_errors: Uncorrectable memory errors since the driver was loaded.
        xids: Errors that the driver has reported since the GPU was opened, by NVIDIA's numbers.
        pids: Processes that compute on it; None if not reported.
    """

    time_s: float
    power_w: float
    energy_j: float
    clock_mhz: float
    locked_mhz: float | None
    utilisation: float
    held_back: frozenset[str] = frozenset()
    power_limit_w: float = math.nan
    ecc_errors: float = math.nan
    xids: tuple[int, ...] = ()
    pids: tuple[int, ...] | None = None


@runtime_checkable
class ReadsAhead(Protocol):
    """GPU whose reading takes time, so that several are better read at once."""

    def begin_reading(self) -> None:
        """Start to read; the next `Gpu.read` returns this answer. Raises nothing."""
        ...


class Gpu(Protocol):
    """One GPU.

    Attributes:
        uuid: Its unique name, on any machine.
        node: Its node.
        index: Its number on the node.
        gpu_type: Its name in PowerFlow's catalogue, or the vendor's if the catalogue has none.
        emulated: True if no such hardware exists; shown wherever its figures are shown.
    """

    uuid: str
    node: str
    index: int
    gpu_type: str
    emulated: bool

    def read(self) -> Reading:
        """Read its state.

        Raises:
            DeviceLost: The GPU is gone.
        """
        ...

    def clocks_mhz(self) -> Sequence[float]:
        """Return the clocks that it can be locked to, ascending.

        Raises:
            Unsupported: It cannot be locked at all.
        """
        ...

    def lock_clock(self, clock_mhz: float) -> None:
        """Request a fixed clock. The GPU may not follow: read the clock afterwards.

        Raises:
            NotPermitted, Unsupported, DeviceLost: See the classes.
        """
        ...

    def unlock_clock(self) -> None:
        """Let the GPU choose its clock again.

        Raises:
            NotPermitted, Unsupported, DeviceLost: See the classes.
        """
        ...
