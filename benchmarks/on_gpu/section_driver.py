"""Whether the device room says of the card what the driver and ``nvidia-smi`` say of it. Nothing is set."""

from __future__ import annotations

import csv
import shutil
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.on_gpu.card import TINY, Sampled, the_gpu
from powerflow.cost.catalogue import gpu_type

#: Fields of ``nvidia-smi --query-gpu``, without units.
_FIELDS = (
    *("name", "uuid", "power.limit", "power.default_limit", "power.draw", "clocks.max.sm", "clocks.sm"),
    *("memory.total", "ecc.errors.uncorrected.volatile.total", "compute_mode", "mig.mode.current"),
    *("clocks_throttle_reasons.active", "utilization.gpu", "temperature.gpu", "pstate"),
)


def measure(out: Path) -> dict[str, Any]:
    """Names, limits, a reading, and the counter against integrated power while nothing runs."""
    gpu = the_gpu()
    reading = gpu.read()
    card = gpu_type(gpu.gpu_type)
    clocks = list(gpu.clocks_mhz())
    with Sampled(gpu) as idle:
        time.sleep(1.0 if TINY else 15.0)
    began_s, reads = time.perf_counter(), 20
    for _ in range(reads):
        gpu.read()
    read_ms = 1e3 * (time.perf_counter() - began_s) / reads
    told = _smi()
    return {
        "vendor_name": gpu.vendor_name,
        "gpu_type": gpu.gpu_type,
        "uuid": gpu.uuid,
        "type": asdict(card),
        "reading": {name: getattr(reading, name) for name in reading.__dataclass_fields__},
        "clocks_mhz": {"lowest": clocks[0], "highest": clocks[-1], "count": len(clocks)},
        "idle": idle.result(),
        "idle_w_of_type": card.idle_w,
        "read_ms": read_ms,
        "nvidia_smi": told,
        "agrees": _agrees(told, gpu.vendor_name, gpu.uuid, reading.power_limit_w, clocks[-1], reading.ecc_errors),
    }


def _smi() -> dict[str, str]:
    """What ``nvidia-smi`` says; empty where there is none."""
    command = shutil.which("nvidia-smi")
    if command is None or TINY:
        return {}
    ask = [command, "-i", "0", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(ask, capture_output=True, text=True, check=False, timeout=20)
    if done.returncode:
        return {"failed": (done.stdout + done.stderr).strip()}
    values = next(csv.reader(done.stdout.splitlines()))
    return dict(zip(_FIELDS, (value.strip() for value in values), strict=True))


def _agrees(
    told: dict[str, str], name: str, uuid: str, limit_w: float, clock_mhz: float, ecc: float
) -> dict[str, bool | None]:
    """Field by field; None where ``nvidia-smi`` does not say."""

    def near(field: str, value: float, within: float) -> bool | None:
        try:
            return abs(float(told[field]) - value) <= within
        except (KeyError, ValueError):
            return None

    return {
        "name": told["name"] == name if "name" in told else None,
        "uuid": told["uuid"] == uuid if "uuid" in told else None,
        "power_limit": near("power.limit", limit_w, 1.0),
        "clock_max": near("clocks.max.sm", clock_mhz, 15.0),
        "ecc_errors": near("ecc.errors.uncorrected.volatile.total", ecc, 0.0),
    }
