"""From a trace to a workload."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from powerflow.cost.batch_range import BatchRange
from powerflow.errors import InputError
from powerflow.policy.registry import load
from powerflow.simulate.run import simulate
from powerflow.simulate.workload.build import build_workload
from powerflow.simulate.workload.workload import Workload, alone_times
from powerflow.trace.record import Skipped, Trace, TraceJob


def build(*jobs: TraceJob, cluster: str = "2x4:A100", **options: object) -> Workload:
    """A workload of these jobs."""
    return build_workload(Trace("log.csv", "test", jobs), cluster, **options)  # type: ignore[arg-type]


def logged(
    name: str = "a", submit_s: float = 0.0, duration_s: float = 100.0, gpus: int = 1, **more: object
) -> TraceJob:
    """A job of a log."""
    return TraceJob(name, submit_s, duration_s, gpus, **more)  # type: ignore[arg-type]


def test_work_is_what_the_job_did_in_its_logged_time() -> None:
    workload = build(logged(duration_s=500.0, gpus=2), logged("b", 7.0, duration_s=300.0, gpus=8))
    assert alone_times(workload).tolist() == pytest.approx([500.0, 300.0])
    # so that alone, without clocks or more GPUs, it takes that long again
    first = build(logged(duration_s=500.0, gpus=2))
    assert simulate(first, load("fifo")).jobs.jct_s == pytest.approx([500.0])


def test_iterations_and_models_of_the_log_win() -> None:
    job = build(logged(model="ResNet-50", global_batch=256, iterations=1234.0)).jobs[0]
    assert (job.cost_class, job.iterations) == ("imagenet/256", 1234.0)


def test_a_job_that_logs_iterations_and_duration_lasts_as_logged() -> None:
    # two jobs of one class whose step times differ by four: the class has their geometric mean, each its own time
    jobs = (
        logged("a", 0.0, 100.0, 1, model="bert", global_batch=256, iterations=1000.0),
        logged("b", 1.0, 400.0, 1, model="bert", global_batch=256, iterations=1000.0),
        logged("c", 2.0, math.nan, 1, model="bert", global_batch=256, iterations=500.0),
    )
    workload = build(*jobs)
    assert workload.truth["bert/256", "A100"].step_time_s[0, -1] == pytest.approx(0.2)  # √(0.1 · 0.4)
    assert alone_times(workload).tolist() == pytest.approx([100.0, 400.0, 500 * 0.2])
    assert [job.iterations for job in workload.jobs] == pytest.approx([500.0, 2000.0, 500.0])
    assert "2 jobs log iterations and duration" in workload.facts["Step times"]
    assert simulate(build(jobs[1]), load("fifo")).jobs.jct_s == pytest.approx([400.0])
    assert "Step times" not in build(logged(model="bert"), jobs[2]).facts


def test_measured_step_times_scale_every_count_and_type_and_no_watts() -> None:
    plain = build(logged(model="bert", global_batch=256), cluster="1x4:A100+1x4:T4")
    job = logged(model="bert", global_batch=256, iterations=10.0)  # 10 s a step
    scaled = build(job, cluster="1x4:A100+1x4:T4")
    factor = 10.0 / plain.truth["bert/256", "A100"].step_time_s[0, -1]
    for gpu_type in ("A100", "T4"):
        before, after = plain.truth["bert/256", gpu_type], scaled.truth["bert/256", gpu_type]
        assert after.step_time_s == pytest.approx(before.step_time_s * factor)
        assert after.spread_step_time_s == pytest.approx(before.spread_step_time_s * factor)
        assert np.array_equal(after.power_w, before.power_w)


def test_runs_before_a_requeue_are_part_of_the_work() -> None:
    workload = build(logged(duration_s=100.0, gpus=2, earlier_gpu_s=600.0))
    assert alone_times(workload).tolist() == pytest.approx([100.0 + 300.0])
    assert workload.facts["Requeued"] == "1 jobs; 0.2 GPU-hours of their earlier runs are part of their work"


def test_a_batch_that_may_change_changes_costs_and_not_the_logged_work() -> None:
    fixed = logged(duration_s=500.0, gpus=2, model="cifar10", global_batch=256)
    free = dataclasses.replace(fixed, batch_range=BatchRange(64, 4096, 8000.0))
    plain, changing = build(fixed), build(free, dataclasses.replace(fixed, id="b", submit_s=1.0))
    first, second = changing.jobs
    # the log's 500 s on two GPUs were at batch 256, for both; both classes have the same true model
    assert first.iterations == second.iterations == plain.jobs[0].iterations
    own = changing.truth[second.cost_class, "A100"]
    assert np.array_equal(own.step_time_s, plain.truth["cifar10/256", "A100"].step_time_s)
    best = changing.truth["cifar10/256 (64..4096, noise scale 8000)", "A100"]
    assert set(changing.truth) == {(job.cost_class, "A100") for job in changing.jobs}
    assert (best.step_time_s[:, -1] < own.step_time_s[:, -1]).all()
    gain = own.step_time_s[:, -1] / best.step_time_s[:, -1]
    assert (np.diff(gain) > 0).all()  # the more GPUs, the more a larger batch gains
    # every policy gains: it sees another cost table
    for policy in ("prices", "pollux", "fifo"):
        assert simulate(build(free), load(policy)).jobs.jct_s < simulate(plain, load(policy)).jobs.jct_s
    assert changing.facts["Batches"].startswith("1 jobs may change their global batch")
    assert "Batches" not in plain.facts


def test_measured_step_times_scale_the_changing_batch_too() -> None:
    own = logged(model="bert", global_batch=256)
    free = dataclasses.replace(own, id="b", submit_s=1.0, batch_range=BatchRange(12, 384, 4000.0))
    timed = dataclasses.replace(own, id="c", submit_s=2.0, iterations=10.0)  # 10 s a step
    before, after = build(own, free), build(own, free, timed)
    factor = 10.0 / before.truth["bert/256", "A100"].step_time_s[0, -1]
    for key, table in before.truth.items():
        assert after.truth[key].step_time_s == pytest.approx(table.step_time_s * factor)


def test_time_begins_with_the_first_job() -> None:
    workload = build(logged(submit_s=1e9), logged("b", 1e9 + 60))
    assert [job.submit_s for job in workload.jobs] == [0.0, 60.0]


def test_names_that_repeat_are_told_apart() -> None:
    workload = build(logged("a"), logged("a", 5.0))
    assert [job.id for job in workload.jobs] == ["0:a", "1:a"]


def test_lines_without_a_job_are_said() -> None:
    skipped = (Skipped(3, "noise_scale is negative (-1)"), Skipped(9, "gpus is empty"))
    trace = Trace("t.csv", "csv", (logged(),), skipped)
    facts = build_workload(trace, "2x4:A100").facts
    assert facts["Skipped"] == "2 lines gave no job (first: line 3: noise_scale is negative (-1))"
    assert "Skipped" not in build(logged()).facts


def test_load_scales_the_times_of_submission_and_nothing_else() -> None:
    jobs = [logged(f"j{i}", 100.0 * i, 400.0, 2) for i in range(11)]
    plain, scaled = build(*jobs, seed=1), build(*jobs, seed=1, load=2.0)
    # asked for: 11 jobs × 2 GPUs × 400 s = 8800 GPU-s; there: 8 GPUs × span. Load 2: span 550 s.
    assert scaled.jobs[-1].submit_s == pytest.approx(550.0)
    assert [job.iterations for job in scaled.jobs] == [job.iterations for job in plain.jobs]
    assert scaled.facts["Offered load"].startswith("2.00 ")
    assert plain.facts["Offered load"] == "1.10"


def test_models_are_drawn_by_seed_and_scale_to_the_request() -> None:
    jobs = [logged(f"j{i}", float(i), gpus=8) for i in range(40)]
    kinds = [[job.cost_class for job in build(*jobs, seed=seed).jobs] for seed in (1, 1, 2)]
    assert kinds[0] == kinds[1] != kinds[2]
    assert len(set(kinds[0])) > 5
    assert (
        build(*jobs, seed=1).facts["Models"]
        == "the trace names none: drawn evenly from the catalogue's families (seed 1)"
    )
    assert build(logged(model="bert")).facts["Models"] == "as named by the trace"


def test_truth_differs_from_the_family_as_much_as_said_and_not_by_company() -> None:
    def step_s(*jobs: TraceJob, **options: object) -> float:
        workload = build(*jobs, **options)  # type: ignore[arg-type]
        return float(workload.truth["bert/256", "A100"].step_time_s[0, -1])

    bert = logged(model="bert", global_batch=256)
    alone = step_s(bert)
    assert step_s(bert, logged("b", model="vgg16")) == alone  # whoever else is there
    assert step_s(bert, seed=1) != alone
    family = step_s(bert, variation=0.0)
    off = [math.log(step_s(bert, seed=seed) / family) for seed in range(30)]
    assert 0.05 < np.std(off) < 0.4


def test_requests_are_cut_or_refused() -> None:
    with pytest.raises(InputError, match=r"1 jobs ask for more than the cluster's 8 GPUs \(job a: 16\)"):
        build(logged(gpus=16))
    workload = build(logged(gpus=16), logged("b", 1.0), most_gpus=8)
    assert workload.jobs[0].gpus == 8
    assert workload.facts["Requests"] == "1 jobs requested more than 8 GPUs; their requests were reduced to that"


def test_a_job_may_use_what_its_family_scales_to_or_what_it_asked_for() -> None:
    workload = build(logged(gpus=3), logged("b", 1.0, gpus=8), cluster="3x4:A100")
    assert 3 in workload.axes["A100"].gpu_counts
    assert all(job.gpus_max >= job.gpus and job.gpus_min == 1 for job in workload.jobs)
    assert all(job.gpus_max <= 8 for job in workload.jobs)  # the largest power of two of twelve


def test_any_number_of_different_requests() -> None:
    workload = build(*(logged(f"j{i}", float(i), gpus=i) for i in range(1, 91)), cluster="16x8:A100")
    counts = workload.axes["A100"].gpu_counts
    assert len(counts) > 64
    for table in workload.truth.values():
        assert table.step_time_s.shape == (len(counts), len(workload.axes["A100"].clocks_mhz))


def test_gpu_types_go_by_their_names_in_the_catalogue() -> None:
    assert list(build(logged(), cluster="1x4:a100+1x2:t4").cluster.pools()) == ["A100", "T4"]


def test_being_spread_is_never_faster() -> None:
    workload = build(*(logged(f"j{i}", float(i)) for i in range(30)))
    for table in workload.truth.values():
        finite = np.isfinite(table.step_time_s)
        assert (table.spread_step_time_s[finite] >= table.step_time_s[finite]).all()


@pytest.mark.parametrize(
    ("jobs", "options", "words"),
    [
        ([], {}, r"log\.csv: it contains no jobs"),
        ([logged(), logged("b", 9.0)], {"load": 0.0}, "--load: load is 0.0"),
        ([logged(), logged("b", 9.0)], {"load": -1.0}, "load is -1.0"),
        ([logged(), logged("b", 9.0)], {"load": math.nan}, "load is nan"),
        ([logged()], {"load": 1.0}, "all jobs have one submission time"),
        ([logged(model="bert", global_batch=-4)], {}, "global batch is -4"),
        ([logged(duration_s=math.nan)], {}, "job a has neither a duration nor iterations"),
        ([logged(gpus=0)], {}, "GPU counts must be 1 or more"),
        ([logged()], {"cluster": "2x4:Z900"}, "unknown GPU type 'Z900'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(jobs: list[TraceJob], options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        build(*jobs, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_same_input_same_workload() -> None:
    jobs = [logged(f"j{i}", float(i), 50.0 + i, 1 + i % 4) for i in range(20)]
    first, second = build(*jobs, seed=5), build(*jobs, seed=5)
    assert first.jobs == second.jobs
    for key, table in first.truth.items():
        for column in dataclasses.fields(table):
            assert np.array_equal(getattr(table, column.name), getattr(second.truth[key], column.name))
