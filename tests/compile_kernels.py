"""Compile the kernels once, before each of several test workers would: ``python -m tests.compile_kernels``."""

from __future__ import annotations

from powerflow.policy.registry import BUILT_IN, load
from powerflow.scheduler.rules.compose import with_rules
from powerflow.simulate.bound.bound import bound_for
from powerflow.simulate.run import simulate
from tests.simulate.small import small_workload


def main() -> None:
    """Run what calls most kernels: a simulation with all rules, a bound, and a simulation with each policy."""
    workload = small_workload(0)
    simulate(workload, with_rules(load("prices")), energy_price=1e-4)
    bound_for(workload, [1e-4])
    for name in sorted(BUILT_IN):
        simulate(workload, load(name))


if __name__ == "__main__":
    main()
