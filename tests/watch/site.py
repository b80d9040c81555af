"""A GPU of a made-up site: what it truly draws, and what an exporter says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.watch.attribution import PowerRange, Share
from powerflow.watch.owners import GpuAddress, Holding
from powerflow.watch.series import GpuSeries, series_of, without_repeats

#: What the GPU can draw.
POWER = PowerRange(55.0, 700.0)
IDLE_W = 60.0
GPU = GpuAddress("n1", 0)
_DT_S = 0.1


@dataclass(frozen=True)
class TrueDraw:
    """Power over time, in steps of 0.1 s, and the jobs that drew it: (start, end) in seconds."""

    power_w: FloatArray
    jobs: Sequence[tuple[float, float]]

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return what the GPU drew between two moments."""
        return float(np.subtract(*self.counter(np.array([end_s, start_s]))))

    def counter(self, time_s: FloatArray) -> FloatArray:
        total = np.append(0.0, np.cumsum(self.power_w) * _DT_S)
        found: FloatArray = np.interp(time_s, np.arange(len(total)) * _DT_S, total)
        return found

    @property
    def lasts_s(self) -> float:
        return len(self.power_w) * _DT_S

    def holdings(self) -> list[Holding]:
        """Return the jobs as Slurm tells them: in whole seconds."""
        return [Holding(str(i), GPU, float(int(a)), float(int(b))) for i, (a, b) in enumerate(self.jobs)]


def random_draw(rng: np.random.Generator, jobs: int, usual_s: float) -> TrueDraw:
    """Return jobs one after another: half of them with a start-up phase, half with pauses; some directly in turn."""
    at, found = 0.0, []
    for _ in range(jobs):
        at += rng.exponential(400.0) + 60.0 if rng.random() < 0.7 else 0.5
        lasts = rng.lognormal(np.log(usual_s), 1.0)
        found.append((at, at + lasts))
        at += lasts
    power = rng.normal(IDLE_W, 1.0, int((at + 300.0) / _DT_S))
    for start, end in found:
        i, j = int(start / _DT_S), int(end / _DT_S)
        draws = rng.normal(rng.uniform(150.0, 650.0), 10.0, j - i)
        if rng.random() < 0.5:
            draws[: int(min(rng.uniform(5.0, 90.0), (end - start) / 3) / _DT_S)] = 80.0
        if rng.random() < 0.5:
            every = int(rng.uniform(20.0, 200.0) / _DT_S)
            draws[np.arange(j - i) % every < 0.15 * every] *= 0.4
        power[i:j] = draws
        warm = int(rng.uniform(0.0, 10.0) / _DT_S)
        power[j : j + warm] = np.maximum(power[j : j + warm], 95.0)
    return TrueDraw(power, found)


def scraped(
    draw: TrueDraw,
    rng: np.random.Generator,
    every_s: float,
    exporter_s: float = 0.0,
    resets: Sequence[float] | FloatArray = (),
) -> GpuSeries:
    """Return what Prometheus has of it.

    Args:
        draw: What the GPU drew.
        rng: Chooses phases.
        every_s: Time between two scrapes, seconds.
        exporter_s: How often the exporter reads the GPU, seconds; 0: whenever it is asked.
        resets: When the counter begins anew, seconds.
    """
    time_s = np.arange(rng.uniform(0.0, every_s), draw.lasts_s, every_s)
    phase = rng.uniform(0.0, exporter_s)
    read_s = np.floor((time_s - phase) / exporter_s) * exporter_s + phase if exporter_s else time_s
    read_s = np.clip(read_s, 0.0, None)
    counter = draw.counter(read_s)
    for reset in sorted(resets):
        counter = np.where(time_s > reset, draw.counter(read_s) - draw.counter(np.array([reset])), counter)
    power = np.interp(read_s, np.arange(len(draw.power_w)) * _DT_S, draw.power_w)
    return without_repeats(series_of(time_s, energy_j=counter, power_w=power))


def by_job(shares: Sequence[Share]) -> dict[str, FloatArray]:
    """Return energy, lower and upper bound of each job; "" for nobody."""
    found: dict[str, FloatArray] = {}
    for share in shares:
        for job in share.jobs or ("",):
            part = np.array([share.energy_j, share.low_j, share.high_j])
            found[job] = found.get(job, np.zeros(3)) + part
    return found
