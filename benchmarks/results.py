"""Run the study behind docs/results.md and docs/results/: every policy on real traces, at equal metered energy.

    python -m benchmarks.results            # everything; resumes where it was stopped
    python -m benchmarks.results --quick    # two small cases, to see that it works; writes into out/

Cases are spread over all cores, and each is kept in ``out/results`` under a fingerprint of the code that made it: a
result of other code is never taken for one of this. Data are read from ``../shared/data/traces`` (``--data``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import powerflow
from benchmarks import results_data
from benchmarks.results_page import render
from powerflow.cli.compare import document
from powerflow.cli.output import atomic_write, to_json
from powerflow.simulate.compare import compare, policies_for
from powerflow.simulate.experiment import Believed
from powerflow.simulate.frontier import Sweep
from powerflow.simulate.parallel import usable_cores, workers
from powerflow.simulate.workload.build import build_workload
from powerflow.simulate.workload.workload import Workload
from powerflow.trace.read import read_trace
from powerflow.trace.record import Trace

SEEDS = (0, 1, 2)
LOADS = (0.8, 1.2, 2.0)
LEVELS = (1.0, 0.9, 0.8, 0.7)
#: Fewer first settings than `powerflow compare`; knobs are turned finer around the levels all the same.
SWEEP = Sweep(etas=(0.4, 0.7, 1.0), clocks=2, rounds=2)
#: What schedulers know, costs and sizes; with anything but the truth only `prices` runs (and FIFO, for its energy).
BELIEFS = (("oracle", "known"), ("fitted", "known"), ("online", "known"), ("oracle", "unknown"))
MOST_GPUS = 64


@dataclass(frozen=True, slots=True)
class Source:
    """A workload of the study.

    Attributes:
        name: How the page calls it.
        files: Logs; seed ``s`` takes number ``s mod n``.
        cluster: What it runs on.
        window: Consecutive jobs taken from the log, from a place drawn by the seed; None: all.
    """

    name: str
    files: tuple[str, ...]
    cluster: str
    window: int | None = None


SOURCES = (
    Source("ITP 01", ("itp/cluster01.csv",), "16x8:A100", window=500),
    Source("ITP 02", ("itp/cluster02.csv",), "16x8:A100", window=500),
    Source("ITP 05", ("itp/cluster05.csv",), "16x8:A100", window=500),
    Source("Philly", ("philly.csv.gz",), "16x8:A100", window=1000),
    Source("Pollux", tuple(f"pollux/workload-{k}.csv" for k in (1, 2, 3)), "16x4:T4"),
    Source("Sia", ("sia/philly-1.csv", "sia/saturn-1.csv", "sia/philly-2.csv"), "16x4:T4"),
)
QUICK = (Source("ITP 01", ("itp/cluster01.csv",), "16x8:A100", window=200), SOURCES[4])


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison: a workload at a load, and what schedulers know."""

    source: Source
    load: float
    costs: str
    sizes: str
    seeds: tuple[int, ...]

    @property
    def main(self) -> bool:
        """Whether all policies take part."""
        return (self.costs, self.sizes) == BELIEFS[0]

    @property
    def file(self) -> str:
        """Where it is kept."""
        name = self.source.name.replace(" ", "-").lower()
        return f"{name}-{self.load:g}-{self.costs}-{self.sizes}-{len(self.seeds)}-{self.source.window or 'all'}.json"


def workload_of(seed: int, source: Source, load: float, data: Path) -> Workload:
    trace = read_trace(data / source.files[seed % len(source.files)])
    trace = replace(trace, source=source.files[seed % len(source.files)])
    return build_workload(window(trace, source.window, seed), source.cluster, load=load, seed=seed, most_gpus=MOST_GPUS)


def window(trace: Trace, jobs: int | None, seed: int) -> Trace:
    """So many consecutive jobs of a log, from a place drawn by the seed."""
    if jobs is None or jobs >= len(trace.jobs):
        return trace
    first = int(np.random.default_rng([seed, 0x819D0]).integers(len(trace.jobs) - jobs))
    return replace(trace, jobs=trace.jobs[first : first + jobs])


def run_case(case: Case, data: Path, folder: Path) -> str:
    """Run a case, unless it is there already; returns the file."""
    path = folder / case.file
    if not path.exists():
        began = time.process_time()
        comparison = compare(
            partial(workload_of, source=case.source, load=case.load, data=data),
            policies_for(case.sizes) if case.main else ["prices"],
            case.seeds,
            levels=LEVELS,
            believed=Believed(case.costs, case.sizes),
            sweep=SWEEP,
            bound_seeds=1 if case.main else 0,
            processes=1,
        )
        body: dict[str, Any] = document(comparison, None)
        body |= {"case": asdict(case), "cpu_s": time.process_time() - began}
        with atomic_write(path) as file:
            file.write_text(to_json("result", body), encoding="utf-8")
    return str(path)


def cases(sources: Sequence[Source], loads: Sequence[float], seeds: tuple[int, ...]) -> list[Case]:
    """All cases, those with all policies first: they take longest."""
    return [
        Case(source, load, costs, sizes, seeds)
        for costs, sizes in BELIEFS
        for source in sources
        for load in sorted(loads)
    ]


def fingerprint() -> str:
    """A name for the code that results come from: every file of the package but the command line and the reports."""
    root = Path(powerflow.__file__).parent
    seen = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        rooms = path.relative_to(root).parts
        if path.suffix in {".py", ".toml", ".csv"} and rooms[0] not in {"cli", "report"}:
            seen.update("/".join(rooms).encode() + b"\0" + path.read_bytes())
    seen.update(repr((SWEEP, LEVELS, MOST_GPUS)).encode())
    return seen.hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description="Every policy on real traces at equal metered energy.")
    parser.add_argument("--quick", action="store_true", help="two small cases; writes out/results-quick.md")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/traces"), help="folder of the traces")
    parser.add_argument("--processes", type=int, default=usable_cores(), help="default: one per core")
    asked = parser.parse_args()
    if not asked.data.is_dir():
        sys.exit(f"{asked.data}: no such folder; say where the traces are with --data")
    root = Path(__file__).parents[1]
    folder = root / "out" / "results" / fingerprint()
    folder.mkdir(parents=True, exist_ok=True)
    todo = cases(QUICK, (1.2,), (0, 1)) if asked.quick else cases(SOURCES, LOADS, SEEDS)
    told = _teller(todo, folder)
    with workers(partial(run_case, data=asked.data.resolve(), folder=folder), asked.processes) as ask_all:
        files = ask_all(todo, told)
    results = [json.loads(Path(file).read_text("utf-8")) for file in files]
    page = root / ("out/results-quick.md" if asked.quick else "docs/results.md")
    notes = Path(__file__).with_name("results_notes.md")
    command = "python -m benchmarks.results" + (" --quick" if asked.quick else "")
    said = notes.read_text("utf-8") if notes.exists() and not asked.quick else ""
    text, rows = render(results, command, said, page.stem)
    results_data.write(rows, page.with_suffix(""))
    with atomic_write(page) as file:
        file.write_text(text, encoding="utf-8")
    print(f"written: {page.relative_to(root)}")


def _teller(todo: Sequence[Case], folder: Path) -> Callable[[int], None]:
    """Says which cases are done, and how much CPU time each took."""
    came = 0

    def told(i: int) -> None:
        nonlocal came
        came += 1
        cpu_s = json.loads((folder / todo[i].file).read_text("utf-8"))["cpu_s"]
        print(f"{came}/{len(todo)} {todo[i].file.removesuffix('.json')}: {cpu_s:.0f} CPU seconds", flush=True)

    return told


if __name__ == "__main__":
    main()
