"""Keeps what a simulation will be judged by: a power meter, the timeline, and who held what when."""

from __future__ import annotations

from array import array

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.simulate.result import Segments, Timeline


class PowerMeter:
    """Integrates the cluster's power over time, as a meter at its supply would; knows nothing of jobs.

    Attributes:
        watts: Power now.
        joules: Energy so far.
    """

    def __init__(self) -> None:
        self.watts = 0.0
        self.joules = 0.0
        self._since_s = 0.0
        self._lost = 0.0  # what rounding took from the sum so far (Kahan): a year of small steps adds up

    def advance(self, now_s: float) -> None:
        """Integrate up to now at the power that held."""
        step = self.watts * (now_s - self._since_s) - self._lost
        total = self.joules + step
        self._lost = (total - self.joules) - step
        self.joules = total
        self._since_s = now_s


class Recorder:
    """Timeline rows and allocation segments of a running simulation, kept compactly: a month has millions."""

    def __init__(self) -> None:
        self._timeline = array("d")
        self._segments = array("d")

    def state(
        self,
        time_s: float,
        power_w: float,
        busy: int,
        running: int,
        waiting: int,
        gpu_clock_mhz: float,
        gpu_price: float,
    ) -> None:
        """The cluster from ``time_s`` on; ``gpu_clock_mhz`` is Σ of the clocks of busy GPUs."""
        clock = gpu_clock_mhz / busy if busy else np.nan
        self._timeline.extend((time_s, power_w, busy, running, waiting, clock, gpu_price))

    def segment(self, job: int, start_s: float, end_s: float, gpus: int, clock_mhz: float, energy_j: float) -> None:
        """A job held so many GPUs at this clock from start to end."""
        self._segments.extend((job, start_s, end_s, gpus, clock_mhz, energy_j / (end_s - start_s)))

    def timeline(self) -> Timeline:
        """All rows; of those at one moment only the last, which is what held."""
        time_s, power_w, busy, running, waiting, clock_mhz, gpu_price = _columns(self._timeline, 7)
        last = np.append(time_s[1:] != time_s[:-1], True) if len(time_s) else np.empty(0, bool)
        return Timeline(
            time_s[last],
            power_w[last],
            busy[last].astype(np.int64),
            running[last].astype(np.int64),
            waiting[last].astype(np.int64),
            clock_mhz[last],
            gpu_price[last],
        )

    def segments(self) -> Segments:
        """All segments, in order of their end."""
        job, start_s, end_s, gpus, clock_mhz, power_w = _columns(self._segments, 6)
        return Segments(job.astype(np.int64), start_s, end_s, gpus.astype(np.int64), clock_mhz, power_w)


def _columns(rows: array[float], width: int) -> list[FloatArray]:
    return list(np.array(rows, np.float64).reshape(-1, width).T.copy())
