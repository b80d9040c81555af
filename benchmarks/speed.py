"""How fast it is: simulated jobs per CPU-second, one decision at three sizes, and the start of the command.

    python -m benchmarks.speed [--philly] [--swf] [--before CHECKOUT]

Prints CPU seconds and, beside every target of the project's, the ratio to it (≥ 1 is met). Figures are the best of
several runs: other work on the machine only ever adds. ``--philly`` adds the whole Philly trace (about a minute),
``--swf`` a log of 187,520 jobs (about a minute and a half). ``--before`` simulates with another checkout too,
turn by turn in the same run, so that the ratio does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from powerflow.cluster.spec import parse_cluster
from powerflow.cost.catalogue import axes_for, family_model, gpu_type
from powerflow.cost.tabulate import tabulate
from powerflow.job import Job
from powerflow.policy.registry import load
from powerflow.scheduler.events import Completed, CostLearned, Event, Progress, Submitted
from powerflow.scheduler.scheduler import Scheduler
from powerflow.simulate.run import Simulation
from powerflow.simulate.workload.build import build_workload
from powerflow.simulate.workload.workload import Workload
from powerflow.trace.read import read_trace

TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
CLASSES = (("imagenet", 256), ("bert", 384), ("deepspeech2", 640), ("cifar10", 2048), ("yolov3", 64), ("ncf", 32768))


def best_cpu_s(work: Callable[[], object], times: int) -> float:
    """CPU seconds of the fastest of several calls."""
    best = math.inf
    for _ in range(times):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def row(name: str, measured: str, target: str, ratio: float) -> None:
    print(
        f"  {name:<44} {measured:>18}   target {target:>12}   ×{ratio:5.2f} {'met' if ratio >= 1 else 'MISSED'}",
        flush=True,
    )


def simulations(philly: bool) -> None:
    """Jobs per CPU-second under `prices`, the building of the simulation and its results included."""
    print("simulate with prices (oracle belief), jobs per CPU-second")
    cases = [(f"ITP cluster{n}", TRACES / "itp" / f"cluster{n}.csv", "16x8:A100", 5) for n in ("01", "02", "05")]
    if philly:
        cases.append(("Philly, whole", TRACES / "philly.csv.gz", "352x8:A100", 1))
    for name, path, cluster, times in cases:
        if not path.exists():
            print(f"  {name}: {path.name} is not there, skipped")
            continue
        workload = build_workload(read_trace(path), cluster)

        def run(workload: Workload = workload) -> None:
            simulation = Simulation(workload, load("prices"))
            simulation.run()
            simulation.result()

        run() if times > 1 else None
        cpu_s = best_cpu_s(run, times)
        rate = len(workload.jobs) / cpu_s
        row(f"{name} ({len(workload.jobs):,} jobs, {cluster})", f"{rate:,.0f} /s", "5,000 /s", rate / 5000)
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    row("peak memory of this process", f"{peak_gib:.2f} GiB", "1.5 GiB", 1.5 / peak_gib)


def beside(checkout: Path, rounds: int) -> None:
    """Simulate with this checkout and with another one, turn by turn, and print the ratio of their CPU times."""
    print(f"simulate, jobs per CPU-second: {checkout}, then this checkout")
    here = Path(__file__).resolve().parents[1]
    for trace, cluster, moments in (
        ("itp/cluster01.csv", "16x8:A100", 0),
        ("itp/cluster02.csv", "16x8:A100", 0),
        ("itp/cluster05.csv", "16x8:A100", 0),
        ("philly.csv.gz", "352x8:A100", 20_000),
    ):
        for policy in ("prices", "fifo", "srtf"):
            words = [sys.executable, "-m", "benchmarks.speed", "--turns", trace, cluster, policy, str(moments)]
            both = [
                subprocess.Popen(
                    words,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "PYTHONPATH": f"{each / 'src'}{os.pathsep}{here}"},
                )
                for each in (checkout.resolve(), here)
            ]
            times = [[_turn(each) for each in both] for _ in range(rounds)]
            for each in both:
                each.communicate()
            (jobs, before_s), (_, now_s) = (
                min(column, key=lambda turn: turn[1]) for column in zip(*times, strict=True)
            )
            rates = f"{jobs / before_s:,.0f} → {jobs / now_s:,.0f} /s"
            row(f"{trace}, {policy}", rates, "× 2", before_s / now_s / 2)


def _turn(process: subprocess.Popen[str]) -> tuple[int, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("again\n")
    process.stdin.flush()
    jobs, cpu_s = process.stdout.readline().split()
    return int(jobs), float(cpu_s)


def turns(trace: str, cluster: str, policy: str, moments: int) -> None:
    """Simulate once for each line of the input; print how many jobs ended, and the CPU seconds."""
    workload = build_workload(read_trace(TRACES / trace), cluster)
    Simulation(workload, load(policy)).run(events=300)  # compiles
    for _ in sys.stdin:
        simulation = Simulation(workload, load(policy))
        simulation.run(events=moments or None)
        print(simulation.ended, simulation.cpu_s, flush=True)


def crowded_scheduler(nodes: int, jobs: int) -> tuple[Scheduler, list[Event]]:
    """A scheduler whose cluster is full of running jobs, and the events that keep changing it."""
    spec = parse_cluster(f"{nodes}x8:A100")
    axes = {"A100": axes_for("A100", 8, [1 << k for k in range(8)])}
    scheduler = Scheduler(spec, axes, {"A100": gpu_type("A100").idle_w}, load("prices"), energy_price=1e-4)
    rng = np.random.default_rng(0)
    events: list[Event] = []
    for name, batch in CLASSES:
        table = tabulate(family_model(name, "A100"), axes["A100"], batch)
        events.append(CostLearned(f"{name}/{batch}", "A100", table))
    for number in range(jobs):
        name, batch = CLASSES[rng.integers(len(CLASSES))]
        work = float(rng.lognormal(11, 1.5))
        job = Job(f"job-{number}", 0.0, f"{name}/{batch}", work, 1, gpus_max=64)
        events.append(Submitted(job, work, 30.0))
    return scheduler, events


def decisions() -> None:
    """One decision with all jobs running: a tenth of a percent end, as many arrive, all report progress."""
    print("one decision of the scheduler (events, policy, checks, placement, reasons), CPU time")
    measured = []
    for gpus, jobs, target_ms in ((1000, 500, 1.0), (10_000, 5_000, 10.0), (100_000, 50_000, 100.0)):
        scheduler, events = crowded_scheduler(gpus // 8, jobs)
        began = time.process_time()
        scheduler.step(0.0, events)
        first_ms = 1e3 * (time.process_time() - began)
        rng = np.random.default_rng(1)
        active = [f"job-{number}" for number in range(jobs)]
        times = []
        for number in range(1, 16):
            now_s = 60.0 * number
            churn: list[Event] = [
                Completed(active.pop(int(rng.integers(len(active))))) for _ in range(max(1, jobs // 1000))
            ]
            slots = np.array([scheduler.slot(name) for name in active], np.int64)
            churn.append(Progress(slots, np.full(len(slots), 10.0 * number)))
            for extra in range(max(1, jobs // 1000)):
                work = float(rng.lognormal(11, 1.5))
                job = Job(f"late-{number}-{extra}", now_s, "imagenet/256", work, 1, gpus_max=64)
                churn.append(Submitted(job, work, 30.0))
                active.append(job.id)
            began = time.process_time()
            plan = scheduler.step(now_s, churn)
            times.append(1e3 * (time.process_time() - began))
            assert plan.decided
        best = min(times)
        measured.append((jobs, best))
        row(f"{gpus:,} GPUs, {jobs:,} jobs", f"{best:.2f} ms", f"{target_ms:g} ms", target_ms / best)
        print(f"    median {np.median(times):.2f} ms; the first, which starts all of them, {first_ms:.1f} ms")
    (small, small_ms), *_, (large, large_ms) = measured
    growth = large_ms / small_ms
    allowed = large * math.log(large) / (small * math.log(small))
    row(f"growth from {small:,} to {large:,} jobs", f"×{growth:.0f}", f"×{allowed:.0f} (J·log J)", allowed / growth)


def swf(jobs: int) -> None:
    """CPU seconds of `powerflow simulate` on a made-up SWF log of so many jobs and some 300 different requests."""
    print(f"powerflow simulate, {jobs:,} jobs of SWF on 512 GPUs, CPU time of a fresh process")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.swf"
        write_swf(path, jobs=jobs, gpus=512, load=0.8)
        command = [str(Path(sys.executable).with_name("powerflow")), "simulate", str(path), "--cluster", "64x8:A100"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run([*command, "--quiet"], check=True, capture_output=True)
        cpu_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    row("reading, building, simulating", f"{cpu_s:.0f} s", "120 s", 120 / cpu_s)


def write_swf(path: Path, *, jobs: int, gpus: int, load: float) -> None:
    """Write a log: half the jobs on one GPU, the others lognormal up to the machine, durations lognormal, bursts."""
    rng = np.random.default_rng(1)
    counts = np.where(rng.random(jobs) < 0.5, 1, rng.lognormal(2.0, 1.5, jobs)).astype(int).clip(1, gpus)
    run_s = rng.lognormal(6.5, 1.8, jobs).astype(int).clip(1)
    submit_s = np.cumsum(rng.exponential(1.0, jobs) * np.where(rng.random(jobs) < 0.02, 20.0, 0.4))
    submit_s *= float(counts @ run_s) / (gpus * load) / submit_s[-1]
    with path.open("w") as log:
        log.write(f"; Version: 2.2\n; MaxProcs: {gpus}\n")
        for job, (submit, run, count) in enumerate(zip(submit_s.astype(int), run_s, counts, strict=True), start=1):
            log.write(f"{job} {submit} 60 {run} {count} -1 -1 {count} -1 -1 1 {job % 300} 1 {job % 50} 1 1 -1 -1\n")


def start() -> None:
    """Wall time of the command's help and of the import, fresh processes."""
    print("start, wall time of a fresh process")
    for name, command in (
        ("import powerflow", [sys.executable, "-c", "import powerflow"]),
        ("powerflow --help", [str(Path(sys.executable).with_name("powerflow")), "--help"]),
    ):
        times = []
        for _ in range(5):
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times.append(time.perf_counter() - began)
        row(name, f"{min(times):.2f} s", "0.3 s", 0.3 / min(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--philly", action="store_true", help="also simulate the whole Philly trace")
    parser.add_argument("--swf", action="store_true", help="also simulate 187,520 jobs of SWF")
    parser.add_argument("--before", type=Path, help="only compare simulations with those of another checkout")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each checkout")
    parser.add_argument("--turns", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turns:
        trace, cluster, policy, moments = arguments.turns
        turns(trace, cluster, policy, int(moments))
        return
    if arguments.before:
        beside(arguments.before, arguments.rounds)
        return
    start()
    decisions()
    simulations(arguments.philly)
    if arguments.swf:
        swf(187_520)


if __name__ == "__main__":
    main()
