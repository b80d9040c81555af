"""What emulated GPUs, leases and their watchdog cost, and how well a pacer and a throttle keep to the model.

    python -m benchmarks.devices

Half a minute. Real processes and real time on this machine; the GPUs are emulated.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from powerflow.cluster.spec import parse_cluster
from powerflow.cost.catalogue import family_model
from powerflow.cost.model import phi, step_time
from powerflow.device.emulated.gpu import EmulatedGpu, create
from powerflow.device.emulated.pacer import Pacer
from powerflow.device.emulated.throttle import Throttle
from powerflow.device.lease import Clocks

TRUTH = family_model("resnet50", "A100")
STEP_S = 0.05
_COUNT = """
import sys, time
print(flush=True)
count, end_s = 0, time.monotonic() + float(sys.argv[1])
while time.monotonic() < end_s:
    count += 1
print(count)
"""


def median_us(call: Callable[[], object], repeats: int = 2000) -> float:
    """Microseconds of one call, median."""
    took_s = []
    for _ in range(repeats):
        began_s = time.perf_counter()
        call()
        took_s.append(time.perf_counter() - began_s)
    return statistics.median(took_s) * 1e6


def pacing(gpu: EmulatedGpu) -> None:
    scale = STEP_S / float(step_time(TRUTH.throughput, 1, 64, 1, gpu.clock_max_mhz, False))
    at_once, paced = Pacer(TRUTH, [gpu], time_scale=1e-9), Pacer(TRUTH, [gpu], time_scale=scale)

    def step(pacer: Pacer) -> None:
        pacer.pace(gpus=1, nodes=1, local_batch=64, accumulation=1, began_s=time.monotonic())

    print(f"pace beside its sleep          {median_us(lambda: step(at_once)):10.1f} us")
    cpu_s, began_s = time.process_time(), time.monotonic()
    for _ in range(120):
        step(paced)
    took_s = time.monotonic() - began_s
    print(
        f"120 steps of {STEP_S * 1e3:.0f} ms              {took_s / 120 * 1e3:10.2f} ms each, {paced.overruns} overruns"
    )
    print(f"CPU while pacing               {(time.process_time() - cpu_s) / took_s:10.2%} of a core")
    paced.idle()


def reading(gpu: EmulatedGpu) -> None:
    print(f"read a GPU                     {median_us(gpu.read):10.1f} us")
    print(f"read its clock alone           {median_us(gpu.state):10.1f} us")


def clocks(directory: Path, gpus: list[EmulatedGpu]) -> psutil.Process:
    borrowed = Clocks(directory, gpus, print)
    began_s = time.perf_counter()
    borrowed.set(gpus[0].uuid, 705)
    print(f"first clock, watchdog started  {(time.perf_counter() - began_s) * 1e3:10.1f} ms")
    print(f"set a clock as it is           {median_us(lambda: borrowed.set(gpus[0].uuid, 705)):10.1f} us")
    other = median_us(lambda: [borrowed.set(gpus[0].uuid, clock) for clock in (1005, 705)], 500) / 2
    print(f"set another clock              {other:10.1f} us")
    while not (text := (directory / "watchdog.lock").read_text()):
        time.sleep(0.01)
    return psutil.Process(int(text))


def throttling(directory: Path, gpu: EmulatedGpu) -> None:
    counts = []
    for clock_mhz in (gpu.clock_max_mhz, 705.0):
        gpu.lock_clock(clock_mhz)
        command = [sys.executable, "-c", _COUNT, "5"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as script:
            assert script.stdout is not None
            script.stdout.readline()
            throttle = Throttle(directory, {script.pid: [gpu]}, TRUTH, local_batch=64)
            counts.append(int(script.stdout.readline()))
            throttle.close()
    expected = 1.0 / float(phi(TRUTH.throughput, 705.0))
    print(f"throttled to 705 of 1410 MHz   {counts[1] / counts[0]:10.3f} of its speed, {expected:.3f} by the model")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        gpus = create(Path(folder) / "gpus", parse_cluster("1x2:A100").nodes)
        reading(gpus[0])
        pacing(gpus[0])
        watchdog = clocks(Path(folder) / "devices", gpus)
        before, began_s = watchdog.cpu_times(), time.monotonic()
        throttling(Path(folder) / "devices", gpus[1])
        after = watchdog.cpu_times()
        share = (after.user + after.system - before.user - before.system) / (time.monotonic() - began_s)
        print(f"watchdog                       {watchdog.memory_info().rss / 2**20:10.1f} MiB, {share:.2%} of a core")
    watchdog.wait(60)  # it goes with its directory


if __name__ == "__main__":
    main()
