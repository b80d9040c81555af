"""What jobs draw, as metered rather than as believed: a power cap is held against the meter."""

from __future__ import annotations

import numpy as np

from powerflow.arrays import FloatArray, IntArray

UNSEEN = 1.10  # watts of a class that was never metered are taken to be so many times what is believed
UNTRIED = 1.05  # of one that was, but not on this count at this clock: so many times what its other readings suggest
RISE, FALL = 0.5, 0.1  # how far one reading moves what is known, up and down: too high is the safe side


class Meters:
    """Metered watts of the classes of one pool, by configuration."""

    def __init__(self) -> None:
        self._watts: FloatArray = np.empty((0, 0, 0))  # [K, N, F]; nan where nobody looked

    def read(self, shape: tuple[int, ...], cost: IntArray, level: IntArray, clock: IntArray, watts: FloatArray) -> None:
        """Take in one reading of some jobs.

        Args:
            shape: ``(K, N, F)`` of the pool's tables now.
            cost, level, clock: ``[R]`` the cells that the jobs run in.
            watts: ``[R]`` what each draws.
        """
        self._grow(shape)
        cells = np.ravel_multi_index((cost, level, clock), self._watts.shape)
        which, place = np.unique(cells, return_inverse=True)
        mean_w = np.bincount(place, watts) / np.bincount(place)  # jobs of one cell draw alike
        flat = self._watts.reshape(-1)
        known = flat[which]
        step = np.where(mean_w > known, RISE, FALL)
        flat[which] = np.where(np.isnan(known), mean_w, known + step * (mean_w - known))

    def expected(self, power_w: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Watts as metered where there was a reading, else as believed and corrected; and what to allow for error.

        Returns:
            ``[K, N, F]`` watts, and the factor ≥ 1 that makes them watts to reckon with.
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
