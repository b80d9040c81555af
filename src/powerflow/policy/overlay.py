"""Set clocks on top of any policy: the policy chooses the GPUs, the overlay the clock.

This allows comparing every baseline at equal energy: alone (maximum clock), with one fixed clock, or with Zeus' clock.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from powerflow.errors import InputError
from powerflow.policy.protocol import Allocation, Policy, View

#: Clocks up to this value are fractions of the maximum clock; larger ones are MHz.
LARGEST_FRACTION = 1.0


class FixedClock:
    """Overlay that runs every job at one clock: the nearest available one at or below ``clock``.

    Args:
        inner: The policy that chooses the GPUs.
        clock: MHz; or, if at most 1, a fraction of the maximum clock (but at least the lowest clock).

    Raises:
        InputError: The clock is not positive. Raised by `decide`: it is in MHz and below the lowest available clock.
    """

    def __init__(self, inner: Policy, clock: float) -> None:
        if not (np.isfinite(clock) and clock > 0):
            raise InputError(f"clock {clock!r} is not a positive number", fix="give MHz, or a fraction of the maximum")
        self.inner = inner
        self.clock = clock
        self.name = f"{inner.name}+clock:{clock:g}"
        self.needs_sizes = inner.needs_sizes
        self.period_s = inner.period_s

    def decide(self, view: View) -> Allocation:
        """Return the inner policy's GPUs, all at this clock."""
        clocks = view.clocks_mhz
        wanted_mhz = self.clock * clocks[-1] if self.clock <= LARGEST_FRACTION else self.clock
        # allow for rounding: 0.7 of 1410 MHz must find 987 MHz
        index = int(np.searchsorted(clocks, wanted_mhz * (1 + 1e-9), side="right")) - 1
        if index < 0 and self.clock > LARGEST_FRACTION:
            raise InputError(
                f"no clock at or below {self.clock:g} MHz",
                where=f"policy {self.name!r}",
                fix=f"the lowest is {clocks[0]:g} MHz",
            )
        allocation = self.inner.decide(view)
        return replace(allocation, clock=np.full(len(view.jobs), max(index, 0), np.int64))


class ZeusClock:
    """Overlay that runs each job at the clock with the lowest Zeus cost per iteration.

    ``C(f) = η·E(f) + (1 − η)·P_max·T(f)`` (You et al., NSDI'23, cost metric). In the paper it covers a whole training
    run and varies power limits; here one iteration and clocks, which gives the same choice because the batch is fixed.
    P_max is the largest power of the job's class on that many GPUs at any clock, instead of the board's limit. Ties go
    to the higher clock.

    Args:
        inner: The policy that chooses the GPUs.
        eta: η in [0, 1]: 0 minimises time, 1 minimises energy.
    """

    def __init__(self, inner: Policy, eta: float) -> None:
        if not 0 <= eta <= 1:
            raise InputError(f"η {eta!r} is outside [0, 1]", fix="give 0 (minimise time) to 1 (minimise energy)")
        self.inner = inner
        self.eta = eta
        self.name = f"{inner.name}+zeus:{eta:g}"
        self.needs_sizes = inner.needs_sizes
        self.period_s = inner.period_s

    def decide(self, view: View) -> Allocation:
        """Return the inner policy's GPUs, each job at its own best clock."""
        allocation = self.inner.decide(view)
        rows = np.flatnonzero(allocation.gpus)
        clock = np.full(len(view.jobs), view.clock_max, np.int64)
        if len(rows):
            level = view.count_index[allocation.gpus[rows]]
            time_s = view.step_time_s[view.jobs["cost"][rows], level]  # [rows, F]
            power_w = view.power_w[view.jobs["cost"][rows], level]
            most_w = power_w.max(axis=1, keepdims=True)
            cost = time_s * (self.eta * power_w + (1 - self.eta) * most_w)
            clock[rows] = view.clock_max - np.argmin(cost[:, ::-1], axis=1)
        return replace(allocation, clock=clock)
