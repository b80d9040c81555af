"""What scripts do in their loops beside training plainly: it is done right, or refused in one line."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from powerflow import elastic
from powerflow.elastic.run import Run
from powerflow.elastic.static_gang import StaticGang
from powerflow.errors import InputError

DATA = TensorDataset(torch.arange(1.0, 17.0).reshape(16, 1))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("POWERFLOW_JOB_DIR", "POWERFLOW_RANK", "POWERFLOW_EMULATED", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return elastic.init()


def wrap(run: Run, *, most: int = 0) -> tuple[nn.Linear, torch.optim.Optimizer]:
    """One weight, whose gradient is the mean of the batch; ``most`` samples a pass."""
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    run.wrap(model, optimizer)
    assert isinstance(run._gang, StaticGang)
    run._gang.local_batch_max = most
    return model, optimizer


@pytest.mark.parametrize("most", [0, 2])
def test_an_update_that_is_not_finite_is_skipped_and_training_goes_on(run: Run, most: int) -> None:
    model, optimizer = wrap(run, most=most)
    updates = 0
    for _ in run.epochs(1):
        for (x,) in run.batches(DATA, global_batch=4, shuffle=False):
            loss = model(x).mean() * (math.nan if run.position.step == 1 else 1.0)
            before = model.weight.item()
            run.backward(loss)
            norm = nn.utils.clip_grad_norm_(model.parameters(), 100.0)
            if not torch.isfinite(norm):
                optimizer.zero_grad()
                continue
            optimizer.step()
            optimizer.zero_grad()
            updates += model.weight.item() != before
    assert updates == 3  # of four steps
    assert math.isfinite(model.weight.item())


def test_skipping_clears_at_the_next_step_too(run: Run) -> None:
    """``zero_grad`` at the head of the loop, and no update in the second step."""
    model, optimizer = wrap(run)
    gradients = []
    for _ in run.epochs(1):
        for (x,) in run.batches(DATA, global_batch=4, shuffle=False):
            optimizer.zero_grad()
            run.backward(model(x).mean())
            assert model.weight.grad is not None
            gradients.append(model.weight.grad.item())
            if run.position.step != 1:
                optimizer.step()
    assert gradients == [2.5, 6.5, 10.5, 14.5]  # means of 1…4, 5…8, …


def test_a_step_left_in_its_middle_leaves_no_gradients(run: Run) -> None:
    """Passes of two samples; the loop is left in the first pass of the second step."""
    model, optimizer = wrap(run, most=2)
    gradients = []
    for epoch in run.epochs(2):
        for k, (x,) in enumerate(run.batches(DATA, global_batch=4, shuffle=False)):
            optimizer.zero_grad()
            run.backward(model(x).mean())
            if run.updates:
                assert model.weight.grad is not None
                gradients.append(model.weight.grad.item())
            optimizer.step()
            if k == 2:
                break
        assert run.position.step == epoch + 1
    assert gradients == [2.5, 2.5]


@pytest.mark.parametrize("most", [0, 2])
def test_a_step_left_before_backward_is_not_counted(run: Run, most: int) -> None:
    model, optimizer = wrap(run, most=most)
    for _ in run.epochs(2):
        for (x,) in run.batches(DATA, global_batch=4):
            if run.position.within == 2 and (run.updates or not most):
                break
            run.backward(model(x).mean())
            optimizer.step()
            optimizer.zero_grad()
    assert run.position == (4, 2, 0, 16)


@pytest.mark.parametrize("most", [0, 2])
def test_accumulation_by_hand_is_refused(run: Run, most: int) -> None:
    """Here it would do, but a rank that came in the middle would have none of the gradients, and count from 0."""
    model, optimizer = wrap(run, most=most)

    def train() -> None:
        for _ in run.epochs(1):
            for k, (x,) in enumerate(run.batches(DATA, global_batch=4)):
                run.backward(model(x).mean() / 8)
                if (k + 1) % 8 == 0:
                    optimizer.step()
                    optimizer.zero_grad()

    with pytest.raises(InputError, match="larger global_batch"):
        train()


def test_gradients_that_the_script_clears_by_hand_are_not_held_against_it(run: Run) -> None:
    model, optimizer = wrap(run)
    for _ in run.epochs(1):
        for (x,) in run.batches(DATA, global_batch=4):
            run.backward(model(x).mean())
            if run.position.step != 1:
                optimizer.step()
            model.weight.grad = None


def test_a_loop_that_was_left_but_kept_ends_with_its_epoch(run: Run) -> None:
    """As a progress bar keeps it: ``bar = tqdm(run.batches(…))``."""
    model, optimizer = wrap(run)
    seen = []
    for _ in run.epochs(3):
        bar = run.batches(DATA, global_batch=4, shuffle=False)
        for k, (x,) in enumerate(bar):
            seen.append(int(x[0]))
            run.backward(model(x).mean())
            optimizer.step()
            optimizer.zero_grad()
            if k == 1:
                break
    assert seen == [1, 5] * 3
    assert run.position == (6, 3, 0, 24)


def test_batches_are_for_training_alone(run: Run) -> None:
    other = TensorDataset(torch.ones(40, 1))
    wrap(run)
    for _ in run.epochs(2):
        for k, _ in enumerate(run.batches(DATA, global_batch=4)):
            if k == 1:
                break
        with pytest.raises(InputError, match=r"second time in epoch \d.* your own DataLoader"):
            run.batches(DATA, global_batch=4, shuffle=False)
        with pytest.raises(InputError, match="second time"):
            run.batches(other, global_batch=4)
        assert len(list(run.batches(DATA, global_batch=4))) == 3  # what is left of the epoch
        with pytest.raises(InputError, match="second time"):
            run.batches(DATA, global_batch=4)


def test_two_loops_over_epochs_are_refused(run: Run) -> None:
    """A newcomer could not tell which of them it is in."""
    wrap(run)
    assert list(run.epochs(1)) == [0]
    with pytest.raises(InputError, match=r"epochs was called twice.*one loop"):
        run.epochs(2)


def test_copies_of_the_wrapped_model_are_models_of_their_own(run: Run) -> None:
    """For an average, or to keep the best one: they train apart from the run, and are told nothing of it."""
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    wrapped: Any = run.wrap(model, optimizer)
    file = io.BytesIO()
    torch.save(wrapped, file)
    file.seek(0)
    for other in (copy.deepcopy(wrapped), torch.load(file, weights_only=False)):
        assert other.state_dict().keys() == wrapped.state_dict().keys()
        other(torch.ones(1, 1)).sum().backward()
        assert other.module.weight.grad.item() == 1.0
        assert model.weight.grad is None
    assert wrapped._run is run


def test_a_closure_is_refused(run: Run) -> None:
    """What it does within the update could not be undone when a rank is lost."""
    model, optimizer = wrap(run)
    (x,) = DATA[:4]

    def closure() -> float:
        run.backward(model(x).mean())
        return 0.0

    for _ in run.epochs(1):
        for _ in run.batches(DATA, global_batch=4):
            with pytest.raises(InputError, match="not in a closure"):
                optimizer.step(closure)
            return


@pytest.mark.parametrize("size", [0, -1, 2.5, 4.0, "4", None])
def test_a_global_batch_that_is_none(run: Run, size: Any) -> None:
    with pytest.raises(InputError, match="whole number"):
        run.batches(DATA, global_batch=size)
