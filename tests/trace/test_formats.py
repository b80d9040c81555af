"""Each format against a small log worked by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from powerflow.cost.batch_range import BatchRange, progress
from powerflow.cost.catalogue import axes_for, family_model
from powerflow.cost.tabulate import tabulate
from powerflow.errors import InputError
from powerflow.trace.formats.pollux import PUBLISHED, iterations_of, noise_scale_of
from powerflow.trace.read import read_trace
from powerflow.trace.record import JobOutcome, Trace, TraceJob
from tests.trace import examples


def read(tmp_path: Path, text: str, format: str | None = None, tz: str | None = None) -> Trace:
    path = tmp_path / "log"
    path.write_text(text, encoding="utf-8")
    return read_trace(path, format, tz=tz)


def reasons(trace: Trace) -> dict[int, str]:
    return {line.line: line.why for line in trace.skipped}


def test_philly_table_is_local_time_of_the_west_coast(tmp_path: Path) -> None:
    trace = read(tmp_path, examples.PHILLY)
    first, second = trace.jobs
    assert (first.id, first.gpus, first.duration_s, first.project) == ("philly-4", 2, 2951.0, "6214e9")
    assert first.submit_s == 1507554783.0  # 2017-10-09 13:13:03 UTC: seven hours later, in summer
    assert second.submit_s - first.submit_s == 2932.0
    assert any("America/Los_Angeles (assumed" in note for note in trace.notes)
    assert read(tmp_path, examples.PHILLY, tz="UTC").jobs[0].submit_s == first.submit_s - 7 * 3600
    assert read(tmp_path, examples.PHILLY, tz="-07:00").jobs == trace.jobs


def test_clocks_that_go_back_and_forward_are_counted(tmp_path: Path) -> None:
    rows = ["2017-11-05 01:30:00", "2017-11-05 00:30:00", "2017-03-12 02:30:00", "2017-11-05 01:30:00-08:00"]
    head = "timestamp,duration,num_gpus,gpu_time,cluster\n"
    trace = read(tmp_path, head + "".join(f"{row},1,1,1,c\n" for row in rows))
    spring, before, twice, second = trace.jobs
    assert before.submit_s == 1509867000.0
    assert twice.submit_s == before.submit_s + 3600  # the first 01:30, still summer time
    assert second.submit_s == twice.submit_s + 3600  # the second, which says so itself
    assert spring.submit_s == 1489314600.0  # 02:30 never was: read as 02:30 PST
    assert any(note.startswith("1 local times occurred twice") for note in trace.notes)
    assert any(note.startswith("1 local times do not exist") for note in trace.notes)


def test_philly_waits(tmp_path: Path) -> None:
    job = read(tmp_path, examples.PHILLY_WAITS).jobs[1]
    assert job == TraceJob("philly-1", 1502509727.0, 14405.0, 8, wait_s=30.0)


def test_philly_json_counts_every_attempt(tmp_path: Path) -> None:
    trace = read(tmp_path, examples.PHILLY_JSON)
    (job,) = trace.jobs
    assert (job.id, job.gpus, job.project, job.outcome) == ("application_1", 4, "ee9e8c", JobOutcome.COMPLETED)
    assert job.duration_s == 3660.0
    assert job.wait_s == 30.0
    assert reasons(trace) == {
        8: "no attempt recorded: the job never ran",
        10: "its last attempt has no end: still running, or not logged",
    }


def test_philly_json_keeps_gpu_time_when_attempts_differ_in_gpus(tmp_path: Path) -> None:
    text = examples.PHILLY_JSON.replace('["gpu0", "gpu1", "gpu2", "gpu3"]', '["gpu0"]')
    (job,) = read(tmp_path, text).jobs
    assert job.gpus == 4
    assert job.duration_s * job.gpus == 4 * 60 + 1 * 3600


def test_philly_json_attempt_across_the_end_of_summer_time(tmp_path: Path) -> None:
    text = """[{"status": "Pass", "vc": "a", "jobid": "j", "submitted_time": "2017-11-05 00:50:00", "attempts": [
      {"start_time": "2017-11-05 01:55:00", "end_time": "2017-11-05 01:05:00",
       "detail": [{"ip": "m", "gpus": ["gpu0"]}]}]}]"""
    assert read(tmp_path, text).jobs[0].duration_s == 600.0  # 01:05 is the second one, ten minutes later


def test_helios(tmp_path: Path) -> None:
    trace = read(tmp_path, examples.HELIOS)
    assert [job.outcome for job in trace.jobs] == [JobOutcome.COMPLETED, JobOutcome.FAILED]
    assert trace.jobs[1] == TraceJob(
        "1425512", 1591699287.0, 249.0, 4, wait_s=60.0, project="vchbv", outcome=JobOutcome.FAILED
    )
    assert reasons(trace) == {4: "no GPU: this is a CPU job"}


def test_acme_has_users_and_no_virtual_clusters(tmp_path: Path) -> None:
    trace = read(tmp_path, examples.ACME)
    assert trace.format == "acme"
    assert trace.jobs == (
        TraceJob("578", 1677600005.0, 7200.0, 8, wait_s=11.0, project="u07c", outcome=JobOutcome.COMPLETED),
        TraceJob("580", 1677600605.0, 86_400.0, 32, wait_s=11.0, project="u11d", outcome=JobOutcome.FAILED),
    )
    assert reasons(trace) == {3: "no GPU: this is a CPU job"}
    assert any(note.startswith("project is the user") for note in trace.notes)
    as_helios = read(tmp_path, examples.ACME, "helios")
    assert not any("project is the virtual cluster" in note for note in as_helios.notes)
    assert any("project is the virtual cluster" in note for note in read(tmp_path, examples.HELIOS).notes)


def test_itp(tmp_path: Path) -> None:
    trace = read(tmp_path, examples.ITP)
    assert trace.jobs == (TraceJob("a", 1932025.0, 2429.0, 64), TraceJob("b", 2000581.0, 1532.0, 1))
    (job,) = read(tmp_path, examples.ITP_MODELS).jobs
    assert (job.model, job.global_batch, job.iterations, job.duration_s) == ("deepspeech2", 32, 3249.0, 1075.0)


def test_pollux_work_is_published_iterations(tmp_path: Path) -> None:
    first, second = read(tmp_path, examples.POLLUX).jobs
    assert (first.model, first.gpus, first.global_batch, first.iterations) == ("cifar10", 6, 2048, 3178.0)
    assert (second.submit_s, second.iterations) == (401.0, 480.0)
    assert math.isnan(first.duration_s)
    trace = read(tmp_path, examples.POLLUX + "x,1,gpt9,1,1\nz,3,ncf,1,\n")
    assert reasons(trace) == {
        4: "the work of application 'gpt9' at batch 1 is not published",
        5: "batch_size is empty",
    }


def test_pollux_iterations_by_hand_and_against_what_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # cifar10: C = (5722 − 3178) / (1/1024 − 1/2048) = 5 210 112; S = 5722 − C/1024 = 634; N(4096) = S + C/4096 = 1906
    assert iterations_of("cifar10", 4096) == pytest.approx(1906.0)
    # yolov3: C = (14577 − 8075) / (1/64 − 1/128) = 832 256; S = 14577 − C/64 = 1573; N(512) = S + C/512 = 3198.5
    assert iterations_of("yolov3", 512) == pytest.approx(3198.5)
    # imagenet: C = (576525 − 150231) / (1/200 − 1/800) = 113 678 400; S = 8133; N(12800) = S + C/12800 = 17 014.1
    assert iterations_of("imagenet", 12_800) == pytest.approx(17_014.125)
    for application, batch in (("deepspeech2", 640), ("bert", 384), ("yolov3", 128)):
        truth = dict(PUBLISHED[application])[batch]
        monkeypatch.setitem(PUBLISHED, application, tuple(p for p in PUBLISHED[application] if p[0] != batch))
        assert iterations_of(application, batch) == pytest.approx(truth, rel=0.06)


def test_pollux_noise_scale_gives_the_published_iterations() -> None:
    assert noise_scale_of("cifar10") == pytest.approx(5_210_112 / 634)  # C/S, by hand above
    for application, points in PUBLISHED.items():
        largest, iterations = points[-1]
        for batch, published in points:
            worth = progress(noise_scale_of(application), largest, batch)
            assert iterations / worth == pytest.approx(published, rel=0.03)


@pytest.mark.parametrize(
    ("application", "batches"),
    [("imagenet", (200, 800, 12_800)), ("cifar10", (2048, 4096)), ("yolov3", (8, 16, 32, 64, 128, 256, 512))],
)
def test_global_batches_of_the_profiles_are_read_and_have_costs(
    application: str, batches: tuple[int, ...], tmp_path: Path
) -> None:
    rows = "".join(f"{application}-{batch},{batch},{application},1,{batch}\n" for batch in batches)
    trace = read(tmp_path, examples.POLLUX.splitlines(keepends=True)[0] + rows)
    assert [job.global_batch for job in trace.jobs] == list(batches)
    fewer = [job.iterations or 0.0 for job in trace.jobs]
    assert fewer == sorted(fewer, reverse=True)  # a larger batch takes fewer iterations
    axes = axes_for("T4", 4, [1, 2, 4, 8])
    for batch in batches:
        table = tabulate(family_model(application, "T4"), axes, batch)
        assert np.isfinite(table.step_time_s).all()
        assert np.isfinite(table.power_w).all()


def test_tiresias(tmp_path: Path) -> None:
    assert read(tmp_path, examples.TIRESIAS).jobs[1] == TraceJob("1", 30.0, 147.0, 8, model="vgg11", iterations=133.0)


def test_swf(tmp_path: Path) -> None:
    trace = read(tmp_path, examples.SWF)
    assert trace.jobs == (
        TraceJob("1", 1e9, 100.0, 8, wait_s=5.0, project="user-3", name="app-7", outcome=JobOutcome.COMPLETED),
        TraceJob("2", 1e9 + 10, 50.0, 4, project="user-4", outcome=JobOutcome.CANCELLED),
    )
    assert reasons(trace) == {
        6: "run time is unknown (-1)",
        7: "part of a checkpointed job (status 2); only its summary line counts",
    }
    bare = examples.SWF.partition("1000000000\n")[2]
    assert read(tmp_path, bare).jobs[1].submit_s == 10.0


def test_sacct(tmp_path: Path) -> None:
    trace = read(tmp_path, examples.SACCT)
    assert trace.jobs == (
        TraceJob(
            "100",
            1704067200.0,
            93783.0,
            8,
            wait_s=60.0,
            project="vision",
            name="train",
            outcome=JobOutcome.COMPLETED,
            user="ann",
            account="vision",
        ),
        TraceJob(
            "101_4",
            1704070800.0,
            600.0,
            4,
            wait_s=10.0,
            project="nlp",
            name="sweep",
            outcome=JobOutcome.CANCELLED,
            user="bob",
            account="nlp",
        ),
        TraceJob(
            "105",
            1704078000.0,
            330.0,
            1,
            wait_s=10.0,
            project="nlp",
            name="limit",
            outcome=JobOutcome.FAILED,
            user="bob",
            account="nlp",
        ),
    )
    assert reasons(trace) == {
        3: "a step of a job, not a job",
        5: "not ended (RUNNING)",
        6: "no GPU: this is a CPU job",
        7: "elapsed time is 0: the job never ran",
    }
    assert any("read as UTC (assumed" in note for note in trace.notes)


HEAD = "JobID|Submit|Start|End|State|AllocGRES|NNodes|ReqTRES\n"


def test_sacct_duration_from_start_and_end_in_summer_time(tmp_path: Path) -> None:
    row = "1|2024-10-27T01:00:00|2024-10-27T01:30:00|2024-10-27T03:30:00|COMPLETED|gpu:a100:2(IDX:0-1)|3|\n"
    (job,) = read(tmp_path, HEAD + row, tz="Europe/Berlin").jobs
    assert job.duration_s == 3 * 3600.0  # the night has an hour more
    assert job.gpus == 6  # GRES counts per node
    assert read(tmp_path, HEAD + row).jobs[0].duration_s == 2 * 3600.0


def test_sacct_requeued_job_counts_once(tmp_path: Path) -> None:
    rows = (
        "7|2024-01-01T00:00:00|2024-01-01T00:01:00|2024-01-01T01:00:00|NODE_FAIL||1|gres/gpu=1K\n"
        "7|2024-01-01T01:00:00|2024-01-01T01:10:00|2024-01-01T01:20:00|REQUEUED||1|gres/gpu=1K\n"
        "7|2024-01-01T01:20:00|2024-01-01T02:00:00|2024-01-01T04:00:00|COMPLETED||1|gres/gpu=1K\n"
    )
    trace = read(tmp_path, HEAD + rows + HEAD + rows.splitlines(keepends=True)[2])
    (job,) = trace.jobs
    assert (job.submit_s, job.wait_s, job.duration_s, job.gpus) == (1704067200.0, 60.0, 7200.0, 1024)
    assert job.outcome is JobOutcome.COMPLETED
    assert reasons(trace) == {
        3: "requeued; its last run counts",
        2: "an earlier run of a job that runs again (line 4)",
        4: "an earlier run of a job that runs again (line 6)",
    }


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("1|Unknown|x|x|COMPLETED||1|gres/gpu=1", "Submit is unknown"),
        ("1|yesterday|||COMPLETED||1|gres/gpu=1", "Submit is not a date ('yesterday')"),
        ("1|2024-01-01T00:00:00|2024-01-01T00:00:00|Unknown|FAILED||1|gres/gpu=1", "no elapsed time"),
        ("1|2024-01-01T00:00:00|2024-01-01T02:00:00|2024-01-01T01:00:00|FAILED||1|gres/gpu=1", "ends 3600 s before"),
        ("1_[5-9%2]|2024-01-01T00:00:00|Unknown|Unknown|PENDING||1|gres/gpu=1", "not ended (PENDING)"),
        ("1|2024-01-01T00:00:00|2024-01-01T00:00:00|2024-01-01T01:00:00|FAILED||1|gres/gpu=x", "GPU count is not"),
        ("|2024-01-01T00:00:00|2024-01-01T00:00:00|2024-01-01T01:00:00|FAILED||1|gres/gpu=1", "JobID is empty"),
        ("1|a|b", "3 fields, but 8 columns in the header"),
    ],
)
def test_sacct_rows_that_give_no_job(row: str, why: str, tmp_path: Path) -> None:
    good = "9|2024-01-01T00:00:00|2024-01-01T00:00:00|2024-01-01T01:00:00|COMPLETED||1|gres/gpu=1\n"
    trace = read(tmp_path, HEAD + row + "\n" + good)
    assert [job.id for job in trace.jobs] == ["9"]
    assert reasons(trace)[2].startswith(why)


def test_sacct_says_which_columns_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column Submit, ElapsedRaw, AllocTRES"):
        read(tmp_path, "JobID|State\n1|COMPLETED\n")


def test_sacct_with_final_bar_and_epoch_times(tmp_path: Path) -> None:
    text = "JobIDRaw|Submit|ElapsedRaw|State|AllocTRES|\n5|1704067200|60|COMPLETED|gres/gpu=2|\n"
    (job,) = read(tmp_path, text).jobs
    assert (job.id, job.submit_s, job.duration_s, job.gpus, job.wait_s) == ("5", 1704067200.0, 60.0, 2, None)


def test_sacct_json(tmp_path: Path) -> None:
    trace = read(tmp_path, examples.SACCT_JSON)
    assert trace.jobs == (
        TraceJob(
            "7",
            1.7e9,
            3600.0,
            4,
            wait_s=60.0,
            project="vision",
            name="a",
            outcome=JobOutcome.COMPLETED,
            user="ann",
            account="vision",
            partition="gpu",
            qos="high",
        ),
        TraceJob(
            "8_3",
            1.7e9 + 100,
            100.0,
            2,
            wait_s=100.0,
            project="nlp",
            name="b",
            outcome=JobOutcome.CANCELLED,
            user="bob",
            account="nlp",
            raw_id="9",
        ),
    )
    assert reasons(trace) == {14: "not ended (PENDING)"}


@pytest.mark.parametrize("text", ['{"jobs": [{]}', '{"jobs": [', '{"jobs": 3}', '{"meta": 1}', '{"jobs": [] "x": 1}'])
def test_broken_json_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        read(tmp_path, text, "sacct-json")


def test_deep_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nested too deeply"):
        read(tmp_path, "[" * 100_000, "philly-json")


def test_json_is_read_item_by_item(tmp_path: Path) -> None:
    item = examples.PHILLY_JSON[2:].partition(',\n  {"status": "Killed"')[0]
    text = "[" + ",\n".join(item.replace("application_1", f"application_{i}") for i in range(500)) + "]"
    assert len(text) > 3 * 65_536  # more than one window
    trace = read(tmp_path, text)
    assert [job.id for job in trace.jobs] == [f"application_{i}" for i in range(500)]


def test_csv_with_batches_that_may_change(tmp_path: Path) -> None:
    head = "submit_s,duration_s,gpus,global_batch,global_batch_min,global_batch_max,noise_scale\n"
    rows = (
        "0,9,1,64,32,512,800.5\n1,9,1,64,,,\n2,9,1,64,32,512,\n3,9,1,,32,512,1\n4,9,1,64,128,512,1\n5,9,1,64,90,8,1\n"
    )
    rows += "6,9,1,64,32,512,-1\n7,9,1,64,32,512,nan\n8,9,1,64,0,512,1\n9,9,1,64,32,5.5,1\n"
    trace = read(tmp_path, head + rows)
    assert [job.batch_range for job in trace.jobs] == [BatchRange(32, 512, 800.5), None]
    together = "global_batch_min, global_batch_max, noise_scale and global_batch are not all given"
    assert reasons(trace) == {
        4: together,
        5: together,
        6: "global_batch is not from global_batch_min to global_batch_max (64: 128 to 512)",
        7: "global_batch is not from global_batch_min to global_batch_max (64: 90 to 8)",
        8: "noise_scale is negative (-1)",
        9: "noise_scale is not finite ('nan')",
        10: "global_batch_min is not a whole number above 0 ('0')",
        11: "global_batch_max is not a whole number above 0 ('5.5')",
    }


def test_csv(tmp_path: Path) -> None:
    first, second = read(tmp_path, examples.CSV).jobs
    assert first == TraceJob(
        "a", 0.0, 60.0, 1, model="bert", global_batch=384, iterations=100.0, outcome=JobOutcome.COMPLETED
    )
    assert math.isnan(second.duration_s)
    assert (second.submit_s, second.gpus, second.iterations) == (30.5, 8, 5000.0)
    dated = read(tmp_path, "submit,duration_s,gpus\n2024-01-01T00:00:00Z,1,1\n2024-01-01T00:00:00+01:00,1,1\n")
    assert [job.submit_s for job in dated.jobs] == [1704063600.0, 1704067200.0]
    assert [job.id for job in dated.jobs] == ["job-3", "job-2"]
    assert not dated.notes  # every date carried its offset


def test_sacct_tells_the_nodes_of_a_job_and_the_own_number_of_a_task(tmp_path: Path) -> None:
    head = "JobID|JobIDRaw|Submit|ElapsedRaw|State|AllocTRES|NodeList"
    rows = [
        "70_3|74|1704067200|60|COMPLETED|gres/gpu=16|n[1-2]",
        "80|80|1704067260|60|COMPLETED|gres/gpu=1|None assigned",
    ]
    path = tmp_path / "log.txt"
    path.write_text("\n".join([head, *rows]) + "\n")
    task, job = read_trace(path).jobs
    assert (task.id, task.raw_id, task.nodes) == ("70_3", "74", "n[1-2]")
    assert (job.id, job.raw_id, job.nodes) == ("80", "", "")
