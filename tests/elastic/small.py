"""Small scripts of test gangs, each with a habit of its own. `trainee` trains plainly."""

from __future__ import annotations

import atexit
import json
import os
import random
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore

from powerflow import elastic
from powerflow.elastic.mailbox import JOB_DIR, RANK_NAME
from powerflow.elastic.run import Run
from tests.elastic.trainee import GLOBAL_BATCH, Numbers, digest


class Rank:
    """What every script here begins with."""

    def __init__(self, directory: str, name: str) -> None:
        os.environ.update({JOB_DIR: directory, RANK_NAME: name})
        self.directory = Path(directory)
        self.name = name
        self.data = Numbers()
        self.stream = os.open(self.directory / "log" / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        torch.manual_seed(7)
        self.model: nn.Module = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 1)).double()
        self.run: Run = elastic.init()

    def log(self, kind: str, **entry: Any) -> None:
        """For the test to read."""
        os.write(self.stream, (json.dumps({"kind": kind, **entry}) + "\n").encode())

    def backward(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        """Once the supervisor allows this step."""
        while int((self.directory / "allowed").read_text() or 0) <= self.run.position.step:
            time.sleep(0.002)
        self.run.backward(((model(x) - y) ** 2).mean())


def main(script: str, directory: str, name: str) -> None:
    """Run a script of this module, or a file with the arguments behind it, and end as an interpreter ends."""
    torch.set_num_threads(1)
    for stream, suffix in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(directory) / "log" / f"{name}.{suffix}", os.O_CREAT | os.O_WRONLY), stream)
    atexit._clear()  # of the server that this process was forked from
    code: Any = 0
    try:
        if ".py" in script:
            run_file(script.split(), directory, name)
        else:
            globals()[script](Rank(directory, name))
    except SystemExit as ended:
        code = ended.code
    except BaseException as error:
        sys.last_value = error
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    atexit._run_exitfuncs()
    sys.exit(code)


def run_file(command: list[str], directory: str, name: str) -> None:
    """Run a script as it stands, with a log of what it trains on and of what it sums over all ranks."""
    os.environ.update({JOB_DIR: directory, RANK_NAME: name})
    stream = os.open(Path(directory) / "log" / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    forward, backward, all_reduce = Run.forward, Run.backward, dist.all_reduce

    def log(run: Run, kind: str, values: list[float]) -> None:
        where = {"generation": run.generation, "epoch": run.position.epoch, "within": run.position.within}
        os.write(stream, (json.dumps({"kind": kind, **where, "values": values}) + "\n").encode())

    def logging_forward(self: Run, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if self._pass is not None and torch.is_grad_enabled():
            sys.run = self  # type: ignore[attr-defined]
            if self._pass.weight:
                log(self, "pass", args[0][:, 0].tolist())
        return forward(self, module, args, kwargs)

    def waiting_backward(self: Run, *args: Any, **kwargs: Any) -> None:
        while int((Path(directory) / "allowed").read_text() or 0) <= self.position.step:
            time.sleep(0.002)
        backward(self, *args, **kwargs)

    def logging_all_reduce(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        result = all_reduce(tensor, *args, **kwargs)
        if sys._getframe(1).f_code.co_filename == command[0]:
            log(sys.run, "sum", tensor.tolist())  # type: ignore[attr-defined]
        return result

    Run.forward = logging_forward  # type: ignore[method-assign]
    Run.backward = waiting_backward  # type: ignore[method-assign]
    dist.all_reduce = logging_all_reduce
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def _train(rank: Rank, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One epoch, in the plainest way."""
    for x, y, _ in rank.run.batches(rank.data, global_batch=GLOBAL_BATCH):
        rank.backward(model, x, y)
        optimizer.step()
        optimizer.zero_grad()


def stops_early(rank: Rank) -> None:
    """Is content after two epochs of ten."""
    optimizer = torch.optim.Adam(rank.model.parameters())
    model = rank.run.wrap(rank.model, optimizer)
    for epoch in rank.run.epochs(10):
        _train(rank, model, optimizer)
        if epoch == 1:
            break
    report = json.loads((rank.directory / "ranks" / f"{rank.name}.json").read_text())
    rank.log("end", phase=report["phase"])


def stops_early_behind_a_bar(rank: Rank) -> None:
    """The same, and keeps both loops, as a progress bar does."""
    optimizer = torch.optim.Adam(rank.model.parameters())
    model = rank.run.wrap(rank.model, optimizer)
    outer = rank.run.epochs(10)
    for epoch in outer:
        inner = rank.run.batches(rank.data, global_batch=GLOBAL_BATCH)
        for x, y, _ in inner:
            rank.backward(model, x, y)
            optimizer.step()
            optimizer.zero_grad()
            if epoch == 1 and rank.run.position.within == 12:
                break
        if epoch == 1:
            break
    sys.kept = outer, inner  # type: ignore[attr-defined]


def fails(rank: Rank) -> None:
    """Comes to an error in its second epoch."""
    optimizer = torch.optim.Adam(rank.model.parameters())
    model = rank.run.wrap(rank.model, optimizer)
    for epoch in rank.run.epochs(10):
        _train(rank, model, optimizer)
        if epoch == 1:
            raise ValueError("a mistake")


def grows(rank: Rank) -> None:
    """Gives its optimiser more parameters in its second epoch."""
    optimizer = torch.optim.SGD(rank.model[2].parameters(), lr=0.02, momentum=0.9)  # type: ignore[index]
    model = rank.run.wrap(rank.model, optimizer)
    for epoch in rank.run.epochs(3):
        if epoch == 1:
            optimizer.add_param_group({"params": list(rank.model[0].parameters())})  # type: ignore[index]
        for x, y, _ in rank.run.batches(rank.data, global_batch=GLOBAL_BATCH):
            rank.backward(model, x, y)
            optimizer.step()
            rank.model.zero_grad()


def thaws(rank: Rank) -> None:
    """Trains the last layer alone in its first epoch, and then both."""
    first: nn.Module = rank.model[0]  # type: ignore[index]
    first.requires_grad_(False)
    optimizer = torch.optim.Adam(rank.model.parameters(), lr=0.02)
    model = rank.run.wrap(rank.model, optimizer)
    for epoch in rank.run.epochs(4):
        if epoch == 1:
            first.requires_grad_(True)
        for x, y, _ in rank.run.batches(rank.data, global_batch=GLOBAL_BATCH):
            rank.backward(model, x, y)
            optimizer.step()
            optimizer.zero_grad()
            now = rank.run.position.step
            rank.log("state", generation=rank.run.generation, step=now, hash=digest(rank.model.state_dict()))


def normalises(rank: Rank) -> None:
    """Has a layer that cannot be trained on one sample, and steps that leave a rank with one; the last has 7."""
    rank.model = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Linear(12, 1)).double()
    optimizer = torch.optim.SGD(rank.model.parameters(), lr=0.02)
    model = rank.run.wrap(rank.model, optimizer)
    for _ in rank.run.epochs(2):
        for x, y, _ in rank.run.batches(rank.data, global_batch=GLOBAL_BATCH):
            rank.log("pass", samples=len(x))
            rank.backward(model, x, y)
            optimizer.step()
            optimizer.zero_grad()


def scales(rank: Rank) -> None:
    """Has a gradient scaler, and draws a random number of each kind in every step; newcomers begin with others."""
    seed = int(rank.name.rpartition(".")[2])
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    optimizer = torch.optim.SGD(rank.model.parameters(), lr=0.02)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0 / (1 + seed), growth_interval=7)
    model = rank.run.wrap(rank.model, optimizer, scaler)
    for _ in rank.run.epochs(4):
        for x, y, _ in rank.run.batches(rank.data, global_batch=GLOBAL_BATCH):
            state = scaler.state_dict()
            drawn = [torch.rand(1).item(), random.random(), float(np.random.random())]  # noqa: NPY002
            scale = [state["scale"], state["_growth_tracker"]]
            run = rank.run
            where = {"generation": run.generation, "rank": run.rank, "ranks": run.ranks, "step": run.position.step}
            rank.log("drawn", **where, drawn=drawn, scale=scale)
            while int((rank.directory / "allowed").read_text() or 0) <= rank.run.position.step:
                time.sleep(0.002)
            rank.run.backward(scaler.scale(((model(x) - y) ** 2).mean()))
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()


DRIFTING_EPOCHS = 5


def drifts(rank: Rank) -> None:
    """Adds a random number of its own to a weight, once at the end of its second epoch."""
    optimizer = torch.optim.SGD(rank.model.parameters(), lr=0.02)
    model = rank.run.wrap(rank.model, optimizer)
    for epoch in rank.run.epochs(DRIFTING_EPOCHS):
        _train(rank, model, optimizer)
        if epoch == 1:
            with torch.no_grad():
                rank.model[2].weight += torch.rand(1)  # type: ignore[index]


def differs_in_what_may(rank: Rank) -> None:
    """Has statistics, dropout, a frozen layer and one in half precision."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 12).double()
            self.norm = nn.BatchNorm1d(12).double()
            self.low = nn.Linear(12, 12).to(torch.bfloat16).requires_grad_(False)
            self.last = nn.Linear(12, 1).double()

        def forward(self, x: Tensor) -> Tensor:
            hidden: Tensor = nn.functional.dropout(self.norm(self.first(x)), 0.2)
            out: Tensor = self.last(self.low(hidden.bfloat16()).double() + hidden)
            return out

    network = Model()
    rank.model = network
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    model = rank.run.wrap(network, optimizer, broadcast_buffers=False)
    for _ in rank.run.epochs(3):
        _train(rank, model, optimizer)
    assert network.norm.running_mean is not None
    rank.log("end", mean=network.norm.running_mean.tolist())


def calls_the_model_itself(rank: Rank) -> None:
    """Does not use what `wrap` returns; and has two losses, both forwards first."""
    optimizer = torch.optim.SGD(rank.model.parameters(), lr=0.02)
    rank.run.wrap(rank.model, optimizer)
    for _ in rank.run.epochs(2):
        for x, y, _ in rank.run.batches(rank.data, global_batch=GLOBAL_BATCH):
            first, second = rank.model(x), rank.model(x + 1)
            while int((rank.directory / "allowed").read_text() or 0) <= rank.run.position.step:
                time.sleep(0.002)
            rank.run.backward(((first - y) ** 2).mean())
            rank.run.backward((second**2).mean())
            optimizer.step()
            optimizer.zero_grad()
            if rank.run.updates:
                now = rank.run.position.step
                rank.log("state", generation=rank.run.generation, step=now, hash=digest(rank.model.state_dict()))
    rank.log("end", weights=[p.tolist() for p in rank.model.parameters()])


def weighs(rank: Rank) -> None:
    """Has a loss that is a mean over tokens, of which a sample has up to four, some of them none."""
    optimizer = torch.optim.SGD(rank.model.parameters(), lr=0.1)
    model = rank.run.wrap(rank.model, optimizer)
    for _ in rank.run.epochs(2):
        for x, y, index in rank.run.batches(rank.data, global_batch=GLOBAL_BATCH):
            mask = torch.arange(4)[None, :] < (index % 5)[:, None]
            losses = ((model(x) - y * torch.arange(4)) ** 2)[mask]
            while int((rank.directory / "allowed").read_text() or 0) <= rank.run.position.step:
                time.sleep(0.002)
            rank.run.backward(losses.mean(), weight=mask.sum())  # a mean over nothing is NaN
            optimizer.step()
            optimizer.zero_grad()
    rank.log("end", weights=[p.tolist() for p in rank.model.parameters()])


def logs_on_rank_0(rank: Rank) -> None:
    """Asks for its rank before anything else, as a guard around a logger does."""
    before = [rank.run.rank, rank.run.ranks]
    optimizer = torch.optim.SGD(rank.model.parameters(), lr=0.02)
    model = rank.run.wrap(rank.model, optimizer)
    between = [rank.run.rank, rank.run.ranks]
    for _ in rank.run.epochs(2):
        _train(rank, model, optimizer)
    rank.log("end", before=before, between=between, after=[rank.run.rank, rank.run.ranks])


def adds_up_alone(rank: Rank) -> None:
    """Calls a collective on rank 0 alone after its first epoch, as a metric does when it is computed."""
    optimizer = torch.optim.SGD(rank.model.parameters(), lr=0.02)
    model = rank.run.wrap(rank.model, optimizer)
    for _ in rank.run.epochs(2):
        _train(rank, model, optimizer)
        if rank.run.rank == 0:
            torch.distributed.barrier()


def opens_a_group(rank: Rank) -> None:
    """Opens a process group of its own, for which nobody has set an address."""
    torch.distributed.init_process_group("gloo")


def has_a_group(rank: Rank) -> None:
    """Has opened a process group before it calls ``init``, in whose midst the refusal comes."""
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    elastic.init()


def uses_its_gradients(rank: Rank) -> None:
    """Updates by hand in every pass."""
    model = rank.run.wrap(rank.model)
    for _ in rank.run.epochs(2):
        for x, y, _ in rank.run.batches(rank.data, global_batch=GLOBAL_BATCH):
            rank.backward(model, x, y)
            for parameter in rank.model.parameters():
                parameter.data.add_(parameter.grad, alpha=-0.1)  # type: ignore[arg-type]
                parameter.grad = None


def measures_alone(rank: Rank) -> None:
    """Has a metric on rank 0 that wants to hear of all ranks."""
    import torchmetrics

    metric = torchmetrics.MeanSquaredError()
    optimizer = torch.optim.SGD(rank.model.parameters(), lr=0.02)
    model = rank.run.wrap(rank.model, optimizer)
    for _ in rank.run.epochs(2):
        _train(rank, model, optimizer)
        if rank.run.rank == 0:
            with torch.no_grad():
                metric.update(model(rank.data.x), rank.data.y)
            metric.compute()


def keeps_values(rank: Rank) -> None:
    """Counts its steps in a value that is kept, and says with which value it began."""
    kept = rank.run.keep(steps=0, best=0.0)
    optimizer = torch.optim.Adam(rank.model.parameters())
    model = rank.run.wrap(rank.model, optimizer)
    for epoch in rank.run.epochs(3):
        if epoch == 0 or rank.run.position.step:
            rank.log("begin", steps=kept.steps, trained=rank.run.position.step)
        for x, y, _ in rank.run.batches(rank.data, global_batch=GLOBAL_BATCH):
            rank.backward(model, x, y)
            optimizer.step()
            optimizer.zero_grad()
            if rank.run.updates:
                kept.steps += 1
                kept.best = kept.steps / 2
    rank.log("end", steps=kept.steps, best=kept.best, main=rank.run.is_main, local=rank.run.local_rank)


def sums_up(rank: Rank) -> None:
    """Sums a number over all ranks in every pass, and destroys its group however it ends."""
    optimizer = torch.optim.SGD(rank.model.parameters(), lr=0.02)
    model = rank.run.wrap(rank.model, optimizer)
    try:
        for _ in rank.run.epochs(2):
            for x, y, _ in rank.run.batches(rank.data, global_batch=GLOBAL_BATCH):
                rank.backward(model, x, y)
                total = torch.ones(())
                dist.all_reduce(total)
                optimizer.step()
                optimizer.zero_grad()
                sizes = [total.item(), dist.get_world_size()]
                rank.log("sum", generation=rank.run.generation, step=rank.run.position.step, sizes=sizes)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def asks_torch_for_its_rank(rank: Rank) -> None:
    """As plain DDP does, where there is no group yet."""
    rank.log("end", rank=dist.get_rank())


def comes_late_to_a_sum(rank: Rank) -> None:
    """Sums after its first epoch, to which rank 1 does not come."""
    optimizer = torch.optim.SGD(rank.model.parameters(), lr=0.02)
    model = rank.run.wrap(rank.model, optimizer)
    for _ in rank.run.epochs(2):
        _train(rank, model, optimizer)
        if rank.run.rank == 1:
            rank.log("late")
            time.sleep(1000)
        dist.all_reduce(torch.ones(()))
