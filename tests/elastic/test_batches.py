"""`run.batches` is used as a DataLoader is; ranks and epochs are known before the first step."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from powerflow import elastic
from powerflow.elastic import environment
from powerflow.elastic.environment import RankPlace
from powerflow.elastic.mailbox import JOB_DIR, RANK_NAME, Mailbox, Member, Target
from powerflow.elastic.run import Run
from powerflow.elastic.training import accelerated
from powerflow.errors import InputError
from tests.elastic.supervisor import Supervisor

DATA = TensorDataset(torch.arange(10.0).reshape(10, 1))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in (JOB_DIR, RANK_NAME, "POWERFLOW_EMULATED", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return elastic.init()


def train(run: Run, model: nn.Module, x: torch.Tensor) -> None:
    run.backward(model(x).mean())


@pytest.mark.parametrize(("drop_last", "steps", "samples"), [(False, 3, 10), (True, 2, 8)])
def test_what_a_loader_has(run: Run, drop_last: bool, steps: int, samples: int) -> None:
    loader = run.batches(DATA, global_batch=4, drop_last=drop_last, num_workers=0, pin_memory=False)
    assert len(loader) == steps
    assert loader.dataset is DATA
    assert (loader.batch_size, loader.drop_last, loader.num_workers) == (4, drop_last, 0)
    assert len(loader.sampler) == samples
    loader.sampler.set_epoch(3)
    with pytest.raises(AttributeError):
        _ = loader.nonsense


def test_made_once_before_wrap_and_gone_through_in_every_epoch(run: Run) -> None:
    """As scripts do that give ``len(loader)`` to their schedule."""
    loader = run.batches(DATA, global_batch=4)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, epochs=3, steps_per_epoch=len(loader))
    wrapped = run.wrap(model, optimizer, schedule)
    seen = []
    for _ in run.epochs(3):
        for (x,) in loader:
            seen.append(sorted(x.flatten().tolist()))
            train(run, wrapped, x)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    assert run.position == (9, 3, 0, 30)
    assert seen[:3] != seen[3:6]
    for epoch in (seen[:3], seen[3:6], seen[6:]):
        assert sorted(itertools.chain(*epoch)) == list(range(10))


def test_next_and_iter_go_on_together(run: Run) -> None:
    wrapped = run.wrap(nn.Linear(1, 1))
    for _ in run.epochs(1):
        loader = run.batches(DATA, global_batch=4, shuffle=False)
        (first,) = next(loader)
        train(run, wrapped, first)
        rest = []
        for (x,) in loader:
            rest.append(x.flatten().tolist())
            train(run, wrapped, x)
    assert (first.flatten().tolist(), rest) == ([0, 1, 2, 3], [[4, 5, 6, 7], [8, 9]])


def test_outside_of_epochs_it_cannot_be_gone_through(run: Run) -> None:
    run.wrap(nn.Linear(1, 1))
    with pytest.raises(InputError, match="outside of epochs"):
        list(run.batches(DATA, global_batch=4))


def test_a_loader_of_other_data_is_no_second_loop(run: Run) -> None:
    wrapped = run.wrap(nn.Linear(1, 1))
    one, other = run.batches(DATA, global_batch=4), run.batches(DATA, global_batch=5)
    for _ in run.epochs(1):
        for (x,) in one:
            train(run, wrapped, x)
        with pytest.raises(InputError, match="second time"):
            list(other)


@pytest.mark.parametrize(("start", "epochs"), [(0, [0, 1, 2]), (2, [2]), (3, []), (5, [])])
def test_epochs_begin_where_the_script_says(run: Run, start: int, epochs: list[int]) -> None:
    wrapped = run.wrap(nn.Linear(1, 1))
    seen = []
    for epoch in run.epochs(3, start=start):
        seen.append(epoch)
        for (x,) in run.batches(DATA, global_batch=4):
            train(run, wrapped, x)
    assert seen == epochs
    assert run.position.step == 3 * len(epochs)


def test_an_epoch_has_its_order_wherever_the_run_began(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = []
    for one, start in ((run, 0), (elastic.init(), 2)):
        wrapped = one.wrap(nn.Linear(1, 1))
        for epoch in one.epochs(3, start=start):
            for (x,) in one.batches(DATA, global_batch=10):
                train(one, wrapped, x)
                if epoch == 2:
                    orders.append(x.flatten().tolist())
    assert orders[0] == orders[1]


def test_an_epoch_before_the_first(run: Run) -> None:
    run.wrap(nn.Linear(1, 1))
    with pytest.raises(InputError, match="start is -1"):
        run.epochs(3, start=-1)


# -- who this rank is ------------------------------------------------------------------------------------------------


def test_a_newcomer_is_not_rank_0(tmp_path: Path) -> None:
    with Supervisor(tmp_path, script="logs_on_rank_0") as job:
        names = job.start(1)
        job.allow(5)
        new = job.launch(1)
        job.rescale([*names, *new])
        job.run_out()
        assert set(job.codes().values()) == {0}, job.story()
        told = {entry["name"]: [entry["before"], entry["between"], entry["after"]] for entry in job.entries("end")}
    assert told == {names[0]: [[0, 1], [0, 1], [0, 2]], new[0]: [[1, 2]] * 3}


def test_a_rank_that_nobody_names_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "NAMED_S", 0.05)
    mailbox = Mailbox(tmp_path)
    mailbox.create()
    mailbox.post_target(Target(1, (Member("j.1.0", "a"),), 0))
    with pytest.raises(InputError, match=r"given j\.1\.1 a rank number"):
        environment.first_place(mailbox, "j.1.1")


def test_places_on_nodes(tmp_path: Path) -> None:
    target = Target(1, tuple(Member(f"j.1.{n}", node) for n, node in enumerate("aabab")), 0)
    places = [environment.place_in(target, f"j.1.{n}") for n in range(6)]
    assert places == [
        RankPlace(0, 5, 0),
        RankPlace(1, 5, 1),
        RankPlace(2, 5, 0),
        RankPlace(3, 5, 2),
        RankPlace(4, 5, 1),
        None,
    ]


def test_torchruns_ranks_are_known_from_the_start(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (run.rank, run.ranks) == (3, 4)


def test_accelerate_asks_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of its classes keep a number in their dictionary; ours comes before it."""

    class PartialState:
        def __init__(self) -> None:
            self.process_index = 0
            self.local_process_index = 0

        @property
        def is_main_process(self) -> bool:
            return self.process_index == 0

    module = ModuleType("accelerate.state")
    module.PartialState = PartialState  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "accelerate.state", module)
    old = PartialState()
    place = [RankPlace(1, 2, 1)]
    accelerated.tell_accelerate(lambda: place[0])
    new = PartialState()
    assert [one.is_main_process for one in (old, new)] == [False, False]
    place[0] = RankPlace(0, 1, 0)  # the leader left
    assert [one.is_main_process for one in (old, new)] == [True, True]
    assert (new.process_index, new.local_process_index) == (0, 0)


def test_the_real_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate = pytest.importorskip("accelerate")
    state = sys.modules["accelerate.state"]
    for kind in (state.PartialState, state.AcceleratorState):  # undone at the end
        for name in ("process_index", "local_process_index"):
            monkeypatch.setattr(kind, name, None, raising=False)
    before = accelerate.Accelerator(cpu=True)
    accelerated.tell_accelerate(lambda: RankPlace(1, 2, 1))
    after = accelerate.Accelerator(cpu=True)
    for accelerator in (before, after):
        assert not accelerator.is_main_process
        assert not accelerator.is_local_main_process
        assert (accelerator.process_index, accelerator.num_processes) == (1, 1)
    assert not state.PartialState().is_main_process
