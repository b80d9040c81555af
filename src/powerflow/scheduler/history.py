"""How large the jobs were that have completed: all there is to go by where sizes are unknown."""

from __future__ import annotations

from collections import deque

import numpy as np

from powerflow.arrays import FloatArray

KEPT = 2000  # jobs remembered, the latest
NEWS = 0.05  # share of new ones after which the picture is drawn again


class History:
    """Sizes of completed jobs.

    Attributes:
        sizes_gpu_s: ``[H]`` GPU-seconds, ascending; replaced, never changed.
    """

    def __init__(self) -> None:
        self.sizes_gpu_s: FloatArray = np.empty(0)
        self._sizes: deque[float] = deque(maxlen=KEPT)
        self._news = 0

    def add(self, gpu_s: float) -> None:
        """One more job has completed."""
        self._sizes.append(gpu_s)
        self._news += 1
        if self._news >= NEWS * len(self._sizes):
            self.sizes_gpu_s = np.sort(np.array(self._sizes))
            self._news = 0
