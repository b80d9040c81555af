"""Record the latest submissions of jobs, from which a policy can expect how many jobs will come, and how large."""

from __future__ import annotations

from collections import deque

import numpy as np

from powerflow.policy.protocol import NO_ARRIVALS, Arrivals, arrivals

KEPT = 512  # how many submissions are kept, the latest


class ArrivalHistory:
    """Keep the latest 512 (`KEPT`) submissions."""

    def __init__(self) -> None:
        self._submissions: deque[tuple[float, float, float]] = deque(maxlen=KEPT)
        self._latest: Arrivals | None = NO_ARRIVALS

    def add(self, submit_s: float, gpu_s: float, weight: float) -> None:
        """Add a submission: its time in seconds, the job's size in GPU-seconds (nan if unknown), and its weight."""
        self._submissions.append((submit_s, gpu_s, weight))
        self._latest = None

    def latest(self) -> Arrivals:
        """Return the submissions, by ascending size / weight. The object is the same until another job is added."""
        if self._latest is None:
            submit_s, gpu_s, weight = np.array(self._submissions).T
            self._latest = arrivals(gpu_s, weight, float(submit_s.min()))
        return self._latest
