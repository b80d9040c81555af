"""The card of a section: its device room's object, torch's device, and what is computed on it."""

from __future__ import annotations

import importlib
import itertools
import math
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmarks.on_gpu.running import FAKE

if TYPE_CHECKING:
    import torch

    from powerflow.device.nvml import NvmlGpu

#: Whether sizes are tiny, because the driver is fake and torch computes on the CPU.
TINY = bool(os.environ.get(FAKE))


def the_gpu() -> NvmlGpu:
    """The first GPU that PowerFlow can use.

    Raises:
        RuntimeError: There is none; says why.
    """
    from powerflow.device.nvml import discover

    said: list[str] = []
    gpus = discover(platform.node(), said.append)
    if not gpus:
        raise RuntimeError("; ".join(said) or "the driver knows of no GPU")
    return gpus[0]


def device() -> torch.device:
    """Where torch computes."""
    import torch

    return torch.device("cpu" if TINY else "cuda:0")


def settle() -> None:
    """Wait until what was asked of the card is done."""
    import torch

    if not TINY:
        torch.cuda.synchronize()


@contextmanager
def busy() -> Iterator[None]:
    """Says to the fake driver, where there is one, that its card draws 300 W meanwhile."""
    if not TINY:
        yield
        return
    import mmap

    from tests.device.fake_nvml import FakeMachine

    with open(os.environ["FAKE_NVML_STATE"], "r+b") as file:
        gpu = FakeMachine.from_buffer(mmap.mmap(file.fileno(), 0)).gpu[0]
    gpu.power_w, gpu.utilisation = 300.0, 100
    try:
        yield
    finally:
        gpu.power_w, gpu.utilisation = 60.0, 0


def repeated(work: Callable[[], object], seconds: float) -> tuple[int, float]:
    """Do some work again and again for so long; how often it was done, and the seconds it took."""
    work()
    settle()
    began_s, times = time.perf_counter(), 0
    while time.perf_counter() - began_s < seconds:
        for _ in range(1 if TINY else 8):  # a driver takes orders faster than a card carries them out
            work()
            times += 1
        settle()
    return times, time.perf_counter() - began_s


def refreshed(work: Callable[[], object], seconds: float) -> dict[str, float | None]:
    """How often the driver renews a card's counter and its power, and how fast both follow work that begins.

    Asks the driver itself, as often as it answers, beside work that is done for so long.

    Returns:
        ``counter_every_s`` and ``power_every_s``, median seconds between two values; ``half_power_after_s`` and
        ``most_power_after_s``, seconds from the first work until the power had risen by 50 and by 90 % of its rise in
        all; ``half_counter_after_s``, until the counter's mean power between two values had risen by half.
    """
    pynvml = importlib.import_module("pynvml")
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    seen: list[tuple[float, float, float]] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            power_w = pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3
            energy_j = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
            seen.append((time.perf_counter(), power_w, energy_j))
            time.sleep(0.001)

    settle()
    time.sleep(0.5 if TINY else 3.0)  # what ran before no longer shows in the power
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    time.sleep(0.5)
    began_s = time.perf_counter()
    repeated(work, seconds)
    stop.set()
    watcher.join()
    powers = _renewed([(when, power_w) for when, power_w, _ in seen])
    counts = _renewed([(when, energy_j) for when, _, energy_j in seen])
    rates = [(b, (new - old) / (b - a)) for (a, old), (b, new) in itertools.pairwise(counts) if b > a]
    return {
        "counter_every_s": _median_gap(counts),
        "power_every_s": _median_gap(powers),
        "half_power_after_s": _risen(powers, began_s, 0.5),
        "most_power_after_s": _risen(powers, began_s, 0.9),
        "half_counter_after_s": _risen(rates, began_s, 0.5),
    }


def _renewed(values: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of values read again and again, the first and each that is another than the one before."""
    return values[:1] + [new for old, new in itertools.pairwise(values) if new[1] != old[1]]


def _median_gap(values: list[tuple[float, float]]) -> float | None:
    gaps = [b - a for (a, _), (b, _) in itertools.pairwise(values)]
    return statistics.median(gaps) if gaps else None


def _risen(values: list[tuple[float, float]], began_s: float, share: float) -> float | None:
    before = [value for when, value in values if when <= began_s]
    after = [(when, value) for when, value in values if when > began_s]
    if not before or not after:
        return None
    low, high = before[-1], statistics.median(value for _, value in after[-20:])
    return next((when - began_s for when, value in after if value >= low + share * (high - low)), None)


class Sampled:
    """Reads a GPU every 0.1 s beside what runs; integrates its power, and differences its counter."""

    def __init__(self, gpu: NvmlGpu) -> None:
        self._gpu, self._stop = gpu, threading.Event()
        self.readings = [gpu.read()]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampled:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.readings.append(self._gpu.read())

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self.readings.append(self._gpu.read())

    def result(self) -> dict[str, Any]:
        """Joules both ways, mean watts, clocks and why the card ran below them."""
        first, last = self.readings[0], self.readings[-1]
        pairs = list(zip(self.readings, self.readings[1:], strict=False))
        integral_j = sum((a.power_w + b.power_w) / 2 * (b.time_s - a.time_s) for a, b in pairs)
        counter_j, seconds = last.energy_j - first.energy_j, last.time_s - first.time_s
        return {
            "seconds": seconds,
            "readings": len(self.readings),
            "counter_j": counter_j,
            "integral_j": integral_j,
            "counter_over_integral": counter_j / integral_j if integral_j else None,
            "mean_w": counter_j / seconds if math.isfinite(counter_j) else integral_j / seconds,
            "clock_mhz": [min(r.clock_mhz for r in self.readings), max(r.clock_mhz for r in self.readings)],
            "held_back": sorted({reason for r in self.readings for reason in r.held_back}),
            "locked_mhz": last.locked_mhz,
            "power_limit_w": last.power_limit_w,
        }
