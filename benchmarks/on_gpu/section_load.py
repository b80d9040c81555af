"""A known load, metered: products of square matrices, whose operations are counted, and their joules."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.on_gpu.card import TINY, Sampled, busy, device, refreshed, repeated, the_gpu
from powerflow.device.meter import Meter


def measure(out: Path) -> dict[str, Any]:
    """Operations, joules by the meter for their owner and for idle, and by the counter and the integral beside it."""
    import torch

    gpu, size, seconds = the_gpu(), (128 if TINY else 8192), (1.0 if TINY else 12.0)
    kind = torch.float32 if TINY else torch.bfloat16
    a, b = (torch.randn(size, size, device=device(), dtype=kind) for _ in range(2))
    meter = Meter([gpu])
    meter.settle(0.0, {gpu.uuid: None})
    time.sleep(0.2)
    meter.settle(1.0, {gpu.uuid: "load"})
    with busy(), Sampled(gpu) as sampled:
        times, took_s = repeated(lambda: a @ b, seconds)
    settled = meter.settle(2.0, {gpu.uuid: None})
    drawn = sampled.result()
    watts = drawn["mean_w"]  # the meter's stretch also holds the first product and what surrounds the work
    operations = 2.0 * size**3 * times
    joules = settled.jobs_mj.get("load", 0) / 1e3
    return {
        "what": f"{times} products of {size} x {size} matrices ({kind})",
        "seconds": took_s,
        "tflop_s": operations / took_s / 1e12,
        "metered_j": joules,
        "idle_j": settled.idle_mj / 1e3,
        "gflop_per_j": operations / took_s / watts / 1e9 if watts > 0 else None,
        "sampled": drawn,
        "refreshed": refreshed(lambda: a @ b, 1.0 if TINY else 4.0),
    }
