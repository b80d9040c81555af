"""What Slurm says of its jobs, as versions 22.05 and 24.05 write it."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from powerflow.errors import InputError
from powerflow.osutil.host_names import short_host
from powerflow.watch.owners import GpuAddress
from powerflow.watch.sources.slurm import ask_slurm, hosts, read_jobs


def job(**values: Any) -> dict[str, Any]:
    """A running job, with the keys that are read, as Debian's Slurm 22.05.8 wrote them."""
    return {
        "account": "",
        "array_job_id": 0,
        "array_task_id": None,
        "comment": "",
        "end_time": 1827425932,
        "gres_detail": ["gpu:2(IDX:0-1)"],
        "job_id": 1,
        "job_state": "RUNNING",
        "name": "hello world=x UserId=root",
        "nodes": "pf102h1",
        "partition": "all",
        "start_time": 1795889932,
        "submit_time": 1795889930,
        "tres_alloc_str": "cpu=1,mem=1000M,node=1,billing=1",
        "user_id": 65534,
        "user_name": "nobody",
        **values,
    }


def newer(number: float | None) -> dict[str, Any]:
    """A number as Slurm writes it since 23.02."""
    return {"set": number is not None, "infinite": False, "number": number or 0}


def read(*jobs: Any) -> Any:
    return read_jobs(json.dumps({"meta": {}, "jobs": jobs}), 1795889940.0)


def test_a_running_job_holds_its_gpus_from_its_start_and_its_end_is_open() -> None:
    look = read(job(comment="powerflow:off", account="physics"))
    (found,) = look.jobs.values()
    assert (found.id, found.user, found.account, found.partition) == ("1", "nobody", "physics", "all")
    assert (found.start_s, found.end_s, found.submitted_s) == (1795889932.5, None, 1795889930)
    assert (found.state, found.comment, found.name) == ("RUNNING", "powerflow:off", "hello world=x UserId=root")
    assert [each.gpu for each in look.holdings] == [GpuAddress("pf102h1", 0), GpuAddress("pf102h1", 1)]
    assert {(each.start_s, each.end_s) for each in look.holdings} == {(1795889932.5, None)}


def test_a_job_of_several_nodes_names_its_gpus_node_by_node() -> None:
    look = read(
        job(nodes="n[08-10],big1", gres_detail=["gpu:a100:1(IDX:3)", "gpu:1(IDX:0)", "gpu:2(IDX:0,2)", "gpu(IDX:1)"])
    )
    assert [str(each.gpu) for each in look.holdings] == ["n08:3", "n09:0", "n10:0", "n10:2", "big1:1"]


def test_an_ended_job_has_its_exact_end_and_no_gpus_any_more() -> None:
    look = read(job(job_state="COMPLETED", gres_detail=[], end_time=1795889938))
    (found,) = look.jobs.values()
    assert (found.end_s, found.state, look.holdings) == (1795889938.5, "COMPLETED", [])


def test_a_job_that_is_being_ended_has_ended_and_its_state_says_how() -> None:
    look = read(job(job_state=["FAILED", "COMPLETING"], end_time=newer(1795889939)))
    assert [(each.end_s, each.state) for each in look.jobs.values()] == [(1795889939.5, "FAILED")]


def test_numbers_and_states_of_newer_versions() -> None:
    look = read(
        job(
            job_state=["RUNNING"],
            start_time=newer(1795889932),
            end_time=newer(None),
            submit_time=newer(1795889930),
            array_job_id=newer(70),
            array_task_id=newer(3),
        )
    )
    (found,) = look.jobs.values()
    assert (found.id, found.start_s, found.state) == ("70_3", 1795889932.5, "RUNNING")


def test_the_first_task_of_an_array_is_task_zero() -> None:
    assert [each.id for each in read(job(array_job_id=70, array_task_id=0)).jobs.values()] == ["70_0"]


def test_parts_of_a_heterogeneous_job_have_the_numbers_of_sacct() -> None:
    parts = [job(job_id=12, het_job_id=11, het_job_offset=1), job(het_job_id=newer(70), het_job_offset=newer(0))]
    assert [each.id for part in parts for each in read(part).jobs.values()] == ["11+1", "70+0"]


def test_a_job_that_waits_to_run_again_tells_when_its_last_run_ended() -> None:
    waits = {"job_state": "PENDING", "gres_detail": [], "start_time": 1795900100, "submit_time": 1795900000}
    assert read(job(job_id=5, restart_cnt=1, **waits)).requeued_s == {"slurm:5": 1795900000.5}
    assert read(job(job_id=5, restart_cnt=0, **waits)).requeued_s == {}


def test_jobs_without_gpus_and_jobs_that_wait_are_left_out() -> None:
    waiting = job(job_state="PENDING", gres_detail=[], start_time=0)
    look = read(job(gres_detail=[]), waiting)
    assert (look.jobs, look.holdings, look.notes) == ({}, [], [])


def test_gpus_without_numbers_and_jobs_that_cannot_be_read_are_said() -> None:
    look = read(job(gres_detail=["gpu:2"]), {"job_id": "?"})
    assert look.holdings == []
    assert any("1 jobs could not be read" in note for note in look.notes)
    assert any("whose numbers it does not tell" in note for note in look.notes)


@pytest.mark.parametrize("text", ["", "slurm_load_jobs error", "[]", '{"jobs": 3}', '{"errors": []}', "[" * 100_000])
def test_an_answer_of_another_kind_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as refused:
        read_jobs(text, 0.0)
    assert "\n" not in str(refused.value)
    assert "21.08" in str(refused.value)


def test_a_slurm_that_is_not_there_fails_or_hangs_is_said() -> None:
    with pytest.raises(InputError, match="there is no squeue-of-nowhere"):
        ask_slurm(["squeue-of-nowhere"])
    with pytest.raises(InputError, match="Unable to contact slurm controller"):
        ask_slurm([sys.executable, "-c", "import sys; sys.exit('slurm_load_jobs: Unable to contact slurm controller')"])
    with pytest.raises(InputError, match=r"did not answer in 0\.2 s"):
        ask_slurm([sys.executable, "-c", "import time; time.sleep(60)"], 0.2)


def test_host_lists() -> None:
    assert [*hosts("n[01-03,7],login,gpu[1-2]-ib")] == ["n01", "n02", "n03", "n7", "login", "gpu1-ib", "gpu2-ib"]
    assert [*hosts("")] == []


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("N7.site.org:9400", "n7"),
        ("n7", "n7"),
        ("10.0.0.7:9400", "10.0.0.7"),
        ("10.0.0.7", "10.0.0.7"),
        ("[::1]:9400", "[::1]"),
    ],
)
def test_short_host_names(name: str, short: str) -> None:
    assert short_host(name) == short


def test_a_job_with_parts_of_a_gpu_shares_it() -> None:
    """As Slurm 22.05 tells shards; ``tres_alloc_str`` does not name them."""
    look = read(
        job(job_id=1, gres_detail=["shard:2(IDX:0)"]),
        job(job_id=2, gres_detail=["shard:a100:2(IDX:0)"]),
        job(job_id=3, gres_detail=["gpu:1(IDX:1),mps:50(IDX:2)"]),
    )
    assert [(each.gpu.number, each.shared) for each in look.holdings] == [
        (0, True),
        (0, True),
        (1, False),
        (2, True),
    ]
