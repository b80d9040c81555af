"""How long ``powerflow replay`` takes on an accounting dump of 100,000 jobs.

    python -m benchmarks.replay [--jobs N] [--processes N]

Makes up three months of a cluster of 1,024 GPUs that runs EASY backfilling, prints them as ``sacct -P`` does, replays
them, and prints wall and CPU seconds. Other work on the machine adds to the wall; CPU seconds over cores are what an
idle machine would come near to.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from powerflow.simulate.replay.log import log_of
from powerflow.simulate.replay.queue import start_times
from powerflow.trace.synthetic import generate

CLUSTER, GPUS, DAYS, LOAD = "128x8:A100", 1024, 90.0, 0.5
TARGET_S = 60.0


def write_dump(path: Path, jobs: int) -> float:
    """Write the dump, and say the mean wait in it, seconds. Jobs start when EASY, knowing durations, starts them."""
    trace = generate(jobs=jobs, days=DAYS, gpus=GPUS, load=LOAD, seed=1, profile="itp")
    log = log_of(trace, GPUS)
    start_s = np.round(start_times(log.submit_s, log.run_s, log.gpus, GPUS, "easy"))
    first = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
    lines = ["JobID|JobName|User|Account|Submit|Start|End|ElapsedRaw|State|AllocTRES|ReqTRES"]
    for i, job in enumerate(trace.jobs):
        run_s = round(job.duration_s)
        moments = (job.submit_s, start_s[i], start_s[i] + run_s)
        submit, start, end = (
            datetime.fromtimestamp(first + float(moment), UTC).strftime("%Y-%m-%dT%H:%M:%S") for moment in moments
        )
        tres = f"billing={job.gpus},cpu={8 * job.gpus},gres/gpu={job.gpus},mem={64 * job.gpus}G,node=1"
        name = f"{1000 + i}|{job.name}|u{i % 37}|{job.project}"
        lines.append(f"{name}|{submit}|{start}|{end}|{run_s}|COMPLETED|{tres}|gres/gpu={job.gpus}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return float((start_s - log.submit_s).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=None)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder) / "sacct.txt"
        wait_s = write_dump(dump, asked.jobs)
        print(f"{asked.jobs:,} jobs over {DAYS:g} days on {CLUSTER}, mean wait {wait_s / 3600:.2f} h", flush=True)
        command = [sys.executable, "-c", "from powerflow.cli.main import run; run()", "replay", str(dump)]
        command += ["--cluster", CLUSTER, "--json"]
        command += [] if asked.processes is None else ["--processes", str(asked.processes)]
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall_s = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = used.ru_utime + used.ru_stime
    load = os.getloadavg()[0]
    print(f"wall {wall_s:.1f} s (load average {load:.1f}), CPU {cpu_s:.1f} s; target {TARGET_S:g} s wall")
    print(f"peak memory of one process {used.ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
