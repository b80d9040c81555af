"""Read NVIDIA GPUs and set their clocks, through nvidia-ml-py (`pynvml`), which is imported at the first use.

NVML cannot tell which clock a GPU is locked to. So `Reading.locked_mhz` is the clock that *this object* has requested
and not reset. `Reading.clock_mhz` is the actual clock, which heat and the power limit can keep lower. `lease.Clocks`
writes requests to disk, so that a clock is also reset if the process that set it was killed.

Setting clocks needs root, or a driver that permits it to all users. Reading needs no special rights.
"""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from powerflow.device.deadline import CHANGE_S, INIT_S, OPEN_S, READ_S, Call, NotAnswering, thread_of
from powerflow.device.gpm import ActivitySampler
from powerflow.device.protocol import DeviceError, DeviceLost, NotPermitted, Reading, Unsupported

if TYPE_CHECKING:  # the watchdog reads this module, and must stay small
    from powerflow.cost.guess import CardLimits

#: Our error for each of NVML's error codes (names as in nvml.h); any other code is a plain `DeviceError`.
ERRORS: dict[str, type[DeviceError]] = {
    "NVML_ERROR_NO_PERMISSION": NotPermitted,
    "NVML_ERROR_NOT_SUPPORTED": Unsupported,
    "NVML_ERROR_FUNCTION_NOT_FOUND": Unsupported,
    "NVML_ERROR_LIBRARY_NOT_FOUND": Unsupported,
    "NVML_ERROR_DRIVER_NOT_LOADED": Unsupported,
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": Unsupported,
    "NVML_ERROR_FREQ_NOT_SUPPORTED": Unsupported,
    "NVML_ERROR_NO_DATA": Unsupported,
    "NVML_ERROR_DEPRECATED": Unsupported,
    "NVML_ERROR_ARGUMENT_VERSION_MISMATCH": Unsupported,
    "NVML_ERROR_GPU_IS_LOST": DeviceLost,
    "NVML_ERROR_GPU_NOT_FOUND": DeviceLost,
    "NVML_ERROR_NOT_FOUND": DeviceLost,
    "NVML_ERROR_RESET_REQUIRED": DeviceLost,
    "NVML_ERROR_UNINITIALIZED": DeviceLost,
}

#: `Reading.held_back` for each of NVML's reasons for a lower clock, except a clock that was set (bits of
#: `nvmlClocksEventReasons` in nvml.h).
REASONS = {
    0x1: "idle",
    0x4: "power",
    0x8: "other",
    0x10: "other",
    0x20: "heat",
    0x40: "heat",
    0x80: "power",
    0x100: "other",
}
#: Number of reported errors that are remembered.
MOST_XIDS = 64
#: Tolerance between actual and requested clock: hardware takes steps of 7.5 or 15 MHz.
NEAR_MHZ, NEAR_SHARE = 30.0, 0.03


def is_above(clock_mhz: float, asked_mhz: float) -> bool:
    """Return True if a GPU runs faster than the requested clock, beyond a tolerance; False if ``clock_mhz`` is nan."""
    return clock_mhz > asked_mhz + max(NEAR_MHZ, NEAR_SHARE * asked_mhz)


def discover(node: str, say: Callable[[str], None] | None = None) -> list[NvmlGpu]:
    """Return the NVIDIA GPUs of this machine that can be used; an empty list if there is no driver.

    Args:
        node: Name of this machine.
        say: Function that is called for each GPU that cannot be used, and if there is no GPU. Its argument is the
            reason: the driver's message and the name of the driver's function that failed.
    """
    tell = say or (lambda reason: None)
    try:
        binding = _binding()
        count = _driver_says(binding, binding.nvmlDeviceGetCount)
    except DeviceError as error:
        tell(str(error))
        return []
    gpus = []
    for index in range(count):
        try:
            gpus.append(_usable(binding, node, index))
        except DeviceError as error:
            tell(str(error))
    return gpus


def find(uuid: str, node: str) -> NvmlGpu:
    """Return the GPU with this UUID. Its number may have changed.

    Raises:
        Unsupported: There is no driver, or the GPU is split by MIG.
        DeviceLost: There is no GPU with this UUID.
    """
    binding = _binding()

    def index_of() -> int:
        with _translated(binding, uuid):
            return int(binding.nvmlDeviceGetIndex(binding.nvmlDeviceGetHandleByUUID(uuid)))

    return _usable(binding, node, thread_of(uuid, uuid).call(index_of, CHANGE_S))


class NvmlGpu:
    """One NVIDIA GPU, a `Gpu`.

    It calls the driver in a separate thread for this GPU, and raises the errors in `ERRORS`.

    Raises:
        DeviceLost: There is no GPU with this number.
        DeviceError: The GPU does not report its UUID or its name.
    """

    emulated = False

    def __init__(self, binding: Any, node: str, index: int) -> None:
        self._nvml = binding
        self.node = node
        self.index = self.driver_index = index
        self._asked_mhz: float | None = None
        self._reading: Call | None = None
        self._events: Any = None  # None: not registered yet; False: it reports none
        self._xids: tuple[int, ...] = ()
        self._was_lost = False
        self._activity = ActivitySampler(binding, partial(_translated, binding, str(self)))
        self.uuid: str
        self.machine_gpus: int  # number of GPUs that the driver sees
        self.pci_address: tuple[int, ...]  # domain, bus, device; empty if not reported
        self.minor: int  # N of its file /dev/nvidiaN, by which Slurm counts; the driver's index if not reported
        self.vendor_name: str
        thread_of(f"{node}/{index}", str(self)).call(self._open, OPEN_S)
        from powerflow.device.identity import type_of

        self.gpu_type = type_of(self.vendor_name, self._limits).name
        self._own = thread_of(self.uuid, str(self))

    def _open(self) -> None:
        with self._calls():
            self._handle = self._nvml.nvmlDeviceGetHandleByIndex(self.driver_index)
            self.uuid = self._nvml.nvmlDeviceGetUUID(self._handle)
            self.vendor_name = self._nvml.nvmlDeviceGetName(self._handle)
            self.machine_gpus = int(self._nvml.nvmlDeviceGetCount())
        minor = self._tells(self._nvml.nvmlDeviceGetMinorNumber, self._handle)
        self.minor = self.driver_index if math.isnan(minor) else int(minor)
        try:
            with self._calls():
                pci = self._nvml.nvmlDeviceGetPciInfo(self._handle)
            self.pci_address = int(pci.domain), int(pci.bus), int(pci.device)
        except (Unsupported, NotPermitted):
            self.pci_address = ()
        self._limits = self._read_limits()

    def begin_reading(self) -> None:
        """Start to read the GPU; the next call of `read` returns this reading. Raises no error."""
        with contextlib.suppress(NotAnswering):
            self._reading = self._own.begin(self._read, READ_S)

    def read(self) -> Reading:
        """Return the state of this GPU now.

        Raises:
            NotAnswering: The driver did not answer in time; it may answer a later call.
            DeviceLost: The GPU cannot be reached any more.
        """
        call, self._reading = self._reading, None
        reading: Reading = self._own.end(call or self._own.begin(self._read, READ_S), READ_S)
        return reading

    def _read(self) -> Reading:
        nvml = self._nvml
        if self._was_lost:  # a GPU that has come back has a new handle
            with self._calls():
                self._handle = nvml.nvmlDeviceGetHandleByUUID(self.uuid)
        try:
            reading = self._read_all()
        except DeviceLost:
            self._was_lost = True
            self._activity.begin_anew()
            raise
        self._was_lost = False
        return reading

    def _read_all(self) -> Reading:
        nvml, handle = self._nvml, self._handle
        energy_mj = self._tells(nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
        time_s = time.monotonic()  # at the moment of the counter: power is their difference quotient
        activity = self._activity.read(handle)
        power_mw = self._tells(nvml.nvmlDeviceGetPowerUsage, handle)
        clock_mhz = self._tells(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM)
        asked_mhz = self._asked_mhz
        uncorrected = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        return Reading(
            time_s=time_s,
            power_w=power_mw / 1e3,
            energy_j=energy_mj / 1e3,
            clock_mhz=clock_mhz,
            locked_mhz=None if asked_mhz is None or is_above(clock_mhz, asked_mhz) else asked_mhz,
            utilisation=self._tells(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100.0,
            held_back=self._held_back(),
            power_limit_w=self._may_tell(nvml.nvmlDeviceGetEnforcedPowerLimit, handle) / 1e3,
            ecc_errors=self._may_tell(nvml.nvmlDeviceGetTotalEccErrors, handle, *uncorrected),
            xids=self._reported(),
            pids=self._pids(),
            activity=activity,
        )

    def _held_back(self) -> frozenset[str]:
        """Return why the GPU runs below its clock, in the words of `REASONS`.

        The driver's function for this has another name in older drivers, so both names are tried.
        """
        for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            bits = self._may_tell(getattr(self._nvml, name, lambda _: math.nan), self._handle)
            if not math.isnan(bits):
                return frozenset(word for bit, word in REASONS.items() if int(bits) & bit)
        return frozenset()

    def _reported(self) -> tuple[int, ...]:
        """Return the Xids (NVIDIA's error numbers) that the driver has reported since the GPU was opened."""
        nvml = self._nvml
        if self._events is None:
            try:
                with self._calls():
                    self._events = nvml.nvmlEventSetCreate()
                    nvml.nvmlDeviceRegisterEvents(self._handle, nvml.nvmlEventTypeXidCriticalError, self._events)
            except DeviceLost:
                self._events = None
                raise
            except DeviceError:
                self._events = False
        for _ in range(MOST_XIDS if self._events else 0):
            try:
                found = nvml.nvmlEventSetWait_v2(self._events, 0)
            except nvml.NVMLError:  # none (a timeout), or the GPU is lost, which the other calls report
                break
            self._xids = (*self._xids, int(found.eventData))[-MOST_XIDS:]
        return self._xids

    def _pids(self) -> tuple[int, ...] | None:
        try:
            with self._calls():
                found = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except DeviceLost:
            raise
        except DeviceError:
            return None
        return tuple(sorted({int(process.pid) for process in found}))

    def clocks_mhz(self) -> Sequence[float]:
        """Return the clocks in MHz that this GPU can be locked to, at the highest memory clock, which training uses."""
        return self._own.call(self._clocks_mhz, CHANGE_S)

    def _clocks_mhz(self) -> Sequence[float]:
        with self._calls():
            memory = self._nvml.nvmlDeviceGetSupportedMemoryClocks(self._handle)
            clocks = self._nvml.nvmlDeviceGetSupportedGraphicsClocks(self._handle, max(memory)) if memory else []
        if not clocks:
            raise Unsupported(f"{self} lists no clocks to lock")
        return sorted(float(clock) for clock in set(clocks))

    def _read_limits(self) -> CardLimits:
        """Read the limits of this GPU from the driver: clocks, default power limit, memory."""
        from powerflow.device.identity import limits_of

        try:
            clocks = self._clocks_mhz()
        except (Unsupported, NotPermitted):
            clocks = []
        return limits_of(self._nvml, self._handle, self._may_tell, clocks)

    def lock_clock(self, clock_mhz: float) -> None:
        """Request a fixed clock in MHz; see `Gpu.lock_clock`."""
        if not math.isfinite(clock_mhz) or clock_mhz <= 0:
            raise DeviceError(f"{clock_mhz} MHz is no clock: give MHz above 0")
        mhz = round(clock_mhz)
        self._change(lambda: self._nvml.nvmlDeviceSetGpuLockedClocks(self._handle, mhz, mhz), float(mhz))

    def unlock_clock(self) -> None:
        """Undo `lock_clock`, so that the GPU chooses its clock itself; see `Gpu.unlock_clock`."""
        self._change(lambda: self._nvml.nvmlDeviceResetGpuLockedClocks(self._handle), None)

    def _change(self, ask: Callable[[], None], asked_mhz: float | None) -> None:
        def change() -> None:
            with self._calls():
                ask()
            self._asked_mhz = asked_mhz

        self._own.call(change, CHANGE_S)

    def split_by_mig(self) -> bool:
        """Return True if this GPU is split into instances by MIG.

        Then all instances share one power, energy and clock reading.
        """
        return self._own.call(self._split_by_mig, CHANGE_S)

    def _split_by_mig(self) -> bool:
        try:
            with self._calls():
                current, _ = self._nvml.nvmlDeviceGetMigMode(self._handle)
        except Unsupported:
            return False
        return bool(current == self._nvml.NVML_DEVICE_MIG_ENABLE)

    def takes_programs(self) -> bool:
        """Return True if programs may use this GPU; False after ``nvidia-smi -c PROHIBITED``."""
        mode = self._own.call(lambda: self._may_tell(self._nvml.nvmlDeviceGetComputeMode, self._handle), CHANGE_S)
        return bool(mode != self._nvml.NVML_COMPUTEMODE_PROHIBITED)

    def __str__(self) -> str:
        return f"GPU {self.driver_index} of {self.node}"

    def _calls(self) -> contextlib.AbstractContextManager[None]:
        return _translated(self._nvml, str(self))

    def _tells(self, ask: Callable[..., float], *arguments: object) -> float:
        """Call a function of the driver, and return its number; nan if the GPU does not support it."""
        try:
            with self._calls():
                return float(ask(*arguments))
        except (Unsupported, NotPermitted):
            return math.nan

    def _may_tell(self, ask: Callable[..., float], *arguments: object) -> float:
        """Call a driver function for a figure that is not essential, and return the figure.

        The result is nan if the call fails. Only if the GPU is lost, DeviceLost is raised.
        """
        try:
            return self._tells(ask, *arguments)
        except DeviceLost:
            raise
        except DeviceError:
            return math.nan


def _usable(binding: Any, node: str, index: int) -> NvmlGpu:
    gpu = NvmlGpu(binding, node, index)
    if gpu.split_by_mig():
        raise Unsupported(
            f"{gpu} ({gpu.vendor_name}) is split by MIG: its instances share one clock and one energy counter, "
            "so PowerFlow cannot control or meter single jobs; switch MIG off to use it"
        )
    if not gpu.takes_programs():
        raise NotPermitted(
            f"{gpu} ({gpu.vendor_name}) cannot be used by programs: its compute mode is prohibited; "
            f"nvidia-smi -i {index} -c DEFAULT allows them"
        )
    return gpu


def _binding() -> Any:
    """Import pynvml and start NVML.

    Raises:
        Unsupported: nvidia-ml-py is not installed, or there is no driver.
    """
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError as error:
        raise Unsupported("nvidia-ml-py is not installed: pip install 'powerflow-scheduler[nvidia]'") from error
    _driver_says(pynvml, pynvml.nvmlInit)
    return pynvml


def _driver_says(binding: Any, ask: Callable[[], Any]) -> Any:
    """Call a driver function that concerns all GPUs, and return its answer."""

    def answer() -> Any:
        with _translated(binding, "NVML"):
            return ask()

    return thread_of("NVML", "NVML").call(answer, INIT_S)


@contextlib.contextmanager
def _translated(binding: Any, who: str) -> Iterator[None]:
    """Raise errors of NVML as the error classes in `ERRORS`."""
    try:
        yield
    except binding.NVMLError as error:
        kind = {getattr(binding, name): kind for name, kind in ERRORS.items()}.get(error.value, DeviceError)
        raise kind(f"{who}: {error}{_function(error)}") from error


def _function(error: Exception) -> str:
    """Return the name of the driver's function that failed, in brackets; "" if the traceback does not show it."""
    called = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((f" ({name})" for name in reversed(called) if name.startswith("nvml")), "")
