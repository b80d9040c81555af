"""Clocks over any policy: it keeps choosing the GPUs, the overlay chooses the clock.

So every baseline can be compared at equal energy: alone (maximum clock), with one fixed clock, with Zeus's clock.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from powerflow.errors import InputError
from powerflow.policy.protocol import Allocation, Policy, View

#: Numbers up to this are fractions of the maximum clock; above it they are MHz.
LARGEST_FRACTION = 1.0


class FixedClock:
    """Every job at one clock: the nearest available at or below ``clock``.

    Args:
        inner: The policy that chooses the GPUs.
        clock: MHz, or, if at most 1, a fraction of the maximum clock (never less than the lowest clock there is).

    Raises:
        InputError: The clock is not positive; on `decide`, it is in MHz and below the lowest one available.
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
        """The inner policy's GPUs, all at the one clock."""
        clocks = view.clocks_mhz
        wanted_mhz = self.clock * clocks[-1] if self.clock <= LARGEST_FRACTION else self.clock
        # a hair of slack: 0.7 of 1410 MHz must find 987 MHz whatever the last bit says
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
    """Each job at the clock that minimises Zeus's cost of an iteration on the GPUs it got.

    ``C(f) = η·E(f) + (1 − η)·P_max·T(f)`` (You et al., NSDI'23, the cost metric of Zeus; there for a whole training
    run and over power limits, here for one iteration and over clocks: the same choice, since the batch is fixed).
    P_max, the most the GPUs can draw, is the largest power that the job's class reaches on that many GPUs at any
    clock, in place of the board's limit. Ties go to the higher clock.

    Args:
        inner: The policy that chooses the GPUs.
        eta: η in [0, 1]: 0 is all for time, 1 all for energy.
    """

    def __init__(self, inner: Policy, eta: float) -> None:
        if not 0 <= eta <= 1:
            raise InputError(f"η {eta!r} is outside [0, 1]", fix="0 is all for time, 1 all for energy")
        self.inner = inner
        self.eta = eta
        self.name = f"{inner.name}+zeus:{eta:g}"
        self.needs_sizes = inner.needs_sizes
        self.period_s = inner.period_s

    def decide(self, view: View) -> Allocation:
        """The inner policy's GPUs, each job at its own best clock."""
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
