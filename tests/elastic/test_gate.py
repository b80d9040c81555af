"""What is registered takes effect once per step, whatever class it is of."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import TensorDataset

from powerflow import elastic
from powerflow.elastic.run import Run
from powerflow.elastic.static_gang import StaticGang
from powerflow.elastic.training.gate import gate

DATA = TensorDataset(torch.arange(32.0, dtype=torch.float64).reshape(16, 2) / 32)


class Warmup:
    """An optimiser of somebody's own, around one of torch's."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = 0.02 * min(1.0, self.steps / 3)
        self.optimizer.step()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        self.optimizer.load_state_dict(state["optimizer"])


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POWERFLOW_JOB_DIR", "POWERFLOW_RANK", "POWERFLOW_EMULATED", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def begin(most: int, *others: Any, model: nn.Module) -> Run:
    """A run of one rank, with so many samples a pass at most."""
    run = elastic.init()
    run.wrap(model, *others)
    assert isinstance(run._gang, StaticGang)
    run._gang.local_batch_max = most
    return run


def small() -> nn.Module:
    torch.manual_seed(7)
    return nn.Linear(2, 1).double()


def test_own_optimiser_steps_once_per_step() -> None:
    ends = []
    for most in (0, 2):
        model = small()
        optimizer = Warmup(torch.optim.Adam(model.parameters()))
        run = begin(most, optimizer, model=model)
        for _ in run.epochs(2):
            for (x,) in run.batches(DATA, global_batch=4):
                run.backward((model(x) ** 2).mean())
                optimizer.step()
                optimizer.zero_grad()
        assert optimizer.steps == run.position.step == 8
        ends.append([p.detach() for p in model.parameters()])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-12, atol=1e-14)


def test_average_follows_once_per_step() -> None:
    ends = []
    for most in (0, 2):
        model = small()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))  # type: ignore[no-untyped-call]
        run = begin(most, optimizer, average, model=model)
        for _ in run.epochs(2):
            for (x,) in run.batches(DATA, global_batch=4):
                optimizer.zero_grad()
                run.backward((model(x) ** 2).mean())
                optimizer.step()
                average.update_parameters(model)
        assert average.n_averaged == 8
        ends.append([p.detach() for p in average.parameters()])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-12, atol=1e-14)


def test_the_model_itself_clears_no_gradients_in_between() -> None:
    ends = []
    for most in (0, 2):
        model = small()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run = begin(most, optimizer, model=model)
        for _ in run.epochs(1):
            for (x,) in run.batches(DATA, global_batch=4):
                model.zero_grad()
                run.backward((model(x) ** 2).mean())
                optimizer.step()
        ends.append([p.detach() for p in model.parameters()])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-12, atol=1e-14)


def test_a_scheduler_made_after_wrap() -> None:
    for before in (False, True):
        model = small()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        first = [torch.optim.lr_scheduler.StepLR(optimizer, 1)] if before else []
        run = begin(0, optimizer, *first, model=model)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        for _ in run.epochs(1):
            for (x,) in run.batches(DATA, global_batch=8):
                run.backward((model(x) ** 2).mean())
                optimizer.step()
                optimizer.zero_grad()
        scheduler.step()
        assert scheduler.get_last_lr() == [0.5]


def test_copies_have_no_gates() -> None:
    model = small()
    begin(0, model=model)
    gate(model, "zero_grad", lambda: False)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert type(other) is nn.Linear
        other(torch.ones(1, 2, dtype=torch.float64)).sum().backward()
        other.zero_grad()
        assert other.weight.grad is None


def test_what_has_slots_can_be_gated() -> None:
    class Slotted:
        __slots__ = ("count",)
        count: int

        def step(self) -> None:
            self.count += 1

    thing = Slotted()
    thing.count = 0
    gate(thing, "step", lambda: thing.count < 1)
    thing.step()
    thing.step()
    assert thing.count == 1


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_a_scripted_model() -> None:
    model = torch.jit.script(nn.Linear(2, 1))
    run = begin(2, model=model)
    for _ in run.epochs(1):
        for (x,) in run.batches(DATA, global_batch=4):
            run.backward(model(x.float()).mean())
            model.zero_grad()
