"""Record a simulation: the power and energy of the cluster, its state over time, and the allocations of jobs."""

from __future__ import annotations

from array import array

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.simulate.result import Segments, Timeline


class PowerMeter:
    """Integrates the power of the cluster over time, like a meter at its power supply.

    Attributes:
        watts: Power of the cluster now.
        joules: Energy of the cluster from the start until now.
    """

    def __init__(self) -> None:
        self.watts = 0.0
        self.joules = 0.0
        self._since_s = 0.0
        self._lost = 0.0  # error of rounding so far (Kahan's summation), which would add up over a year

    def advance(self, now_s: float) -> None:
        """Add the energy from the previous time to ``now_s``, at constant power."""
        step = self.watts * (now_s - self._since_s) - self._lost
        total = self.joules + step
        self._lost = (total - self.joules) - step
        self.joules = total
        self._since_s = now_s


class Recorder:
    """Records the state of the cluster over time and the allocations of jobs.

    The records are in compact arrays, because the simulation of a month has millions of them.
    """

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
        """Record the state of the cluster from ``time_s`` on.

        ``gpu_clock_mhz`` is the sum of the clocks of all GPUs that jobs hold; ``busy`` is the number of these GPUs.
        """
        clock = gpu_clock_mhz / busy if busy else np.nan
        self._timeline.extend((time_s, power_w, busy, running, waiting, clock, gpu_price))

    def segment(self, job: int, start_s: float, end_s: float, gpus: int, clock_mhz: float, energy_j: float) -> None:
        """Record that a job held ``gpus`` GPUs at one clock from ``start_s`` to ``end_s``."""
        self._segments.extend((job, start_s, end_s, gpus, clock_mhz, energy_j / (end_s - start_s)))

    def timeline(self) -> Timeline:
        """Return the recorded states of the cluster: for each time only the last state."""
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
        """Return the recorded allocations of jobs, ordered by the time at which they ended."""
        job, start_s, end_s, gpus, clock_mhz, power_w = _columns(self._segments, 6)
        return Segments(job.astype(np.int64), start_s, end_s, gpus.astype(np.int64), clock_mhz, power_w)


def _columns(rows: array[float], width: int) -> list[FloatArray]:
    return list(np.array(rows, np.float64).reshape(-1, width).T.copy())
