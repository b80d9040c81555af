"""Jobs that another scheduler runs: PowerFlow sets the clocks of their GPUs, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from powerflow.api.governance import DrainOrder
from powerflow.api.job_spec import JobSpec
from powerflow.api.records import JobState, Refused
from powerflow.live.external_door import MISSING_S
from tests.live.controller_bench import ADA, ROOT
from tests.live.external_bench import BOUND_BY_CLOCK, BOUND_BY_MEMORY, DEAR, ExternalBench


def test_a_job_is_taken_over_where_it_runs_and_let_go_when_it_ends(slurm: ExternalBench) -> None:
    key = slurm.begin(4711, {0: (1, 2), 1: (3,)}, user="ada", name="resnet")
    slurm.look()
    slurm.turn(8)
    job = slurm.controller.jobs[slurm.id(key)]
    nodes = [node.name for node in slurm.spec.nodes]
    assert job.placement == ((nodes[0], (1, 2)), (nodes[1], (3,)))
    assert slurm.job(job.id).state is JobState.RUNNING
    assert (job.user, job.spec.project, job.spec.name) == ("ada", "vision", "4711 resnet")
    assert len(slurm.clocks.set_mhz) == 3
    assert job.energy_j > 0
    assert not slurm.engine.running()  # nothing was started

    slurm.end(key)
    slurm.look()
    slurm.turn(4)
    ended = slurm.job(job.id)
    assert (ended.state, ended.exit) == (JobState.COMPLETED, "completed")
    assert not slurm.clocks.set_mhz
    assert not slurm.gangs.holding()
    assert not slurm.controller.scheduler.ledger.slot_of


@pytest.mark.parametrize(
    ("state", "exit"), [(JobState.FAILED, "Slurm: FAILED"), (JobState.CANCELLED, "Slurm: CANCELLED")]
)
def test_a_job_ends_as_its_scheduler_says(slurm: ExternalBench, state: JobState, exit: str) -> None:
    key = slurm.begin(1, {0: (0,)})
    slurm.look()
    slurm.turn(4)
    slurm.end(key, state)
    slurm.look()
    slurm.turn(4)
    ended = slurm.job(slurm.id(key))
    assert (ended.state, ended.exit) == (state, exit)
    assert ended.ended_s is not None
    assert not slurm.gangs.holding()


def test_a_job_that_is_not_listed_any_more_ends_after_some_time(slurm: ExternalBench) -> None:
    key = slurm.begin(1, {0: (0,)})
    slurm.look()
    slurm.turn(4)
    gone = slurm.running.pop(key)
    slurm.look()
    slurm.long(MISSING_S - 30.0)
    slurm.look()
    slurm.turn(2)
    assert slurm.job(slurm.id(key)).state is JobState.RUNNING
    slurm.long(60.0)
    slurm.look()
    slurm.turn(2)
    ended = slurm.job(slurm.id(key))
    assert "does not list it any more" in ended.exit
    assert not slurm.clocks.set_mhz
    slurm.running[key] = gone  # it was only hidden
    slurm.look()
    slurm.turn(4)
    (again,) = slurm.controller.jobs.values()
    assert (again.id != ended.id, again.spec.run) == (True, key)
    assert len(slurm.clocks.set_mhz) == 1
    slurm.look()
    slurm.turn(2)
    assert slurm.controller.jobs.keys() == {again.id}


def test_a_job_whose_gpus_are_not_told_for_a_while_goes_on(slurm: ExternalBench) -> None:
    key = slurm.begin(1, {0: (0,)})
    slurm.look()
    slurm.turn(4)
    job = slurm.running.pop(key)
    slurm.unplaced.add(key)
    for _ in range(3):
        slurm.look()
        slurm.long(MISSING_S)
    assert slurm.job(slurm.id(key)).state is JobState.RUNNING
    slurm.unplaced.clear()
    slurm.running[key] = job
    slurm.look()
    slurm.turn(2)
    assert slurm.job(slurm.id(key)).state is JobState.RUNNING
    assert len(slurm.clocks.set_mhz) == 1


def test_a_silent_scheduler_changes_nothing(slurm: ExternalBench) -> None:
    key = slurm.begin(1, {0: (0,)})
    slurm.look()
    slurm.turn(4)
    slurm.door.unheard("squeue did not answer in 20 s")
    slurm.turn(4)
    assert slurm.job(slurm.id(key)).state is JobState.RUNNING
    assert any("did not answer" in line for line in slurm.controller.notices.shown().values())
    slurm.look()
    assert not any("did not answer" in line for line in slurm.controller.notices.shown().values())


def test_the_next_controller_goes_on_with_the_jobs_that_still_run(slurm: ExternalBench) -> None:
    stays, ends = slurm.begin(1, {0: (0, 1)}), slurm.begin(2, {1: (0,)})
    slurm.look()
    slurm.turn(6)
    ranks = {str(rank.name) for rank in slurm.controller.engine.ranks()}
    slurm.restart()
    slurm.end(ends)
    slurm.turn(2)
    slurm.look()
    slurm.turn(6)
    assert {str(rank.name) for rank in slurm.controller.engine.ranks() if rank.state.may_run} < ranks
    assert slurm.job(slurm.id(stays)).state is JobState.RUNNING
    assert slurm.job(slurm.id(ends)).state is JobState.COMPLETED
    assert len(slurm.clocks.set_mhz) == 2
    assert slurm.controller.jobs.keys() == {slurm.id(stays)}


def test_gpus_that_change_hands_between_two_looks_have_the_new_owner(slurm: ExternalBench) -> None:
    first = slurm.begin(1, {0: (0, 1)})
    slurm.look()
    slurm.turn(6)
    slurm.end(first)
    second = slurm.begin(2, {0: (1, 2)})
    slurm.look()
    slurm.turn(6)
    assert slurm.job(slurm.id(first)).state is JobState.COMPLETED
    node = slurm.spec.nodes[0].name
    assert {place for place, job in slurm.gangs.holding().items() if job == slurm.id(second)} == {(node, 1), (node, 2)}
    assert len(slurm.clocks.set_mhz) == 2


def test_a_job_has_ended_if_another_one_has_its_gpus(slurm: ExternalBench) -> None:
    first = slurm.begin(1, {0: (0,)})
    slurm.look()
    slurm.turn(6)
    del slurm.running[first]
    second = slurm.begin(2, {0: (0,)})
    slurm.look()
    slurm.turn(6)
    assert slurm.controller.jobs[slurm.id(second)].placement
    assert slurm.controller.jobs.keys() == {slurm.id(second)}


def test_jobs_that_share_a_gpu_are_left_alone_as_long_as_they_do(slurm: ExternalBench) -> None:
    key = slurm.begin(1, {0: (0,)})
    slurm.look()
    slurm.turn(6)
    slurm.running[key] = replace(slurm.running[key], why_not="it shares GPUs with other jobs")
    for _ in range(3):
        slurm.look()
        slurm.turn(4)
        assert not slurm.clocks.set_mhz
        assert slurm.job(slurm.id(key)).state is not JobState.COMPLETED
    slurm.running[key] = replace(slurm.running[key], why_not="")
    for _ in range(2):
        slurm.look()
        slurm.turn(4)
    assert len(slurm.clocks.set_mhz) == 1


def test_a_job_on_gpus_without_an_agent_waits_and_says_why(slurm: ExternalBench) -> None:
    key = slurm.begin(1, {0: (0,)})
    slurm.running[key] = replace(slurm.running[key], gpus={"elsewhere": (0,)})
    slurm.look()
    slurm.turn(20)
    stored = slurm.job(slurm.id(key))
    assert (stored.state, slurm.controller.jobs[stored.id].reason) == (
        JobState.QUEUED,
        "its clocks are not set: PowerFlow has no agent for some of its GPUs, or is not sure of their numbers",
    )
    slurm.end(key)
    slurm.look()
    slurm.turn(2)
    assert slurm.job(slurm.id(key)).state is JobState.COMPLETED


def test_no_job_is_moved_from_a_drained_node_or_a_broken_gpu(slurm: ExternalBench) -> None:
    key = slurm.begin(1, {0: (0,)}, BOUND_BY_CLOCK)
    slurm.look()
    slurm.turn(6)
    job = slurm.controller.jobs[slurm.id(key)]
    before = job.placement
    slurm.service.drain(before[0][0], DrainOrder("repair", sure=True), ROOT)
    slurm.turn(30)
    epoch = job.epoch
    for _ in range(4):
        slurm.look()
        slurm.turn(6)
    assert job.epoch == epoch  # it is not taken over and let go again and again
    assert job.placement in (before, ())
    assert slurm.job(job.id).state in (JobState.RUNNING, JobState.QUEUED)
    holding = {place for place, holder in slurm.gangs.holding().items() if holder == job.id}
    assert holding <= {(before[0][0], 0)}
    slurm.end(key)
    slurm.look()
    slurm.turn(4)
    assert slurm.job(job.id).state is JobState.COMPLETED


def test_no_job_is_moved_to_better_gpus(tmp_path: Path) -> None:
    slurm = ExternalBench(tmp_path, "2x4:V100+2x4:A100", energy_price=DEAR)
    try:
        spread = slurm.begin(1, {0: (0,), 1: (2,)}, BOUND_BY_MEMORY)  # all other GPUs are free
        slow = slurm.begin(2, {0: (3,)}, BOUND_BY_CLOCK)
        slurm.look()
        slurm.turn(6)
        before = {job.id: job.placement for job in slurm.controller.jobs.values()}
        assert all(before.values())
        slurm.long(1200.0)
        assert {job.id: job.placement for job in slurm.controller.jobs.values()} == before
        assert {job.gpu_type for job in slurm.controller.jobs.values()} == {"V100"}
        assert before.keys() == {slurm.id(spread), slurm.id(slow)}
    finally:
        slurm.close()


def test_its_users_cannot_act_on_it_here(slurm: ExternalBench) -> None:
    key = slurm.begin(4711, {0: (0,)}, user="ada")
    slurm.look()
    slurm.turn(4)
    job = slurm.id(key)
    for act in (slurm.service.cancel, slurm.service.hold, slurm.service.release):
        with pytest.raises(Refused, match=r"job .* is Slurm's job 4711: PowerFlow only sets the clocks"):
            act(job, ADA)
    with pytest.raises(Refused, match="Slurm's job 4711"):
        slurm.service.logs(job)
    slurm.turn(4)
    assert slurm.job(job).state is JobState.RUNNING


def test_nobody_can_submit_such_a_job() -> None:
    with pytest.raises(ValueError, match="rescale is external, which no job can ask for"):
        JobSpec.model_validate({"run": "python train.py", "rescale": "external"})


def test_a_gpu_that_changes_hands_at_once_has_a_clock_again(slurm: ExternalBench) -> None:
    first = slurm.begin(1, {0: (0, 1)})
    slurm.look()
    slurm.turn(6)
    slurm.end(first, JobState.CANCELLED)
    second = slurm.begin(2, {0: (0,)})
    slurm.look()
    slurm.turn(10)
    assert slurm.job(slurm.id(first)).state is JobState.CANCELLED
    assert slurm.job(slurm.id(second)).state is JobState.RUNNING
    assert slurm.clocks.set_mhz.keys() == {slurm.gpus[0].uuid}


def test_a_requeued_job_is_two_runs_and_the_second_has_a_clock_at_once(slurm: ExternalBench) -> None:
    first = slurm.begin(7, {0: (0,)})
    slurm.look()
    slurm.turn(6)
    del slurm.running[first]
    slurm.turn(20)
    slurm.requeued_s["slurm:7"] = slurm.now_s - 1.0
    second = slurm.begin(7, {0: (1,)}, submitted_s=slurm.now_s - 1.5)
    slurm.look()
    slurm.turn(10)
    ended = slurm.job(slurm.id(first))
    assert (ended.state, ended.exit) == (JobState.CANCELLED, "Slurm: REQUEUED")
    assert slurm.job(slurm.id(second)).state is JobState.RUNNING
    assert slurm.clocks.set_mhz.keys() == {slurm.gpus[1].uuid}
    del slurm.running[second]  # a look without it is not another requeue
    slurm.look()
    slurm.turn(2)
    assert slurm.job(slurm.id(second)).state is JobState.RUNNING


def test_a_job_that_is_being_ended_stays_until_it_is_told_how(slurm: ExternalBench) -> None:
    key = slurm.begin(1, {0: (0,)})
    slurm.look()
    slurm.turn(6)
    job = slurm.running.pop(key)
    for _ in range(4):
        slurm.look(ending={key})
        slurm.turn(4)
    assert slurm.job(slurm.id(key)).state is JobState.RUNNING
    slurm.running[key] = job
    slurm.end(key)
    slurm.look()
    slurm.turn(4)
    assert slurm.job(slurm.id(key)).state is JobState.COMPLETED


def test_a_job_waits_for_a_gpu_that_another_one_still_holds(slurm: ExternalBench) -> None:
    first = slurm.begin(1, {0: (0,)})
    slurm.look()
    slurm.turn(6)
    slurm.restart()  # the next controller does not know which GPUs Slurm had told of the first one
    second = slurm.begin(2, {0: (0,)})  # Slurm does not tell the end of the first one
    del slurm.running[first]
    slurm.look()
    slurm.turn(10)
    held_by = f"its clocks are not set: some of its GPUs still count as those of job {slurm.id(first)}"
    assert slurm.controller.jobs[slurm.id(second)].reason == held_by
    slurm.long(MISSING_S)
    slurm.look()
    slurm.turn(10)
    assert slurm.job(slurm.id(first)).state is JobState.COMPLETED
    assert slurm.job(slurm.id(second)).state is JobState.RUNNING


def test_a_job_that_gives_a_gpu_away_keeps_its_clock_on_the_other_one(slurm: ExternalBench) -> None:
    key = slurm.begin(1, {0: (0, 1)})
    slurm.look()
    slurm.turn(6)
    node = slurm.spec.nodes[0].name
    slurm.running[key] = replace(slurm.running[key], gpus={node: (0,)})
    other = slurm.begin(2, {0: (1,)})
    for _ in range(3):
        slurm.look()
        slurm.turn(20)
    placements = {each: slurm.controller.jobs[slurm.id(each)].placement for each in (key, other)}
    assert placements == {key: ((node, (0,)),), other: ((node, (1,)),)}
    assert slurm.clocks.set_mhz.keys() == {slurm.gpus[0].uuid, slurm.gpus[1].uuid}
