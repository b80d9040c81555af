"""What cannot be trained in place ends with one line that says what to do, and is reported as such."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.fsdp import FSDPModule

from powerflow import elastic
from powerflow.elastic.mailbox import JOB_DIR, RANK_NAME
from powerflow.elastic.refusal import one_line
from powerflow.elastic.run import Run
from powerflow.errors import InputError
from tests.elastic.supervisor import Supervisor


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (JOB_DIR, RANK_NAME, "POWERFLOW_EMULATED", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@contextlib.contextmanager
def own_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def in_place(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Run:
    monkeypatch.setenv(JOB_DIR, str(directory))
    monkeypatch.setenv(RANK_NAME, "j.1.0")
    return elastic.init()


class Sharded(FSDPModule, nn.Linear):
    """What `fully_shard` makes of a module: another class of the same module."""

    def __new__(cls, *_: Any, **__: Any) -> Sharded:
        return object.__new__(cls)


def test_fsdp() -> None:
    model = nn.Sequential(nn.Linear(2, 2), Sharded(2, 1))
    with pytest.raises(InputError, match=r"run\.wrap: FSDP keeps a part.*; use rescale: restart"):
        elastic.init().wrap(model)


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_zero() -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = nn.Linear(2, 1)
    with own_group():
        optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1)
        with pytest.raises(InputError, match=r"run\.wrap: ZeRO keeps a part.*; use rescale: restart"):
            elastic.init().wrap(model, optimizer)


def test_deepspeed() -> None:
    engine = type("DeepSpeedEngine", (nn.Linear,), {"__module__": "deepspeed.runtime.engine"})(2, 1)
    with pytest.raises(InputError, match=r"DeepSpeed keeps a part.*; use rescale: restart"):
        elastic.init().wrap(engine)


def test_ddp() -> None:
    with own_group():
        model = nn.parallel.DistributedDataParallel(nn.Linear(2, 1))
        with pytest.raises(InputError, match="wrapped by DDP already; give the model itself"):
            elastic.init().wrap(model)


def test_parameters_that_are_not_the_models() -> None:
    """Their gradients would not be shared: ranks would come apart."""
    model, loss = nn.Linear(2, 1), nn.Linear(1, 1)
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1)
    with pytest.raises(InputError, match=r"SGD trains 2 parameters that the model.*put all modules"):
        elastic.init().wrap(model, optimizer)


def test_own_process_group_before_init(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with own_group(), pytest.raises(InputError, match=r"process group itself.*use rescale: restart"):
        in_place(monkeypatch, tmp_path)


def test_own_process_group_before_wrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = in_place(monkeypatch, tmp_path)
    with own_group(), pytest.raises(InputError, match=r"process group itself.*use rescale: restart"):
        run.wrap(nn.Linear(2, 1))


def test_own_process_group_without_powerflow_is_the_scripts_own() -> None:
    with own_group():
        elastic.init().wrap(nn.Linear(2, 1))


def ended(directory: Path, script: str, *, most: int = 0, ranks: int = 1) -> tuple[str, str]:
    """The last line that a rank of a small script shows, and the refusal in its report."""
    with Supervisor(directory, script=script, local_batch_max=most) as job:
        names = job.launch(ranks)
        job.post(names)
        job.allow(10**9)
        job.wait(lambda: job.ready(names) or not job.alive(names[0]), "built")
        job.wait(lambda: not job.alive(names[0]), "the end")
        job.processes[names[0]].join()
        assert job.processes[names[0]].exitcode == 1
        shown = (directory / "log" / f"{names[0]}.err").read_text().splitlines()
        return shown[-1], job.mailbox.reports(names)[0].refusal


def test_a_group_that_nobody_has_set_an_address_for(tmp_path: Path) -> None:
    shown, refusal = ended(tmp_path, "opens_a_group")
    assert refusal.startswith("small.py:")
    assert "opens a process group itself" in refusal
    assert "use rescale: restart" in refusal
    assert "environment variable RANK expected" in refusal
    assert shown == f"powerflow: {refusal}"


def test_a_group_that_was_opened_before_init(tmp_path: Path) -> None:
    shown, refusal = ended(tmp_path, "has_a_group")
    assert refusal.startswith("small.py:")
    assert "opens a process group itself" in refusal
    assert shown.endswith(f"powerflow: {refusal}")


def test_gradients_used_between_passes(tmp_path: Path) -> None:
    shown, refusal = ended(tmp_path, "uses_its_gradients", most=2)
    assert refusal.startswith("small.py:")
    assert "gradients are used before the last of the 4 passes" in refusal
    assert "if run.updates:" in refusal
    assert shown.endswith(f"powerflow: {refusal}")  # torch marks lines of a process with a group


def test_a_collective_that_one_rank_calls_alone(tmp_path: Path) -> None:
    shown, refusal = ended(tmp_path, "adds_up_alone", ranks=2)
    assert refusal.startswith("small.py:")
    assert "barrier was called on rank 0 alone and waits for rank 1, which waits in step 13" in refusal
    assert "sync_on_compute=False" in refusal
    assert shown == f"powerflow: {refusal}"


def test_a_mistake_of_another_kind_is_no_refusal(tmp_path: Path) -> None:
    shown, refusal = ended(tmp_path, "fails")
    assert "ValueError: a mistake" in shown
    assert refusal == ""


def test_the_line_names_the_scripts_own_line() -> None:
    try:
        elastic.init().backward(torch.zeros(()))
    except InputError as error:
        line = one_line(error, error.__traceback__)
    assert line.startswith("test_refused.py:")
    assert "run.wrap has not been called" in line


def test_torchmetrics_on_rank_0_alone_is_named(tmp_path: Path) -> None:
    """Where it is installed; the kind is tried above."""
    pytest.importorskip("torchmetrics")
    _, refusal = ended(tmp_path, "measures_alone", ranks=2)
    assert "was called on rank 0 alone" in refusal
