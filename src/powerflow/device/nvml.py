"""NVIDIA GPUs, through nvidia-ml-py (`pynvml`), which is loaded when the first of them is asked for.

What NVML cannot say: which clock a GPU is locked to. `Reading.locked_mhz` is therefore what *this object* asked for and
has not taken back; `Reading.clock_mhz` is what the GPU really runs at, which heat and the power limit keep below that.
`lease.Clocks` keeps on disk what was asked for before, so that a lock outlives nobody who should have taken it back.

Setting clocks needs root, or a driver that was told otherwise; reading needs nothing.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from powerflow.device.protocol import DeviceError, DeviceLost, NotPermitted, Reading, Unsupported

#: What NVML's error codes mean to us (names as in nvml.h); any other code is a plain `DeviceError`.
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


def discover(node: str, say: Callable[[str], None] | None = None) -> list[NvmlGpu]:
    """The NVIDIA GPUs of this machine that can be used; none where there is no driver.

    Args:
        node: Name of this machine.
        say: Is told why a GPU is left out, or why there is none.
    """
    tell = say or (lambda reason: None)
    try:
        binding = _binding()
        with _translated(binding, "NVML"):
            count = binding.nvmlDeviceGetCount()
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
    """The GPU that has this UUID, whatever its number is by now.

    Raises:
        Unsupported: If there is no driver, or the GPU is split by MIG.
        DeviceLost: If it is not there.
    """
    binding = _binding()
    with _translated(binding, uuid):
        handle = binding.nvmlDeviceGetHandleByUUID(uuid)
        index = binding.nvmlDeviceGetIndex(handle)
    return _usable(binding, node, index)


def catalogue_name(vendor_name: str) -> str:
    """The catalogue's name of a GPU: "NVIDIA A100-SXM4-80GB" is A100; its own name where the catalogue has none."""
    from powerflow.cost.catalogue import gpu_types

    # the words of the name, and all runs of them: "TITAN Xp" and "RTX 3080 Ti" are several
    words = [word.lower() for word in re.findall(r"[A-Za-z0-9]+", vendor_name)]
    runs = {"".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}
    known = {"".join(re.findall(r"[A-Za-z0-9]+", name)).lower(): name for name in gpu_types()}
    found = sorted(set(known) & runs, key=len)
    # a sibling that only adds to the name (RTX 6000 Ada) is another card
    other = {"ada", "max", "pro", "super"} & set(words)
    return known[found[-1]] if found and not other else vendor_name


class NvmlGpu:
    """One NVIDIA GPU, a `Gpu`. Its errors are those of `ERRORS`.

    Raises:
        DeviceLost: If there is none of this number.
        DeviceError: If it does not say who it is.
    """

    emulated = False

    def __init__(self, binding: Any, node: str, index: int) -> None:
        self._nvml = binding
        self.node = node
        self.index = index
        self._asked_mhz: float | None = None
        with self._calls():
            self._handle = binding.nvmlDeviceGetHandleByIndex(index)
            self.uuid: str = binding.nvmlDeviceGetUUID(self._handle)
            self.vendor_name: str = binding.nvmlDeviceGetName(self._handle)
        self.gpu_type = catalogue_name(self.vendor_name)

    def read(self) -> Reading:
        """See `Gpu.read`; what this GPU does not tell is nan."""
        nvml, handle = self._nvml, self._handle
        energy_mj = self._tells(nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
        time_s = time.monotonic()  # next to the counter: joules over seconds are watts only if they are of one moment
        power_mw = self._tells(nvml.nvmlDeviceGetPowerUsage, handle)
        return Reading(
            time_s=time_s,
            power_w=power_mw / 1e3,
            energy_j=energy_mj / 1e3,
            clock_mhz=self._tells(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            locked_mhz=self._asked_mhz,
            utilisation=self._tells(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100.0,
        )

    def clocks_mhz(self) -> Sequence[float]:
        """See `Gpu.clocks_mhz`: those at the highest memory clock, which training uses."""
        with self._calls():
            memory = self._nvml.nvmlDeviceGetSupportedMemoryClocks(self._handle)
            clocks = self._nvml.nvmlDeviceGetSupportedGraphicsClocks(self._handle, max(memory)) if memory else []
        if not clocks:
            raise Unsupported(f"{self} lists no clocks to lock")
        return sorted(float(clock) for clock in set(clocks))

    def lock_clock(self, clock_mhz: float) -> None:
        """See `Gpu.lock_clock`."""
        if not math.isfinite(clock_mhz) or clock_mhz <= 0:
            raise DeviceError(f"{clock_mhz} MHz is no clock")
        with self._calls():
            self._nvml.nvmlDeviceSetGpuLockedClocks(self._handle, round(clock_mhz), round(clock_mhz))
        self._asked_mhz = float(round(clock_mhz))

    def unlock_clock(self) -> None:
        """See `Gpu.unlock_clock`."""
        with self._calls():
            self._nvml.nvmlDeviceResetGpuLockedClocks(self._handle)
        self._asked_mhz = None

    def split_by_mig(self) -> bool:
        """Whether it is split into instances (MIG): then watts, joules and clocks are of all of them together."""
        try:
            with self._calls():
                current, _ = self._nvml.nvmlDeviceGetMigMode(self._handle)
        except Unsupported:
            return False
        return bool(current == self._nvml.NVML_DEVICE_MIG_ENABLE)

    def __str__(self) -> str:
        return f"GPU {self.index} of {self.node}"

    def _calls(self) -> contextlib.AbstractContextManager[None]:
        return _translated(self._nvml, str(self))

    def _tells(self, ask: Callable[..., float], *arguments: object) -> float:
        """What it says, or nan where it cannot tell."""
        try:
            with self._calls():
                return float(ask(*arguments))
        except (Unsupported, NotPermitted):
            return math.nan


def _usable(binding: Any, node: str, index: int) -> NvmlGpu:
    gpu = NvmlGpu(binding, node, index)
    if gpu.split_by_mig():
        raise Unsupported(
            f"{gpu} ({gpu.vendor_name}) is split by MIG: its instances share one clock and one energy counter, "
            "so neither can be given to one job; switch MIG off to use it"
        )
    return gpu


def _binding() -> Any:
    """The vendor's binding, ready for use.

    Raises:
        Unsupported: If it is not installed, or there is no driver.
    """
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError as error:
        raise Unsupported("nvidia-ml-py is not installed: pip install 'powerflow-scheduler[nvidia]'") from error
    with _translated(pynvml, "NVML"):
        pynvml.nvmlInit()
    return pynvml


@contextlib.contextmanager
def _translated(binding: Any, who: str) -> Iterator[None]:
    """Raise the vendor's errors as ours, by `ERRORS`."""
    try:
        yield
    except binding.NVMLError as error:
        kind = {getattr(binding, name): kind for name, kind in ERRORS.items()}.get(error.value, DeviceError)
        raise kind(f"{who}: {error}") from error
