"""Remember what the cluster drew in the last hours, and what GPUs and joules were worth."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence

from powerflow.api.recent import ClusterSample

#: Shortest time between two samples, and how long they are kept, in seconds.
EVERY_S, KEPT_S = 10.0, 6 * 3600.0


class RecentSamples:
    """Samples of the last `KEPT_S` seconds. They are lost when the controller ends.

    The controller's loop adds them; any thread may read them.
    """

    def __init__(self) -> None:
        self._samples: deque[ClusterSample] = deque()
        self._lock = threading.Lock()

    def is_due(self, now_s: float) -> bool:
        """Return True if the next sample should be added now. After the clock was set back, it is."""
        return not self._samples or not 0.0 <= now_s - self._samples[-1].time_s < EVERY_S

    def add(self, now_s: float, power_w: float, cap_w: float, gpu_price: float, energy_price: float) -> None:
        """Add a sample (`ClusterSample`); ``cap_w`` is inf if there is no cap.

        Samples that are too old, or later than this one, are forgotten: the clock may have been set back.
        """
        sample = ClusterSample(now_s, power_w, cap_w if math.isfinite(cap_w) else None, gpu_price, energy_price)
        with self._lock:
            while self._samples and self._samples[-1].time_s >= sample.time_s:
                self._samples.pop()
            self._samples.append(sample)
            while self._samples[0].time_s < sample.time_s - KEPT_S:
                self._samples.popleft()

    def after(self, after_s: float) -> Sequence[ClusterSample]:
        """Return all samples later than a time, oldest first."""
        with self._lock:
            return [sample for sample in self._samples if sample.time_s > after_s]
