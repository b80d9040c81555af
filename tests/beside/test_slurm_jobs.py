"""What a controller hears of Slurm's jobs."""

from __future__ import annotations

from typing import Any

import pytest

from powerflow.api.records import JobState
from powerflow.beside.poller import Poller
from powerflow.beside.slurm_jobs import Protected, SlurmRules, external_look, read_protected
from powerflow.errors import InputError
from powerflow.watch.sources.slurm import read_jobs

NOW_S = 1_764_000_000.0


def job(number: int, gpus: str, state: str = "RUNNING", **more: Any) -> dict[str, Any]:
    found = {
        "job_id": number,
        "job_state": state,
        "start_time": int(NOW_S) - 100,
        "submit_time": int(NOW_S) - 160,
        "end_time": 0,
        "name": "train",
        "user_name": "ada",
        "account": "vision",
        "partition": "gpu",
        "comment": "",
        "nodes": "n1",
        "gres_detail": [f"gpu:1(IDX:{gpus})"],
        "tres_alloc_str": "gres/gpu=1",
    }
    return {**found, **more}


def looked(*jobs: dict[str, Any], rules: SlurmRules | None = None) -> Any:
    import json

    return external_look(read_jobs(json.dumps({"jobs": jobs}), NOW_S), rules or SlurmRules())


def test_a_running_job_has_its_gpus_its_owner_and_its_times() -> None:
    look = looked(job(4711, "0-1,3", nodes="n1", array_job_id=4700, array_task_id=3))
    (found,) = look.jobs.values()
    assert (found.id, found.name, found.user, found.project) == ("4700_3", "train", "ada", "vision")
    assert found.gpus == {"n1": (0, 1, 3)}
    assert (found.submitted_s, found.started_s) == (NOW_S - 160, NOW_S - 99.5)
    assert (found.untouched, found.protected, found.why_not) == (False, False, "")


@pytest.mark.parametrize(
    ("comment", "untouched"),
    [("powerflow:off", True), ("run 3,powerflow:off; please", True), ("powerflow:offline", False), ("off", False)],
)
def test_a_comment_opts_out(comment: str, untouched: bool) -> None:
    (found,) = looked(job(1, "0", comment=comment)).jobs.values()
    assert found.untouched is untouched


def test_a_site_protects_jobs() -> None:
    rules = SlurmRules([read_protected("partition=urgent"), read_protected("user=eve")])
    look = looked(job(1, "0"), job(2, "1", partition="urgent"), job(3, "2", user_name="eve"), rules=rules)
    assert [each.protected for each in look.jobs.values()] == [False, True, True]


@pytest.mark.parametrize("text", ["urgent", "qos=high", "partition=", "=urgent"])
def test_a_wrong_rule_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="does not say which jobs"):
        read_protected(text)
    assert read_protected("account=a=b") == Protected("account", "a=b")


def test_jobs_that_share_a_gpu_are_named() -> None:
    look = looked(job(1, "0"), job(2, "0"), job(3, "1"), job(4, "", gres_detail=["shard:2(IDX:2)"], tres_alloc_str=""))
    assert [bool(each.why_not) for each in look.jobs.values()] == [True, True, False, True]


def test_of_a_job_that_is_being_ended_it_is_not_known_yet_how() -> None:
    """Slurm 22.05 has one word for the state, and this one hides the others."""
    look = looked(job(1, "0", "COMPLETING", end_time=int(NOW_S) - 1))
    assert (look.jobs, look.ended, set(look.running)) == ({}, {}, {f"slurm:1@{NOW_S - 100:.0f}"})
    again = looked(job(2, "0", restart_cnt=1, submit_time=int(NOW_S) - 130))
    assert again.requeued_s == {"slurm:2": NOW_S - 129.5}


@pytest.mark.parametrize(
    ("state", "expected"),
    [("COMPLETED", JobState.COMPLETED), ("CANCELLED", JobState.CANCELLED), ("TIMEOUT", JobState.FAILED),
     ("NODE_FAIL", JobState.FAILED), ("PREEMPTED", JobState.CANCELLED)],
)  # fmt: skip
def test_an_end_is_what_slurm_says(state: str, expected: JobState) -> None:
    look = looked(job(1, "0", state, end_time=int(NOW_S) - 7))
    assert not look.jobs
    (end,) = look.ended.values()
    assert (end.state, end.ended_s) == (expected, NOW_S - 6.5)
    assert end.text == ("completed" if expected is JobState.COMPLETED else f"Slurm: {state}")


class Door:
    def __init__(self) -> None:
        self.said: list[str] = []

    def take(self, look: Any, now_s: float) -> None:
        self.said.append("look")

    def unheard(self, why: str) -> None:
        self.said.append(why)


def test_a_poller_passes_on_what_it_hears_and_that_it_hears_nothing() -> None:
    door, silent = Door(), True

    def ask(now_s: float) -> Any:
        if silent:
            raise InputError("squeue did not answer in 20 s", where="Slurm")
        return looked()

    poller = Poller(ask, door, log=None)
    poller.turn()
    silent = False
    poller.turn()
    assert door.said == ["Slurm: squeue did not answer in 20 s", "look"]
