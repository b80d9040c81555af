"""Set clocks on top of any policy: the policy chooses the GPU counts, and the overlay chooses the clocks.

So each policy can be compared with others at equal energy: alone (maximum clock), with one fixed clock, or with the
clocks that Zeus chooses.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from powerflow.errors import InputError
from powerflow.policy.protocol import Allocation, Policy, View

#: A clock up to this value is a fraction of the maximum clock; a larger clock is in MHz.
LARGEST_FRACTION = 1.0


class FixedClock:
    """Run all jobs at the same clock: the highest available clock that is not above ``clock``.

    Args:
        inner: The policy that chooses the GPU counts.
        clock: The clock in MHz. A value of at most 1 is a fraction of the maximum clock; if the result is below the
            lowest clock, the lowest clock is used.

    Raises:
        InputError: The clock is not a positive number. `decide` raises it if the clock is given in MHz and is below the
            lowest available clock.
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
        """Return the inner policy's GPU counts, with the same clock for all jobs.

        Raises:
            InputError: The clock is given in MHz and is below the lowest available clock.
        """
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
    """Run each job at the clock where an iteration has the lowest cost as Zeus defines it.

    The cost at clock f is ``C(f) = η·E(f) + (1 − η)·P_max·T(f)`` (You et al., NSDI'23, cost metric), with E joules and
    T seconds per iteration. P_max is the largest power of the job's class on the same GPU count at any clock; in the
    paper it is the power limit of the board. The paper minimises the cost of a whole run over power limits; here the
    cost of one iteration is minimised over clocks. With a fixed batch the number of iterations is fixed, so one
    iteration may stand for the run. Of two clocks with the same cost, the higher clock is chosen.

    Args:
        inner: The policy that chooses the GPU counts.
        eta: η, from 0 (minimises time) to 1 (minimises energy).

    Raises:
        InputError: η is not between 0 and 1.
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
        """Return the inner policy's GPU counts, with the clock of lowest cost for each job."""
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
