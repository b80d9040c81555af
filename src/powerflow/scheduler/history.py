"""Sizes of completed jobs: what policies know of sizes when those of active jobs are unknown."""

from __future__ import annotations

from collections import deque

import numpy as np

from powerflow.arrays import FloatArray

KEPT = 2000  # number of jobs, the latest
NEWS = 0.05  # share of new jobs after which the sorted sizes are updated


class History:
    """Sizes of completed jobs.

    Attributes:
        sizes_gpu_s: ``[H]`` GPU-seconds, ascending; updates replace the array.
    """

    def __init__(self) -> None:
        self.sizes_gpu_s: FloatArray = np.empty(0)
        self._sizes: deque[float] = deque(maxlen=KEPT)
        self._news = 0

    def add(self, gpu_s: float) -> None:
        """Add the size of a completed job."""
        self._sizes.append(gpu_s)
        self._news += 1
        if self._news >= NEWS * len(self._sizes):
            self.sizes_gpu_s = np.sort(np.array(self._sizes))
            self._news = 0
