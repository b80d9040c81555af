"""What the card counts of its work, by the driver's performance counters (GPM), for loads whose work is known."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.on_gpu.card import TINY, busy, device, repeated, the_gpu
from powerflow.agent.work import WorkCounters

if TYPE_CHECKING:
    from powerflow.device.nvml import NvmlGpu


def measure(out: Path) -> dict[str, Any]:
    """Counters while nothing runs, while tensor cores multiply, and while memory is copied; the cost of a reading."""
    import torch

    gpu, size = the_gpu(), 128 if TINY else 8192
    kind = torch.float32 if TINY else torch.bfloat16
    a, b = (torch.randn(size, size, device=device(), dtype=kind) for _ in range(2))
    source = torch.randn((1 << 12) if TINY else (1 << 29), device=device())
    target = torch.empty_like(source)
    began_s, reads = time.perf_counter(), 20
    for _ in range(reads):
        gpu.read()
    read_ms = 1e3 * (time.perf_counter() - began_s) / reads
    idle = counted(gpu, _nothing)
    with busy():
        products = counted(gpu, lambda seconds: repeated(lambda: a @ b, seconds))
        copies = counted(gpu, lambda seconds: repeated(lambda: target.copy_(source), seconds))
    return {
        "reported": gpu.read().activity is not None,
        "read_ms": read_ms,
        "idle": idle,
        "products": products | {"operations_each": 2.0 * size**3},
        "copies": copies | {"bytes_each": 2.0 * source.numel() * source.element_size()},
    }


def _nothing(seconds: float) -> tuple[int, float]:
    time.sleep(seconds)
    return 1, seconds


def counted(gpu: NvmlGpu, work: Callable[[float], tuple[int, float]]) -> dict[str, Any]:
    """Read the card every second beside some work; what its counters say a second, and how much was done."""
    counters, stop, activities = WorkCounters(), threading.Event(), []

    def read() -> None:
        while True:
            reading = gpu.read()
            counters.take(gpu.uuid, reading)
            activities.append(reading.activity)
            if stop.wait(0.3 if TINY else 1.0):
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    times, took_s = work(1.5 if TINY else 6.0)
    stop.set()
    reader.join()
    found = counters.of(gpu.uuid)
    seconds = found.counted_s
    return {
        "times_a_second": times / took_s,
        "counted_s": seconds,
        "busy_gigacycles_a_second": found.busy / seconds if seconds else None,
        "tensor_gigacycles_a_second": found.tensor / seconds if seconds else None,
        "dram_share": found.dram / seconds if seconds else None,
        "sm_share": [None if each is None else each.sm for each in activities],
    }
