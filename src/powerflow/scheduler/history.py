"""Record the latest submissions of jobs, from which a policy can expect how many jobs will come, and how large."""

from __future__ import annotations

import math

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.kernel import kernel
from powerflow.policy.protocol import NO_ARRIVALS, Arrivals

KEPT = 512  # how many submissions are kept, the latest


class ArrivalHistory:
    """Keep the latest 512 (`KEPT`) submissions, those of known size in the order of size / weight.

    A new submission is inserted into this order, because sorting all of them anew took a seventh of a simulation.
    """

    def __init__(self) -> None:
        # by submission number modulo `KEPT`
        self._submit_s: FloatArray = np.full(KEPT, np.inf)
        self._order_by: FloatArray = np.full(KEPT, np.nan)
        self._added = 0
        # order_by, weight and GPU-seconds of the submissions of known size; equals in the order of submission
        self._sorted: FloatArray = np.empty((3, KEPT))
        self._known = 0
        self._latest: Arrivals | None = NO_ARRIVALS

    def add(self, submit_s: float, gpu_s: float, weight: float) -> None:
        """Add a submission: its time in seconds, the job's size in GPU-seconds (nan if unknown), and its weight."""
        place = self._added % KEPT
        self._forget(float(self._order_by[place]))
        self._submit_s[place], self._order_by[place] = submit_s, math.nan
        self._added += 1
        self._latest = None
        if math.isfinite(gpu_s):
            order_by = self._order_by[place] = gpu_s / weight
            at, known = self._sorted[0, : self._known].searchsorted(order_by, side="right"), self._known
            self._sorted[:, at + 1 : known + 1] = self._sorted[:, at:known]
            self._sorted[:, at] = order_by, weight, gpu_s
            self._known += 1

    def _forget(self, order_by: float) -> None:
        """Remove the oldest submission, if its size was known; ``order_by`` is nan if not."""
        if not math.isnan(order_by):
            at = self._sorted[0, : self._known].searchsorted(order_by)  # of equals, the oldest is the first
            self._sorted[:, at : self._known - 1] = self._sorted[:, at + 1 : self._known]
            self._known -= 1

    def latest(self) -> Arrivals:
        """Return the submissions, by ascending size / weight. The object is the same until another job is added."""
        if self._latest is None:
            first_s, known = np.empty(1), self._known
            order_by, weight_from, gpu_s_up_to = np.empty(known), np.empty(known + 1), np.empty(known)
            sum_up(first_s, self._submit_s, self._sorted, order_by, weight_from, gpu_s_up_to)
            for each in (order_by, weight_from, gpu_s_up_to):
                each.flags.writeable = False
            self._latest = Arrivals(order_by, weight_from, gpu_s_up_to, float(first_s[0]))
        return self._latest


@kernel
def sum_up(
    first_s: FloatArray,
    submit_s: FloatArray,
    by_order: FloatArray,
    order_by: FloatArray,
    weight_from: FloatArray,
    gpu_s_up_to: FloatArray,
) -> None:
    """Compute the arrays of `Arrivals` from submissions that are in order.

    Args:
        first_s: ``[1]`` result: when the first submission was.
        submit_s: ``[S]`` when each submission was, also those of unknown size.
        by_order: ``[3, ≥ A]`` size / weight, weight and GPU-seconds of the A submissions of known size, in order.
        order_by, weight_from, gpu_s_up_to: ``[A]``, ``[A + 1]`` and ``[A]`` results, as in `Arrivals`.
    """
    first_s[0] = np.inf
    for i in range(len(submit_s)):
        first_s[0] = min(first_s[0], submit_s[i])
    known, total, weights = len(order_by), 0.0, 0.0
    weight_from[known] = 0.0
    for i in range(known):
        order_by[i] = by_order[0, i]
        total += by_order[2, i]
        gpu_s_up_to[i] = total
    for i in range(known - 1, -1, -1):
        weights += by_order[1, i]
        weight_from[i] = weights
        if i + 1 < known and order_by[i] == order_by[i + 1]:
            gpu_s_up_to[i] = gpu_s_up_to[i + 1]  # equals count as a whole
