"""Record the sizes of completed jobs, for policies that do not know the sizes of active jobs."""

from __future__ import annotations

from collections import deque

import numpy as np

from powerflow.arrays import FloatArray

KEPT = 2000  # how many jobs are kept, the latest
NEWS = 0.05  # the sorted sizes are updated when this share of the jobs is new


class History:
    """Keep the sizes of the latest 2000 (`KEPT`) completed jobs.

    Attributes:
        sizes_gpu_s: ``[H]`` sizes of H completed jobs in GPU-seconds, ascending. The latest jobs may be missing: the
            array is replaced by a new array when 5 % (`NEWS`) of the jobs are new.
    """

    def __init__(self) -> None:
        self.sizes_gpu_s: FloatArray = np.empty(0)
        self._sizes: deque[float] = deque(maxlen=KEPT)
        self._news = 0

    def add(self, gpu_s: float) -> None:
        """Add the size of a completed job, in GPU-seconds."""
        self._sizes.append(gpu_s)
        self._news += 1
        if self._news >= NEWS * len(self._sizes):
            self.sizes_gpu_s = np.sort(np.array(self._sizes))
            self._news = 0
