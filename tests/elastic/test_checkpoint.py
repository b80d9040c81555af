"""Checkpoints made while training goes on: whole, of one step, and by themselves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from powerflow.elastic import checkpoint
from powerflow.elastic.checkpoint import CheckpointWriter
from powerflow.elastic.reporter import Reporter
from powerflow.elastic.state import Training, load
from powerflow.elastic.training.sampling import Position


@pytest.fixture
def training() -> Training:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    training = Training(model, [optimizer], {})
    training.position = Position(3, 0, 3, 24)
    return training


def writer(training: Training, path: Path) -> tuple[CheckpointWriter, Reporter]:
    reporter = Reporter(None, "j.1.0")
    return CheckpointWriter(training, path, reporter), reporter


def test_what_is_saved_is_the_state_of_that_step_whatever_happens_while_it_is_written(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    weight = training.model.weight.detach().clone()  # type: ignore[operator]
    real = Training.keep

    def later(self: Training, *args: Any) -> None:
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(1.0)  # the next step
        self.position = Position(4, 0, 4, 32)
        real(self, *args)

    monkeypatch.setattr(Training, "keep", later)
    keeper, reporter = writer(training, path)
    keeper.save()
    keeper.wait()
    state = load(path)
    assert state is not None
    assert state["position"][0] == 3
    assert torch.equal(state["things"][0]["weight"], weight)
    assert reporter._facts["saved_step"] == 3
    assert [entry.name for entry in tmp_path.iterdir() if entry.suffix == ".new"] == []


def test_without_memory_for_a_copy_it_is_written_at_once(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_free_bytes", lambda: 0)
    keeper, reporter = writer(training, tmp_path / "checkpoint.pt")
    keeper.save()
    assert load(tmp_path / "checkpoint.pt") is not None
    assert reporter._facts["saved_step"] == 3
    assert checkpoint._bytes(training) == 3 * 4 * (4 * 2 + 2)


def test_free_memory_is_known() -> None:
    assert checkpoint._free_bytes() > 1 << 20


def test_a_disk_that_is_full_is_said_and_training_goes_on(training: Training, tmp_path: Path) -> None:
    keeper, reporter = writer(training, tmp_path / "no such folder" / "checkpoint.pt")
    keeper.save()
    keeper.wait()
    assert reporter._facts["note"].startswith("no checkpoint: ")
    assert "saved_step" not in reporter._facts


def test_when_it_is_due(training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    keeper, _ = writer(training, tmp_path / "checkpoint.pt")
    assert not keeper.due(600.0)
    now_s = 1600.0
    assert keeper.due(600.0)
    assert not keeper.due(0.0)
    keeper.lead()  # the state comes from others, who may have saved long ago
    assert keeper.due(600.0)
    keeper._loaded_step = 3
    keeper.lead()  # from a checkpoint of this step
    assert not keeper.due(600.0)
    now_s = 2200.0
    keeper.save()
    assert not keeper.due(600.0)
    keeper.wait()
