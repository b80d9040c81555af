"""Which measured run belongs to which job of the log, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from powerflow.simulate.poc.matching import JobMatching, MeasuredRun, match
from powerflow.trace.record import Trace, TraceJob

HOUR = 3600.0


def job(number: str, submit_s: float, *, ran_s: float = HOUR, gpus: int = 2, wait_s: float | None = 600.0) -> TraceJob:
    return TraceJob(number, submit_s, ran_s, gpus, wait_s=wait_s)


def run(number: str, start_s: float, gpu_s: float = 2 * HOUR, energy_j: float = 1e6) -> MeasuredRun:
    return MeasuredRun(number, start_s, gpu_s, energy_j, 0.9 * energy_j, 1.1 * energy_j)


def matched(jobs: list[TraceJob], *runs: MeasuredRun) -> JobMatching:
    return match(Trace("by hand", "test", tuple(jobs)), runs)


def test_number_and_start_must_agree() -> None:
    jobs = [job("7", 0.0), job("8_1", 100.0), job("8_2", 100.0), job("9", 200.0)]
    found = matched(jobs, run("7", 620.0), run("8_2", 700.0, 3600.0, 5e5), run("9", 5000.0), run("10", 0.0))
    assert found.energy_j.tolist() == [1e6, 0, 5e5, 0]
    assert (found.jobs, found.runs, found.unmatched) == (2, 4, 2)
    assert found.share == pytest.approx((7200 + 3600) / (4 * 7200))
    assert found.power_w[2] == pytest.approx(5e5 / 3600)
    assert math.isnan(found.power_w[1])


def test_a_number_that_is_used_again_is_another_job() -> None:
    found = matched([job("1", 0.0), job("1", 1e6)], run("1", 1e6 + 600), run("1", 600.0, energy_j=3e6))
    assert found.energy_j.tolist() == [3e6, 1e6]


def test_all_runs_of_a_requeued_job_are_its_own() -> None:
    requeued = replace(job("1", 0.0), earlier_gpu_s=1800.0)
    found = matched([requeued], run("1", 600.0, 1800.0, 2e5), run("1", 9000.0), run("1", 100.0, energy_j=9e9))
    assert found.energy_j.tolist() == [1.2e6]
    assert found.unmatched == 1, "one that began before the job's first start"
    assert found.share == 1.0


def test_of_several_clusters_the_number_counts_and_without_a_start_the_submission() -> None:
    found = matched([job("north/5", 0.0), job("6", 0.0, wait_s=None)], run("5", 600.0), run("6", 1e5))
    assert found.jobs == 2


def test_labels_name_a_task_of_an_array_by_its_own_number() -> None:
    """Of the array 70 with three tasks, the last one has the number 70 itself."""
    tasks = [replace(job(f"70_{i}", 0.0), raw_id=raw) for i, raw in ((1, "71"), (2, "72"), (3, "70"))]
    found = matched(tasks, run("72", 600.0, energy_j=2e6), run("70", 600.0), run("70_1", 600.0, energy_j=4e6))
    assert found.energy_j.tolist() == [4e6, 2e6, 1e6]


def test_too_few_readings_say_nothing() -> None:
    assert matched([job("1", 0.0)], run("1", 600.0, 100.0, 1e4)).share == 0


def test_another_time_zone_is_seen() -> None:
    jobs = [job(str(i), 50.0 * i) for i in range(5)]
    runs = [run(str(i), 600.0 + 50.0 * i + 9 * HOUR) for i in range(5)]
    found = matched(jobs, *runs)
    assert (found.share, found.shift_s) == (0.0, 9 * HOUR)
    assert matched(jobs, *runs[:1], run("7", 0.0), run("8", 0.0)).shift_s == 0.0
