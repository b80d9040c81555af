"""Without PowerFlow the same script is a plain one; and misuse is said plainly."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from powerflow import elastic
from powerflow.elastic.run import Run
from powerflow.errors import InputError
from tests.elastic import proofs, trainee
from tests.elastic.supervisor import Supervisor


def test_plain_and_torchrun_style(tmp_path: Path) -> None:
    """One rank, and two that torchrun's environment describes: the same end as a loop without the library."""
    for ranks in (1, 2):
        (directory := tmp_path / str(ranks)).mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with Supervisor(directory) as job:
            for rank in range(ranks):
                job.launch(
                    1,
                    environment={
                        "MASTER_ADDR": "127.0.0.1",
                        "MASTER_PORT": str(port),
                        "RANK": str(rank),
                        "WORLD_SIZE": str(ranks),
                    },
                )
            assert set(job.codes().values()) == {0}, job.story()
            proofs.check(job)


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        yield 1


DATA = TensorDataset(torch.randn(10, 2))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("POWERFLOW_JOB_DIR", "POWERFLOW_RANK", "POWERFLOW_EMULATED", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return elastic.init()


def test_a_script_in_a_shell_beside_a_rank_does_not_speak_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the environment of the rank, which trains with others at the same time."""
    monkeypatch.setenv("POWERFLOW_JOB_DIR", str(tmp_path / "job"))
    monkeypatch.setenv("POWERFLOW_RANK", "12.1.0")
    monkeypatch.setenv("POWERFLOW_EMULATED", str(tmp_path / "missing"))
    monkeypatch.setenv("POWERFLOW_SHELL", "1")
    assert elastic.init().rank == 0
    assert not (tmp_path / "job").exists()


def test_one_sided_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERFLOW_JOB_DIR", "/nowhere")
    monkeypatch.delenv("POWERFLOW_RANK", raising=False)
    with pytest.raises(InputError, match="POWERFLOW_RANK"):
        elastic.init()


def test_a_folder_for_checkpoints_that_cannot_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ck").write_text("a file")
    environment = {"JOB_DIR": tmp_path / "j", "RANK": "j.1.0", "CHECKPOINT_FILE": tmp_path / "ck" / "checkpoint-j.pt"}
    for name, value in environment.items():
        monkeypatch.setenv(f"POWERFLOW_{name}", str(value))
    with pytest.raises(InputError, match=r"checkpoint\.dir .*/ck: cannot be made \(File exists\)"):
        elastic.init()


def test_order_of_calls(run: Run) -> None:
    with pytest.raises(InputError, match="wrap has not been called"):
        next(run.epochs(1))
    model = nn.Linear(2, 1)
    run.wrap(model)
    with pytest.raises(InputError, match="outside of epochs"):
        next(run.batches(DATA, global_batch=4))
    with pytest.raises(InputError, match="twice"):
        run.wrap(model)
    with pytest.raises(InputError, match="outside of run"):
        run.backward(model(torch.randn(1, 2)).sum())


@pytest.mark.parametrize(
    ("dataset", "options", "match"),
    [
        (DATA, {"global_batch": 0}, "global_batch is 0"),
        (DATA, {"global_batch": 2, "batch_size": 3}, "batch_size"),
        (DATA, {"global_batch": 2, "sampler": [1]}, "sampler"),
        (Stream(), {"global_batch": 2}, "Stream"),
    ],
)
def test_what_batches_refuses(run: Run, dataset: Any, options: dict[str, Any], match: str) -> None:
    run.wrap(nn.Linear(2, 1))
    for _ in run.epochs(1):
        with pytest.raises(InputError, match=match):
            next(run.batches(dataset, **options))


def test_loss_backward_is_caught(run: Run) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapped = run.wrap(model, optimizer)
    for _ in run.epochs(1):
        for (x,) in run.batches(DATA, global_batch=4):
            wrapped(x).mean().backward()
            with pytest.raises(InputError, match=r"run\.backward"):
                optimizer.step()


def test_breaking_out_of_an_epoch_counts_the_step(run: Run) -> None:
    model = nn.Linear(2, 1)
    wrapped = run.wrap(model)
    for epoch in run.epochs(3):
        for (x,) in run.batches(DATA, global_batch=4):
            run.backward(wrapped(x).mean())
            break
        assert run.position.step == epoch + 1
    assert run.position == (3, 3, 0, 12)


def test_a_mistake_in_the_script_is_not_taken_for_a_lost_peer(run: Run) -> None:
    wrapped = run.wrap(nn.Linear(3, 1))
    for _ in run.epochs(1):
        for (x,) in run.batches(DATA, global_batch=4):
            with pytest.raises(RuntimeError, match="shape"):
                wrapped(x)


def test_evaluation_between_epochs_needs_no_peer(run: Run) -> None:
    wrapped = run.wrap(nn.Linear(2, 1))
    for _ in run.epochs(2):
        with torch.no_grad():
            assert wrapped(torch.ones(1, 2)).shape == (1, 1)
    assert trainee.network() is not None
    assert list(wrapped.state_dict()) == ["module.weight", "module.bias"]
