"""Learn from power meters how many watts jobs draw, because power caps must hold for metered power."""

from __future__ import annotations

import numpy as np

from powerflow.arrays import FloatArray, IntArray

UNSEEN = 1.10  # margin on the believed watts of a class that was never metered
UNTRIED = 1.05  # margin if the class was metered, but never with this GPU count and clock
RISE, FALL = 0.5, 0.1  # share of a rise or fall that one reading adds: an estimate that is too high is safer


class Meters:
    """Keep the metered watts of the classes of one pool, for each configuration (class, GPU count and clock)."""

    def __init__(self) -> None:
        self._watts: FloatArray = np.empty((0, 0, 0))  # [K, N, F]; nan where nothing was metered

    def read(self, shape: tuple[int, ...], cost: IntArray, level: IntArray, clock: IntArray, watts: FloatArray) -> None:
        """Learn from the metered watts of R jobs.

        Args:
            shape: Shape ``(K, N, F)`` of the pool's cost tables: numbers of classes, GPU counts and clocks.
            cost, level, clock: ``[R]`` positions of each job's class, GPU count and clock in the cost tables.
            watts: ``[R]`` metered watts of all GPUs of each job.
        """
        self._grow(shape)
        configurations = np.ravel_multi_index((cost, level, clock), self._watts.shape)
        which, place = np.unique(configurations, return_inverse=True)
        mean_w = np.bincount(place, watts) / np.bincount(place)
        flat = self._watts.reshape(-1)
        known = flat[which]
        step = np.where(mean_w > known, RISE, FALL)
        flat[which] = np.where(np.isnan(known), mean_w, known + step * (mean_w - known))

    def expected(self, power_w: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the expected watts of jobs, and the factors ≥ 1 by which the expected watts may be too low.

        Where a class was metered with a GPU count and clock, the metered watts are expected. Elsewhere the believed
        watts are expected, corrected by the mean of metered ÷ believed watts of the same class.

        Args:
            power_w: ``[K, N, F]`` (classes × GPU counts × clocks) believed watts of all GPUs of a job.

        Returns:
            The expected watts, ``[K, N, F]``, and the factors, which can be multiplied with them.
        """
        self._grow(power_w.shape)
        seen = ~np.isnan(self._watts)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(seen & (power_w > 0), self._watts / power_w, 0.0)
        readings = (ratio > 0).sum(axis=(1, 2))
        off = np.where(readings > 0, ratio.sum(axis=(1, 2)) / np.maximum(readings, 1), 1.0)
        margin = np.where(readings > 0, UNTRIED, UNSEEN)
        return np.where(seen, self._watts, power_w * off[:, None, None]), np.where(seen, 1.0, margin[:, None, None])

    def _grow(self, shape: tuple[int, ...]) -> None:
        if self._watts.shape == shape:
            return
        watts = np.full(shape, np.nan)
        known = self._watts.shape
        watts[: known[0], : known[1], : known[2]] = self._watts
        self._watts = watts
