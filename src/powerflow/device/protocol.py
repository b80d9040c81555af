"""Define a GPU of any vendor. Units: watts, joules, MHz. Indices of GPUs count from 0 on each node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

#: A GPU of the cluster: the name of its node, and its index on this node.
Place = tuple[str, int]


class DeviceError(RuntimeError):
    """Error: a GPU could not carry out a request."""


class NotPermitted(DeviceError):
    """Error: the system does not permit the request. It may permit reading a GPU but not setting its clock."""


class Unsupported(DeviceError):
    """Error: the GPU does not support the request.

    Examples: it is split by MIG, has no energy counter, or has no clocks to lock.
    """


class DeviceLost(DeviceError):
    """Error: the GPU cannot be reached any more. It has fallen off the bus, or its driver was unloaded."""


@dataclass(frozen=True, slots=True)
class Activity:
    """Shares of the time since the last reading of a GPU, 0 to 1; nan where the GPU does not report it.

    Times the clock and the seconds, the first two are numbers of cycles. Unlike `Reading.utilisation`, they count how
    much the GPU did, and not only whether it did anything.

    Attributes:
        sm: Share of the time in which a multiprocessor (SM) was busy, as a mean over all of them.
        tensor: Share of the time in which tensor cores computed, as a mean over all multiprocessors.
        dram: Traffic to the GPU's memory, as a share of its highest bandwidth.
    """

    sm: float
    tensor: float
    dram: float


@dataclass(frozen=True, slots=True)
class Reading:
    """State of one GPU at one moment. A number that the GPU does not report is nan.

    Attributes:
        time_s: Time of the reading, in seconds on the monotonic clock of the GPU's machine. It means nothing on another
            machine: a reading that travels carries its age instead.
        power_w: Power now.
        energy_j: Value of the GPU's energy counter: joules since some fixed moment.
        clock_mhz: Clock of the GPU now.
        locked_mhz: Clock that the GPU is locked to; None if it is not locked. For a GPU that does not report this: the
            clock that was requested last, or None if the GPU runs faster.
        utilisation: Share of time in which the GPU computed something, 0 to 1.
        held_back: Reasons why the GPU runs below the requested clock: ``power``, ``heat``, ``idle``, ``other``.
        power_limit_w: Power limit of the GPU.
        ecc_errors: Uncorrectable memory errors since the driver was loaded.
        xids: Numbers of the errors (NVIDIA's Xids) that the driver has reported since the GPU was opened.
        pids: Pids of the processes that compute on the GPU; None if not reported.
        activity: What the GPU did since its last reading; None if it does not report it, or not for this time.
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
    activity: Activity | None = None


@runtime_checkable
class ReadsAhead(Protocol):
    """A GPU that takes time to answer.

    Call `begin_reading` on several such GPUs first; then all of them are read at the same time.
    """

    def begin_reading(self) -> None:
        """Start to read the GPU; the next call of `Gpu.read` returns this reading. Raises no error."""
        ...


class Gpu(Protocol):
    """One GPU.

    Attributes:
        uuid: Globally unique name of the GPU.
        node: Name of its node.
        index: Number of the GPU on its node, from 0.
        gpu_type: Name in PowerFlow's catalogue; the vendor's name if the catalogue does not have the GPU.
        emulated: True if the hardware does not exist. Figures of such a GPU are marked wherever they are shown.
    """

    uuid: str
    node: str
    index: int
    gpu_type: str
    emulated: bool

    def read(self) -> Reading:
        """Return the state of this GPU now.

        Raises:
            DeviceLost: The GPU cannot be reached any more.
        """
        ...

    def clocks_mhz(self) -> Sequence[float]:
        """Return the clocks in MHz that this GPU can be locked to, ascending.

        Raises:
            Unsupported: The clock of this GPU cannot be locked.
        """
        ...

    def lock_clock(self, clock_mhz: float) -> None:
        """Request a fixed clock in MHz. The GPU may run at another clock, so read the clock afterwards.

        Raises:
            NotPermitted: The system does not permit setting clocks.
            Unsupported: The clock of this GPU cannot be locked.
            DeviceLost: The GPU cannot be reached any more.
        """
        ...

    def unlock_clock(self) -> None:
        """Undo `lock_clock`, so that the GPU chooses its clock itself.

        Raises:
            NotPermitted: The system does not permit setting clocks.
            Unsupported: The clock of this GPU cannot be locked.
            DeviceLost: The GPU cannot be reached any more.
        """
        ...
