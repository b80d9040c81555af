"""What setting the clocks of another scheduler's jobs saves: ``python -m benchmarks.beside [LIMIT]``.

For each workload that was measured at many clocks (33 on V100), a clock is chosen that slows it down by at most LIMIT
(5 %), as ``powerflow serve --beside slurm`` does it:

* ``work``: the GPU counts work, so the job's speed at each clock is measured, with random errors of 1 %;
* ``cycles``: it counts none, so the job is assumed to be as slow as its clock.

The energy of a step and its time there, as measured, are held against those at the highest clock.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import profiles
from benchmarks.clock_choice import chosen_clock
from powerflow.cost.observation import Observation

NOISE = 0.01


def assumed(points: Sequence[Observation]) -> list[Observation]:
    """Return what is believed of a job whose GPUs count no work: at half the clock, a step takes twice as long."""
    top = points[-1]
    assert top.clock_mhz is not None
    return [replace(seen, step_time_s=top.step_time_s * top.clock_mhz / (seen.clock_mhz or 1.0)) for seen in points]


def held(points: Sequence[Observation], chosen: int) -> tuple[float, float]:
    """Return the energy saved and the slowdown of a chosen clock against the highest one, as shares."""
    at, top = points[chosen], points[-1]
    assert at.power_w is not None
    assert top.power_w is not None
    slower = at.step_time_s / top.step_time_s
    return 1.0 - slower * at.power_w / top.power_w, slower - 1.0


def main(limit: str = "0.05") -> int:
    """Print one row for each way; exit with 1 if there are no profiles."""
    console, most = Console(width=120), float(limit)
    if not profiles.PROFILES.is_dir():
        console.print(f"no profiles at {profiles.PROFILES}")
        return 1
    jobs = [sorted(points, key=lambda seen: seen.clock_mhz or 0.0) for points in profiles.v100_clocks().values()]
    table = Table(title=f"Energy saved and slowdown, of at most {most:.0%}, in %", title_justify="left")
    for column in ("counts", "jobs", "saved mean", "least", "most", "slower mean", "most", "over the limit"):
        table.add_column(column, justify="left" if column == "counts" else "right")
    for way, believed, noise in (("work", list, NOISE), ("cycles", assumed, 0.0)):
        found = np.array([held(points, chosen_clock(believed(points), most, "learned", noise)[0]) for points in jobs])
        saved, slower = 100.0 * found.T
        cells = [saved.mean(), saved.min(), saved.max(), slower.mean(), slower.max()]
        over = str(int((slower > 100.0 * most).sum()))
        table.add_row(way, str(len(jobs)), *(f"{cell:.1f}" for cell in cells), over)
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
