"""What a script does with torch.distributed itself works alone and in a gang, or is said in one line."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from powerflow import elastic
from powerflow.elastic import foreign
from powerflow.elastic.environment import RankPlace
from powerflow.elastic.mailbox import JOB_DIR, RANK_NAME
from powerflow.elastic.placed import RankSampler
from tests.elastic.supervisor import Supervisor

DATA = TensorDataset(torch.arange(10.0))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (JOB_DIR, RANK_NAME, "POWERFLOW_EMULATED", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_alone_collectives_work_from_start_to_end() -> None:
    run = elastic.init()
    model = run.wrap(nn.Linear(1, 1))
    for _ in range(2):  # before the first epoch, and after the last
        assert (dist.get_rank(), dist.get_world_size()) == (0, 1)
        total, objects, gathered = torch.full((2,), 3.0), ["a"], [torch.zeros(2)]
        dist.all_reduce(total)
        dist.all_gather(gathered, total)
        dist.broadcast_object_list(objects, src=0)
        dist.barrier()
        assert (gathered[0].tolist(), objects) == ([3.0, 3.0], ["a"])
        assert list(DistributedSampler(DATA, shuffle=False)) == list(range(10))
        for _ in run.epochs(1) if not run.position.step else ():
            for (x,) in run.batches(DATA, global_batch=5):
                run.backward(model(x[:, None]).mean())
    dist.destroy_process_group()


def explained(act: Callable[[], Any], *, in_place: bool) -> str:
    """What is said of the error in which an act ends."""
    with pytest.raises(Exception) as raised:
        act()
    refusal = foreign.explain(raised.value, raised.value.__traceback__, in_place=in_place)
    return "" if refusal is None else str(refusal)


def test_a_second_group_is_said() -> None:
    elastic.init()
    assert explained(lambda: dist.init_process_group("gloo"), in_place=False) == (
        "the process group is open already; remove this call: elastic.init has opened the group"
    )


@pytest.mark.parametrize("name", ["LOCAL_RANK", "RANK", "WORLD_SIZE"])
def test_a_variable_of_torchrun_is_said(name: str) -> None:
    line = f"the environment variable {name} is set only by torchrun; use run.device, run.local_rank, run.rank"
    for in_place in (False, True):
        assert explained(lambda: int(os.environ[name]), in_place=in_place).startswith(line)
    assert not explained(lambda: os.environ["HOMES"], in_place=True)


@pytest.mark.parametrize(
    "act",
    [
        dist.get_rank,
        dist.get_world_size,
        dist.barrier,
        lambda: dist.all_reduce(torch.ones(1)),
        lambda: DistributedSampler(DATA),
        lambda: nn.parallel.DistributedDataParallel(nn.Linear(1, 1)),
    ],
)
def test_no_group_before_the_first_epoch_is_said(act: Callable[[], Any]) -> None:
    assert "have none before the first epoch: new ranks come here while the others train; use run.rank" in explained(
        act, in_place=True
    )
    assert not explained(act, in_place=False)  # torch's own words do


def test_a_rank_lost_in_the_scripts_own_collective_ends_the_others(tmp_path: Path) -> None:
    """With one line, and as something that may be tried again."""
    with Supervisor(tmp_path, script="comes_late_to_a_sum") as job:
        first, second = job.start(2)
        job.allow(10**9)
        job.wait(lambda: bool(job.entries("late")), "the second stays away")
        os.kill(job.processes[second].pid or 0, signal.SIGKILL)
        assert job.codes() == {first: 1, second: -signal.SIGKILL}, job.story()
        (report,) = job.mailbox.reports([first])
        shown = (tmp_path / "log" / f"{first}.err").read_text()
    assert report.refusal == ""
    assert report.note.startswith("small.py:")
    assert "another rank was lost during a collective that the script calls itself" in report.note
    assert shown.endswith(f"powerflow: {report.note}\n")


def test_too_early_a_question_ends_the_job_with_one_line(tmp_path: Path) -> None:
    with Supervisor(tmp_path, script="asks_torch_for_its_rank") as job:
        names = job.launch(1)
        job.post(names)
        assert job.codes() == {names[0]: 1}
        (report,) = job.mailbox.reports(names)
        shown = (tmp_path / "log" / f"{names[0]}.err").read_text().splitlines()
    assert report.refusal.startswith("small.py:")
    assert "none before the first epoch" in report.refusal
    assert shown == [f"powerflow: {report.refusal}"]


def test_the_rest_of_a_step_that_lost_a_rank_is_done_alone(tmp_path: Path) -> None:
    """Its own collectives must neither wait for who has gone nor end the script: the step is done again."""
    with Supervisor(tmp_path, script="sums_up") as job:
        first, second = job.start(2)
        job.allow(10)
        job.wait(lambda: all(r.step == 10 for r in job.mailbox.reports([first, second])), "ten steps")
        os.kill(job.processes[second].pid or 0, signal.SIGKILL)
        job.processes[second].join()
        job.run_out()
        assert job.codes() == {first: 0, second: -signal.SIGKILL}, job.story()
        sums = [entry for entry in job.entries("sum") if entry["name"] == first]
    assert {tuple(entry["sizes"]) for entry in sums if entry["generation"] == 1 and entry["step"] < 10} == {(2.0, 2)}
    assert [entry["sizes"] for entry in sums if entry["step"] == 10] == [[1.0, 1]] * 2  # without effect, and again
    assert [entry["step"] for entry in sums] == [*range(11), *range(10, 26)]


def test_a_rank_that_leaves_may_destroy_its_group(tmp_path: Path) -> None:
    with Supervisor(tmp_path, script="sums_up") as job:
        first, second = job.start(2)
        job.allow(5)
        job.rescale([first])
        job.run_out()
        assert job.codes() == {first: 0, second: 0}, job.story()


def test_each_rank_evaluates_its_part_of_the_moment() -> None:
    place = RankPlace(0, 1, 0)
    loader = DataLoader(DATA, batch_size=4, sampler=RankSampler(DATA, lambda: place))
    assert [int(x) for (batch,) in loader for x in batch] == list(range(10))
    assert len(loader) == 3
    for ranks in (2, 3, 4, 11):
        seen = []
        for rank in range(ranks):
            place = RankPlace(rank, ranks, rank)
            seen += [int(x) for (batch,) in loader for x in batch]
        assert sorted(seen) == list(range(10))
