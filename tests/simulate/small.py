"""Workloads that are simulated in milliseconds."""

from __future__ import annotations

import numpy as np

from powerflow.simulate.workload.build import build_workload
from powerflow.simulate.workload.workload import Workload
from powerflow.trace.record import Trace, TraceJob


def small_trace(jobs: int = 40) -> Trace:
    """Jobs of one afternoon, more than the cluster can take at once."""
    rng = np.random.default_rng(11)
    submit_s = np.sort(rng.uniform(0, 4 * 3600, jobs))
    return Trace(
        "a small log",
        "made in a test",
        tuple(
            TraceJob(f"job-{i}", float(submit_s[i]), float(rng.lognormal(7.3, 1.0)), int(2 ** rng.integers(0, 4)))
            for i in range(jobs)
        ),
    )


def small_workload(seed: int) -> Workload:
    """Forty jobs on two nodes of eight."""
    return build_workload(small_trace(), "2x8:A100", seed=seed)
