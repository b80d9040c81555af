"""One GPU, whoever made it. Units: watts, joules, MHz; indices count from 0 in their node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

#: A GPU of the cluster: its node and its index there.
Place = tuple[str, int]


class DeviceError(RuntimeError):
    """A GPU did not do what was asked."""


class NotPermitted(DeviceError):
    """The system does not let us: reading may work, setting clocks does not."""


class Unsupported(DeviceError):
    """This GPU cannot do it, and says why (MIG, no energy counter, no clocks to lock)."""


class DeviceLost(DeviceError):
    """The GPU is gone (fell off the bus, driver unloaded)."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one GPU says of itself at one moment.

    Attributes:
        time_s: When, seconds on the monotonic clock of this machine.
        power_w: Watts now; nan where it cannot tell.
        energy_j: Joules since some fixed moment, as its own counter says; nan where it has none.
        clock_mhz: GPU clock now.
        locked_mhz: Clock that it is locked to; None if it is free. Where the GPU cannot tell, the clock that was asked
            for last, unless it runs above it.
        utilisation: Share of time in which something ran, 0 to 1; nan where it cannot tell.
        held_back: Why it runs below the clock it was given: any of ``power``, ``heat``, ``idle``, ``other``.
        power_limit_w: Watts that it keeps itself below; nan where it cannot tell.
        ecc_errors: Memory errors that could not be corrected, since the driver was loaded; nan where it cannot tell.
        xids: Errors that the driver has reported of it since it was opened, as NVIDIA numbers them.
        pids: Processes that compute on it; None where it cannot tell.
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
    """A GPU whose reading takes time: several can be read at once."""

    def begin_reading(self) -> None:
        """Start to read; the next `Gpu.read` gives this answer. Raises nothing."""
        ...


class Gpu(Protocol):
    """One GPU.

    Attributes:
        uuid: Names it for ever, on any machine.
        node: Node it is in.
        index: Its number there.
        gpu_type: Name in PowerFlow's catalogue, or as the vendor names it where the catalogue has none.
        emulated: True when no such hardware exists; shown wherever its figures are shown.
    """

    uuid: str
    node: str
    index: int
    gpu_type: str
    emulated: bool

    def read(self) -> Reading:
        """What it says of itself now.

        Raises:
            DeviceLost: If it is gone.
        """
        ...

    def clocks_mhz(self) -> Sequence[float]:
        """Clocks it can be locked to, ascending.

        Raises:
            Unsupported: If it cannot be locked at all.
        """
        ...

    def lock_clock(self, clock_mhz: float) -> None:
        """Ask for a fixed clock. A request only: read it back.

        Raises:
            NotPermitted, Unsupported, DeviceLost: See there.
        """
        ...

    def unlock_clock(self) -> None:
        """Let the GPU choose its clock again.

        Raises:
            NotPermitted, Unsupported, DeviceLost: See there.
        """
        ...
