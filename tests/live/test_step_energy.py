"""The energy of a step is that of the steps since the job was last started."""

from __future__ import annotations

import pytest

from powerflow.api.records import JobRecord, JobState
from tests.live.controller_bench import ADA, Bench
from tests.live.kinds import STEPS, script


def record(bench: Bench, job: str) -> JobRecord:
    return bench.service.job(job).record


@pytest.mark.parametrize("restarted", [False, True])
def test_steps_of_a_start_that_is_lost_do_not_count(bench: Bench, restarted: bool) -> None:
    """The first start fails after 40 steps, and the second begins at step 1 again."""
    script(bench, lasts=40, code=1)
    job = bench.submit(run="python t.py", rescale="none", gpus=1, progress=STEPS, retries=1)
    bench.until(lambda: record(bench, job).failures == 1)
    first_j = record(bench, job).energy_j
    assert record(bench, job).energy_per_step_j == pytest.approx(first_j / 40, rel=0.1), "all there is so far"
    script(bench, lasts=1000)
    bench.until(lambda: 20 <= record(bench, job).steps < 25)
    if restarted:
        bench.turn(4)
        bench.restart()
        bench.turn(6)
    now = record(bench, job)
    assert now.energy_per_step_j == pytest.approx((now.energy_j - first_j) / now.steps, rel=0.1)
    assert now.energy_j - first_j > 0
    bench.service.cancel(job, ADA)
    bench.until(lambda: record(bench, job).ended_s is not None)
    end = record(bench, job)
    assert end.energy_per_step_j == pytest.approx((end.energy_j - first_j) / end.steps, rel=0.1), "also in the store"


def test_nothing_is_said_before_the_first_step_of_a_start(bench: Bench) -> None:
    job = bench.submit(gpus="1", batch={"global": 64})
    assert record(bench, job).energy_per_step_j is None
    bench.until_trains(job)
    bench.turn(10)
    assert record(bench, job).energy_per_step_j
    bench.until_state(job, JobState.COMPLETED)
    assert record(bench, job).energy_per_step_j
