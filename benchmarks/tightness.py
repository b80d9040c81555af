"""Say how far `prices` is from the proven lower bound (docs/results/bound.csv), in a fraction of the study's time.

``python -m benchmarks.tightness`` takes the study's cases (sources and loads of `benchmarks.results`, first seed, true
costs and sizes), runs `prices` alone at every energy price, and divides by the bound at each level of FIFO's energy.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from benchmarks.results import LEVELS, LOADS, SOURCES, SWEEP, Source, workload_of
from benchmarks.results_page import BOUND_LIMIT
from powerflow.simulate.compare import compare


def ratios(source: Source, load: float, data: Path) -> list[float | None]:
    """`prices` over the bound at each level; None where `prices` does not come down to it."""
    comparison = compare(
        partial(workload_of, source=source, load=load, data=data),
        ["prices"],
        [0],
        levels=LEVELS,
        sweep=SWEEP,
        bound_seeds=1,
        processes=1,
    )
    by_level = {row.level: row.vs_bound for row in comparison.rows if row.policy == "prices"}
    return [found.mean if (found := by_level.get(level)) is not None else None for level in LEVELS]


def lines(data: Path) -> Iterator[str]:
    """The table, a line at a time as it comes."""
    cases = [(source, load) for source in SOURCES for load in LOADS]
    seen: list[float] = []
    yield "| jobs | load | " + " | ".join(f"{level:.0%}" for level in LEVELS) + " |"
    yield "|---|---|" + "---|" * len(LEVELS)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(ratios, source, load, data) for source, load in cases]
        for (source, load), future in zip(cases, waiting, strict=True):
            found = future.result()
            seen += [ratio for ratio in found if ratio is not None]
            cells = " | ".join("–" if ratio is None else f"{ratio:.3f}" for ratio in found)
            yield f"| {source.name} | {load:g} | {cells} |"
    within = sum(ratio <= BOUND_LIMIT for ratio in seen)
    yield f"\nwithin {BOUND_LIMIT:.2f}: {within} of {len(seen)}; median {median(seen):.3f}, worst {max(seen):.3f}"


def main() -> None:
    data = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
    if not data.is_dir():
        sys.exit(f"{data}: no such folder; the traces are not part of this repository")
    for line in lines(data):
        print(line, flush=True)


if __name__ == "__main__":
    main()
