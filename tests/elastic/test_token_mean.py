"""A loss that is a mean over tokens: the same weights whatever the number of ranks and passes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from powerflow import elastic
from powerflow.elastic.run import Run
from powerflow.elastic.static_gang import StaticGang
from powerflow.errors import InputError
from tests.elastic import trainee
from tests.elastic.proofs import ORDER
from tests.elastic.supervisor import Supervisor


def plain(epochs: int) -> list[Tensor]:
    """What `tests.elastic.small.weighs` trains, in a loop without the library and in one pass."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = trainee.Numbers()
    for epoch in range(epochs):
        order = torch.from_numpy(type(ORDER)(trainee.SAMPLES, trainee.GLOBAL_BATCH, True, 0).epoch(epoch))
        for begin in range(0, trainee.SAMPLES, trainee.GLOBAL_BATCH):
            index = order[begin : begin + trainee.GLOBAL_BATCH]
            mask = torch.arange(4)[None, :] < (index % 5)[:, None]
            loss = ((model(data.x[index]) - data.y[index] * torch.arange(4)) ** 2)[mask].mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize(("ranks", "most"), [(1, 0), (1, 3), (2, 0), (3, 1)])
def test_any_number_of_ranks_and_passes(tmp_path: Path, ranks: int, most: int) -> None:
    expected = plain(2)
    with Supervisor(tmp_path, script="weighs", local_batch_max=most) as job:
        job.start(ranks)
        job.run_out()
        assert set(job.codes().values()) == {0}, job.story()
        for entry in job.entries("end"):
            torch.testing.assert_close([torch.tensor(w).double() for w in entry["weights"]], expected)


DATA = TensorDataset(torch.arange(1.0, 9.0).reshape(8, 1))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("POWERFLOW_JOB_DIR", "POWERFLOW_RANK", "POWERFLOW_EMULATED", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return elastic.init()


def wrap(run: Run, most: int) -> nn.Linear:
    """One weight, whose gradient is the weighted mean of the batch."""
    model = nn.Linear(1, 1, bias=False)
    run.wrap(model, torch.optim.SGD(model.parameters(), lr=0.5))
    assert isinstance(run._gang, StaticGang)
    run._gang.local_batch_max = most
    return model


@pytest.mark.parametrize(("weights", "gradient"), [([3, 1], 2.0), ([0, 2], 3.5), ([0.5, 0.5], 2.5), ([0, 0], 0.0)])
def test_by_hand(run: Run, weights: list[float], gradient: float) -> None:
    """Two passes of means 1.5 and 3.5: (3 · 1.5 + 1 · 3.5) / 4 = 2, and so on; nothing at all is no gradient."""
    model = wrap(run, 2)
    for _ in run.epochs(1):
        for number, (x,) in enumerate(run.batches(DATA, global_batch=4, shuffle=False)):
            loss = model(x).mean()
            weight = weights[number % 2]
            run.backward(loss if weight else loss * math.nan, weight=weight)  # a mean over nothing
            if number == 1:
                assert model.weight.grad is not None
                assert model.weight.grad.item() == pytest.approx(gradient)
                break


def test_without_a_weight_samples_count(run: Run) -> None:
    model = wrap(run, 3)  # passes of two
    for _ in run.epochs(1):
        for number, (x,) in enumerate(run.batches(DATA, global_batch=4, shuffle=False)):
            run.backward(model(x).mean())
            if number == 1:
                assert model.weight.grad is not None
                assert model.weight.grad.item() == pytest.approx(2.5)
                break


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, torch.tensor([1.0, 2.0])])
def test_what_is_no_weight(run: Run, weight: float | Tensor) -> None:
    model = wrap(run, 0)
    for _ in run.epochs(1):
        for (x,) in run.batches(DATA, global_batch=4):
            with pytest.raises(InputError, match=r"run\.backward: a weight"):
                run.backward(model(x).mean(), weight=weight)
            break


def test_weights_in_some_passes_only(run: Run) -> None:
    model = wrap(run, 2)

    def train() -> None:
        for _ in run.epochs(1):
            for number, (x,) in enumerate(run.batches(DATA, global_batch=4)):
                run.backward(model(x).mean(), weight=None if number % 2 else 3)

    with pytest.raises(InputError, match="each pass has one backward"):
        train()


def test_several_weighted_losses_in_one_pass_are_means_of_their_own(run: Run) -> None:
    model = wrap(run, 0)
    for _ in run.epochs(1):
        for (x,) in run.batches(DATA, global_batch=4, shuffle=False):
            run.backward(model(x).mean(), weight=5)
            run.backward(2 * model(x[:1]).mean(), weight=1)
            assert model.weight.grad is not None
            assert model.weight.grad.item() == pytest.approx(2.5 + 2)
            break
