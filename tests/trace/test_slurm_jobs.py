"""Which records of Slurm are one job: by cluster, number and submission, in text and in JSON alike."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from powerflow.trace.read import read_trace
from powerflow.trace.record import JobOutcome, Trace
from powerflow.trace.statistics import describe
from powerflow.trace.write import write_trace

DAY = "2024-03-0"
HEAD = "JobID|Cluster|JobName|User|Account|Submit|Start|End|ElapsedRaw|State|AllocTRES"


def row(
    id: str,
    *,
    cluster: str = "",
    name: str = "train",
    user: str = "ann",
    submit: str = "1T08:00:00",
    start: str = "1T08:10:00",
    ran_s: int = 3600,
    state: str = "COMPLETED",
    gpus: int = 2,
) -> str:
    tres = f"cpu=8,gres/gpu={gpus},node=1"
    end = (datetime.fromisoformat(DAY + start) + timedelta(seconds=ran_s)).isoformat()
    return f"{id}|{cluster}|{name}|{user}|p|{DAY}{submit}|{DAY}{start}|{end}|{ran_s}|{state}|{tres}"


def as_json(line: str) -> dict[str, object]:
    """The same record as ``sacct --json`` has it."""
    id, cluster, name, user, account, submit, start, _, ran_s, state, tres = line.split("|")
    submit_s, start_s = (int(datetime.fromisoformat(f"{when}+00:00").timestamp()) for when in (submit, start))
    elapsed = int(ran_s)
    gpus = int(tres.split("gres/gpu=")[1].split(",")[0])
    return {
        "job_id": int(id),
        "cluster": cluster,
        "name": name,
        "user": user,
        "account": account,
        "state": {"current": [state]},
        "time": {"submission": submit_s, "start": start_s, "end": start_s + elapsed, "elapsed": elapsed},
        "tres": {"allocated": [{"type": "gres", "name": "gpu", "count": gpus}]},
    }


def both(tmp_path: Path, *rows: str) -> Trace:
    """Read the records as text and as JSON on one line; both must say the same."""
    text, document = tmp_path / "log.txt", tmp_path / "log.json"
    text.write_text("\n".join((HEAD, *rows)) + "\n")
    document.write_text(json.dumps({"jobs": [as_json(line) for line in rows]}))
    one, other = read_trace(text), read_trace(document)
    assert other.format == "sacct-json"
    assert one.jobs == other.jobs
    return one


def test_clusters_number_their_jobs_each_for_itself(tmp_path: Path) -> None:
    trace = both(
        tmp_path,
        row("500", cluster="alpha", ran_s=7200, gpus=4),
        row("500", cluster="beta", submit="5T08:00:00", start="5T08:01:00"),
        row("501", cluster="alpha", submit="1T09:00:00", start="1T09:10:00", ran_s=7200, gpus=4),
    )
    assert [(job.id, job.wait_s) for job in trace.jobs] == [
        ("alpha/500", 600.0),
        ("alpha/501", 600.0),
        ("beta/500", 60.0),
    ]
    assert describe(trace).gpu_hours == 4 * 2 + 4 * 2 + 2 * 1
    assert any("2 clusters" in note for note in trace.notes)


def test_one_cluster_leaves_numbers_bare(tmp_path: Path) -> None:
    assert both(tmp_path, row("500", cluster="alpha")).jobs[0].id == "500"


@pytest.mark.parametrize(
    "second",
    [
        {"user": "bob"},  # another user, whatever the state
        {"name": "other", "submit": "1T09:30:00", "start": "1T09:40:00"},  # another name
        {"submit": "9T08:00:00", "start": "9T08:10:00"},  # the same name, a week after the controller forgot it
    ],
)
def test_a_number_that_comes_again_is_another_job(second: dict[str, str], tmp_path: Path) -> None:
    trace = both(tmp_path, row("1"), row("1", **{"submit": "2T08:00:00", "start": "2T08:10:00", **second}))  # type: ignore[arg-type]
    assert [job.id for job in trace.jobs] == ["1", "1#2"]
    assert [job.duration_s for job in trace.jobs] == [3600.0, 3600.0]
    assert not trace.skipped
    assert describe(trace).earlier_gpu_hours == 0


@pytest.mark.parametrize("state", ["PREEMPTED", "NODE_FAIL", "REQUEUED", "BOOT_FAIL", "RESIZING"])
def test_gpu_time_of_every_run_of_a_requeued_job_counts(state: str, tmp_path: Path) -> None:
    trace = both(
        tmp_path,
        row("1", ran_s=1777, state=state),
        row("2"),
        row("1", submit="1T09:00:00", start="1T09:30:00", ran_s=676, state=state, gpus=4),
        row("1", submit="1T10:00:00", start="1T12:00:00", ran_s=86_401),
    )
    first, second = sorted(trace.jobs, key=lambda job: job.id)
    assert (first.duration_s, first.gpus, first.wait_s) == (86_401.0, 2, 600.0)
    assert first.earlier_gpu_s == 1777 * 2 + 676 * 4
    assert second.earlier_gpu_s == 0
    found = describe(trace)
    assert found.gpu_hours == pytest.approx((86_401 * 2 + 1777 * 2 + 676 * 4 + 3600 * 2) / 3600)
    assert found.earlier_gpu_hours == pytest.approx((1777 * 2 + 676 * 4) / 3600)
    assert any("1 jobs were requeued" in note and "1.7 GPU-hours" in note for note in trace.notes)


def test_the_only_record_of_a_requeued_job_counts(tmp_path: Path) -> None:
    (job,) = both(tmp_path, row("1", ran_s=86_307, state="REQUEUED")).jobs
    assert (job.duration_s, job.gpus, job.outcome) == (86_307.0, 2, JobOutcome.UNKNOWN)


def test_a_record_pasted_twice_is_one_run(tmp_path: Path) -> None:
    (job,) = both(tmp_path, row("1", state="NODE_FAIL"), row("1", state="NODE_FAIL")).jobs
    assert (job.duration_s, job.earlier_gpu_s) == (3600.0, 0.0)


def test_an_earlier_dump_that_saw_it_running_adds_nothing(tmp_path: Path) -> None:
    (job,) = both(tmp_path, row("1", ran_s=60, state="RUNNING"), row("1")).jobs
    assert (job.duration_s, job.earlier_gpu_s) == (3600.0, 0.0)


def test_records_at_one_time_are_jobs_of_clusters_not_named(tmp_path: Path) -> None:
    trace = both(tmp_path, row("1"), row("1", submit="1T08:05:00", start="1T08:20:00"))
    assert len(trace.jobs) == 2
    assert any("add Cluster to sacct -o" in note for note in trace.notes)


def test_earlier_runs_survive_our_csv(tmp_path: Path) -> None:
    trace = both(tmp_path, row("1", state="NODE_FAIL"), row("1", submit="1T09:30:00", start="1T09:40:00"), row("2"))
    path = tmp_path / "jobs.csv"
    with path.open("w", newline="") as stream:
        write_trace(trace, stream)
    assert read_trace(path).jobs == trace.jobs


def test_documents_one_after_another_all_count(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    days = [json.dumps({"meta": {}, "jobs": [as_json(row(str(number)))], "errors": []}) for number in (1, 2, 3)]
    path.write_text("\n".join(days))
    assert [job.id for job in read_trace(path).jobs] == ["1", "2", "3"]
    path.write_text(json.dumps([as_json(row("1")), as_json(row("2"))]))  # jq .jobs
    assert [job.id for job in read_trace(path).jobs] == ["1", "2"]


def test_parts_of_a_heterogeneous_job_in_json(tmp_path: Path) -> None:
    parts = [
        {**as_json(row(str(7 + offset))), "het": {"job_id": 7, "job_offset": {"set": True, "number": offset}}}
        for offset in (0, 1)
    ]
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"jobs": parts}))
    assert [job.id for job in read_trace(path).jobs] == ["7+0", "7+1"]


def queued(**changes: object) -> dict[str, object]:
    """A job as ``squeue --json`` and ``scontrol show jobs --json`` have it (data_parser v0.0.39 and later)."""
    number = {"set": True, "infinite": False}
    return {
        "job_id": 5,
        "array_job_id": {**number, "number": 0},
        "array_task_id": {"set": False, "infinite": False, "number": 0},
        "name": "t",
        "account": "p",
        "user_name": "u",
        "job_state": ["COMPLETED"],
        "submit_time": {**number, "number": 1_747_749_294},
        "start_time": {**number, "number": 1_747_749_296},
        "end_time": {**number, "number": 1_747_749_396},
        "suspend_time": {**number, "number": 0},
        "tres_alloc_str": "cpu=8,gres/gpu=2",
        "tres_req_str": "cpu=8,gres/gpu=2",
        **changes,
    }


def test_ended_jobs_of_squeue_and_scontrol_json(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    running = queued(job_id=6, job_state=["RUNNING"])  # its end is only the limit's
    array = queued(job_id=9, array_job_id=8, array_task_id={"set": True, "number": 3}, tres_alloc_str="gres/gpu:a100=1")
    old = queued(job_id=10, job_state="COMPLETED", submit_time=1, start_time=2, end_time=12, tres_alloc_str="cpu=1",
                 tres_req_str="", tres_per_node="gres:gpu:4", node_count={"set": True, "number": 2})  # fmt: skip
    path.write_text(json.dumps({"jobs": [queued(), running, array, old], "meta": {}}))
    trace = read_trace(path)
    assert [(job.id, job.gpus, job.duration_s) for job in trace.jobs] == [
        ("10", 8, 10.0),
        ("5", 2, 100.0),
        ("8_3", 1, 100.0),
    ]
    assert [line.why for line in trace.skipped] == ["not ended (RUNNING)"]
    assert any("squeue or scontrol --json" in note and "sacct --json" in note for note in trace.notes)


def test_time_suspended_is_not_time_run(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    # ran 40 s, was suspended, went on at second 66 of the run and ended at 100: 40 + 34
    path.write_text(json.dumps({"jobs": [queued(suspend_time=1_747_749_362, pre_sus_time=40)]}))
    assert read_trace(path).jobs[0].duration_s == 74.0
