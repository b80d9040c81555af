"""Record the latest submissions of jobs, from which a policy can expect how many jobs will come, and how large."""

from __future__ import annotations

import math

import numpy as np

from powerflow.arrays import FloatArray, IntArray
from powerflow.kernel import kernel
from powerflow.policy.protocol import NO_ARRIVALS, Arrivals

KEPT = 512  # how many submissions are kept, the latest


class ArrivalHistory:
    """Keep the latest 512 (`KEPT`) submissions, and the order of those of known size by size / weight.

    A new submission is inserted into this order, because sorting all of them anew took a seventh of a simulation.
    """

    def __init__(self) -> None:
        # by submission number modulo `KEPT`; the order is of these numbers, equals in the order of submission
        self._submit_s: FloatArray = np.full(KEPT, np.inf)
        self._order_by: FloatArray = np.full(KEPT, np.nan)
        self._weight: FloatArray = np.zeros(KEPT)
        self._gpu_s: FloatArray = np.zeros(KEPT)
        self._order: IntArray = np.zeros(KEPT, np.int64)
        self._known: IntArray = np.zeros(1, np.int64)  # how many submissions are in the order
        self._added = 0
        self._latest: Arrivals | None = NO_ARRIVALS

    def add(self, submit_s: float, gpu_s: float, weight: float) -> None:
        """Add a submission: its time in seconds, the job's size in GPU-seconds (nan if unknown), and its weight."""
        place = self._added % KEPT
        order_by = gpu_s / weight if math.isfinite(gpu_s) else math.nan
        reorder(self._known, self._order, self._order_by, place, order_by)
        self._submit_s[place], self._weight[place], self._gpu_s[place] = submit_s, weight, gpu_s
        self._added += 1
        self._latest = None

    def latest(self) -> Arrivals:
        """Return the submissions, by ascending size / weight. The object is the same until another job is added."""
        if self._latest is None:
            first_s, known = np.empty(1), int(self._known[0])
            order_by, weight_from, gpu_s_up_to = np.empty(known), np.empty(known + 1), np.empty(known)
            kept = self._submit_s, self._order, self._order_by, self._weight, self._gpu_s
            sum_up(first_s, *kept, order_by, weight_from, gpu_s_up_to)
            for each in (order_by, weight_from, gpu_s_up_to):
                each.flags.writeable = False
            self._latest = Arrivals(order_by, weight_from, gpu_s_up_to, float(first_s[0]))
        return self._latest


@kernel
def reorder(known: IntArray, order: IntArray, order_by: FloatArray, place: int, new: float) -> None:
    """Replace one submission by a newer one in the order of those of known size.

    Args:
        known: ``[1]`` how many submissions of known size there are; changed.
        order: ``[S]`` the numbers of these submissions, in order; changed.
        order_by: ``[S]`` size / weight by number; nan if unknown. The value of ``place`` is changed to ``new``.
        place: Number of the submission to replace.
        new: Size / weight of the newer submission; nan if unknown.
    """
    count = known[0]
    if not np.isnan(order_by[place]):
        at = 0
        while order[at] != place:
            at += 1
        count -= 1
        for i in range(at, count):
            order[i] = order[i + 1]
    order_by[place] = new
    if not np.isnan(new):
        at = count
        while at > 0 and order_by[order[at - 1]] > new:
            order[at] = order[at - 1]
            at -= 1
        order[at] = place
        count += 1
    known[0] = count


@kernel
def sum_up(
    first_s: FloatArray,
    submit_s: FloatArray,
    order: IntArray,
    kept_by: FloatArray,
    weight: FloatArray,
    gpu_s: FloatArray,
    order_by: FloatArray,
    weight_from: FloatArray,
    gpu_s_up_to: FloatArray,
) -> None:
    """Compute the arrays of `Arrivals` from submissions that are in order.

    Args:
        first_s: ``[1]`` result: when the first submission was.
        submit_s: ``[S]`` when each submission was, also those of unknown size.
        order: ``[S]`` the numbers of the A submissions of known size, in order; then free entries.
        kept_by, weight, gpu_s: ``[S]`` size / weight, weight and GPU-seconds, by number.
        order_by, weight_from, gpu_s_up_to: ``[A]``, ``[A + 1]`` and ``[A]`` results, as in `Arrivals`.
    """
    first_s[0] = np.inf
    for i in range(len(submit_s)):
        first_s[0] = min(first_s[0], submit_s[i])
    known, total, weights = len(order_by), 0.0, 0.0
    weight_from[known] = 0.0
    for i in range(known):
        order_by[i] = kept_by[order[i]]
        total += gpu_s[order[i]]
        gpu_s_up_to[i] = total
    for i in range(known - 1, -1, -1):
        weights += weight[order[i]]
        weight_from[i] = weights
        if i + 1 < known and order_by[i] == order_by[i + 1]:
            gpu_s_up_to[i] = gpu_s_up_to[i + 1]  # equals count as a whole
