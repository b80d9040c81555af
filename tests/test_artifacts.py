"""Step times and work that `benchmarks.artifacts` takes from Pollux' artifact, on cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from benchmarks.artifacts import RUN_S, TRACES, StepTimes, step_s, workload
from benchmarks.profiles import PROFILES

pytestmark = pytest.mark.skipif(
    not (TRACES.is_dir() and (PROFILES / "pollux").is_dir()), reason="Pollux' profiles are not beside this checkout"
)


def test_accumulated_passes_synchronise_once() -> None:
    # Measured on 4 GPUs of a node with 8 samples each: step and synchronising time. A batch of 64 gives each GPU 16
    # samples, and yolov3 may have 8 in a pass: two passes, of which the first does not synchronise.
    times = StepTimes("yolov3")
    step, sync = times.pass_s(4, 1, 8)
    assert step_s(times, 4, 1, 32, smallest_batch=8) == step
    assert step_s(times, 4, 1, 64, smallest_batch=8) == pytest.approx(2 * step - sync)
    # on one GPU, a batch above the smallest is split even where one pass would hold it
    half, half_sync = times.pass_s(1, 1, 6)
    assert step_s(times, 1, 1, 12, smallest_batch=8) == pytest.approx(2 * half - half_sync)
    assert step_s(times, 1, 1, 6, smallest_batch=8) == half


def test_times_between_measured_batches_are_on_a_straight_line_and_unknown_beyond() -> None:
    times = StepTimes("bert")  # measured with 4, 6, 8, 11 and 12 samples
    low, high = times.pass_s(1, 1, 4)[0], times.pass_s(1, 1, 6)[0]
    assert times.pass_s(1, 1, 5)[0] == pytest.approx((low + high) / 2)
    assert math.isnan(times.pass_s(1, 1, 13)[0])


def test_jobs_run_alone_for_as_long_as_the_artifact_prints() -> None:
    jobs = workload(6)
    for job in jobs.jobs:
        name, batch = job.cost_class.split("/")
        printed_s = RUN_S.get((name, int(batch)), {}).get(job.gpus)
        if printed_s is not None:
            table = jobs.truth[job.cost_class, "T4"]
            column = int(np.searchsorted(jobs.axes["T4"].gpu_counts, job.gpus))
            # a class whose jobs request several counts has the mean of their work
            assert job.iterations * table.step_time_s[column, 0] == pytest.approx(printed_s, rel=0.015)
