"""Scripts for the checker: a comment `# <- rule` marks each line at which a rule finds something."""

from __future__ import annotations

import re

#: An elastic script in which nothing is to be found; cases put lines at its places.
SCRIPT = """\
import copy, os, random, subprocess, time
import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler
from powerflow import elastic
{imports}
def main():
    run = elastic.init()
    torch.manual_seed(0)
    model = nn.Linear(2, 1).to(run.device)
    optimizer = torch.optim.Adam(model.parameters())
    kept = run.keep(best=0.0)
    {before}
    model = run.wrap(model, optimizer)
    loader = run.batches(dataset, global_batch=8)
    {start}
    for epoch in run.epochs(3):
        {epoch}
        for x, y in loader:
            loss = (model(x) - y).square().mean()
            run.backward(loss)
            {step}
            optimizer.step()
            optimizer.zero_grad()
        {after_epoch}
        accuracy = evaluate(model)
        kept.best = max(kept.best, accuracy)
        if run.is_main:
            torch.save(model.state_dict(), "last.pt")
    {end}

{functions}

def evaluate(model):
    return 0.5

if __name__ == "__main__":
    main()
"""


def script(**places: str) -> str:
    """The script with lines at some of its places, and without the other places."""
    lines = []
    for line in SCRIPT.splitlines():
        if not (place := re.fullmatch(r"( *)\{(\w+)\}", line)):
            lines.append(line)
        elif given := places.pop(place[2], ""):
            lines += [place[1] + part for part in given.splitlines()]
    assert not places
    return "\n".join(lines) + "\n"


METER = """\
class Meter:
    def __init__(self):
        self.sum = 0
    def add(self, value):
        self.sum += value
"""
CASES = {
    "own group": {"before": 'dist.init_process_group("nccl")  # <- own-group'},
    "ddp": {"before": "model = nn.parallel.DistributedDataParallel(model)  # <- ddp"},
    "data parallel": {"before": "model = nn.DataParallel(model)  # <- ddp"},
    "an alias of ddp": {
        "imports": "from torch.nn.parallel import DistributedDataParallel as D",
        "before": "model = D(model)  # <- ddp",
    },
    "no_sync": {"step": "with model.no_sync(): pass  # <- no-sync"},
    "spawn": {
        "imports": "import torch.multiprocessing as mp",
        "functions": "def start():\n    mp.spawn(main, nprocs=4)  # <- own-launch",
    },
    "torchrun": {"end": 'subprocess.run(["torchrun", "train.py"])  # <- own-launch'},
    "a validation sampler": {
        "start": "val_loader = DataLoader(val, sampler=DistributedSampler(val))  # <- sampler",
        "after_epoch": "for x, y in val_loader: pass",
    },
    "a sampler of the moment": {"after_epoch": "val_loader = DataLoader(val, sampler=DistributedSampler(val))"},
    "visible devices": {"before": 'os.environ["CUDA_VISIBLE_DEVICES"] = "0"  # <- visible-devices'},
    "visible devices, read": {"before": 'print(os.environ["CUDA_VISIBLE_DEVICES"])'},
    "local rank": {"before": 'torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # <- environment'},
    "local rank or 0": {"before": 'torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))'},
    "local rank or -1": {"before": 'local = int(os.getenv("LOCAL_RANK", -1))  # <- environment'},
    "a gpu by local rank": {"before": "torch.cuda.set_device(run.local_rank)  # <- device"},
    "a gpu by a kept local rank": {"before": 'gpu = run.local_rank\nmodel.to(f"cuda:{gpu}")  # <- device'},
    "a local rank that is printed": {"before": 'print(f"rank {run.local_rank}")\nmodel.to(run.device)'},
    "rank of torchrun": {"epoch": 'print(os.environ.get("RANK", "0"))  # <- environment'},
    "a collective too early": {"start": "dist.barrier()  # <- early-collective"},
    "a collective too early, in a function": {
        "start": "prepare()",
        "functions": "def prepare():\n    dist.barrier()  # <- early-collective",
    },
    "collectives in time": {"after_epoch": "dist.all_reduce(loss)", "end": "dist.barrier()"},
    "collectives in time, in functions": {
        "after_epoch": "mean(loss)",
        "end": "finish()",
        "functions": "def mean(x):\n    dist.all_reduce(x)\ndef finish():\n    dist.barrier()",
    },
    "a lone collective": {"after_epoch": "if run.is_main:\n    dist.barrier()  # <- lone-collective"},
    "a collective if there are several ranks": {
        "imports": "RANK = find()",
        "after_epoch": "if RANK != -1:\n    dist.barrier()",
    },
    "a lone collective behind a return": {
        "after_epoch": "log(run)",
        "functions": "def log(run):\n    if run.rank != 0:\n        return\n    dist.barrier()  # <- lone-collective",
    },
    "torch's rank too early": {"start": "main_rank = dist.get_rank() == 0  # <- early-collective"},
    "a rank that is kept": {
        "start": "is_main = run.rank == 0  # <- kept-rank",
        "after_epoch": "if is_main: print(epoch)",
    },
    "a rank that is used at once": {"start": "if run.is_main: print(run.ranks)"},
    "a rate by ranks": {"before": "rate = 0.1 * run.ranks  # <- scaled-by-ranks"},
    "a rate by a kept number": {
        "before": "world = run.ranks\nrate = 0.1 * world  # <- scaled-by-ranks",
    },
    "a checkpoint of a model": {"before": 'model.load_state_dict(torch.load("pretrained.pt"))'},
    "backward": {"step": "(loss * 0).backward()  # <- backward"},
    "backward of a scaler": {"step": "scaler.scale(loss).backward()  # <- backward"},
    "accumulation": {
        "step": "if epoch % 4 == 0:  # <- accumulation\n    optimizer.step()",
    },
    "several backwards of a step": {
        "step": "for i in range(4):\n"
        "    model.require_backward_grad_sync = i == 3  # <- no-sync\n"
        "    run.backward(model(x).mean() / 4)",
    },
    "two updates of a discriminator": {
        "step": "for i in range(2):\n    run.backward(model(x).mean())\n    optimizer.step()",
    },
    "a meter of each epoch": {
        "epoch": "meter = Meter()",
        "step": "meter.add(loss)",
        "functions": METER,
    },
    "a meter of the whole run": {
        "before": "meter = Meter()",
        "step": "meter.add(loss)",
        "functions": METER.replace("= 0", "= 0  # <- plain-value"),
    },
    "accumulation by another count": {
        "imports": "last = 0",
        "step": "if run.position.step - last >= 4:  # <- accumulation\n    optimizer.step()",
    },
    "a report in every tenth step": {"step": "if run.position.step % 10 == 0:\n    print(loss)"},
    "a closure": {
        "step": "optimizer.step(closure)  # <- closure",
        "functions": "def closure(): return 0",
    },
    "a mean over passes": {
        "epoch": "total = 0.0",
        "step": "total += loss.item()",
        "after_epoch": "print(total / len(loader))  # <- pass-mean",
    },
    "a length of steps": {"before": "steps = 3 * len(run.batches(dataset, global_batch=8))"},
    "a decision by the clock": {
        "start": "began = time.time()",
        "after_epoch": "if time.time() - began > 60:  # <- clock\n    break",
    },
    "a timer": {"start": "began = time.time()", "after_epoch": "print(time.time() - began)\nbegan = time.time()"},
    "a report by the clock": {"start": "began = time.time()", "after_epoch": "print(time.time() - began)"},
    "a best value": {
        "start": "best = 0.0  # <- plain-value",
        "after_epoch": "if epoch > best:\n    best = epoch",
    },
    "a counter": {"start": "steps = 0  # <- plain-value", "step": "steps += 1"},
    "a counter of each epoch": {"start": "steps = 0", "epoch": "steps = 0", "step": "steps += 1"},
    "a maximum": {"start": "top = 0.0  # <- plain-value", "after_epoch": "top = max(top, epoch)"},
    "a history": {"start": "history = []  # <- plain-value", "after_epoch": "history.append(epoch)"},
    "a logger": {
        "start": "logger = None",
        "after_epoch": "if run.is_main and logger is None:\n    logger = open('log')",
    },
    "a constant": {"start": "weight = 0.5", "step": "print(weight)"},
    "a global": {
        "imports": "seen = 0  # <- plain-value",
        "after_epoch": "count()",
        "functions": "def count():\n    global seen\n    seen += 1",
    },
    "a schedule that is not given": {
        "before": "schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)  # <- unregistered",
    },
    "a scaler that is not given": {"before": 'scaler = torch.amp.GradScaler("cuda")  # <- unregistered'},
    "an average that is not given": {"before": "ema = torch.optim.swa_utils.AveragedModel(model)  # <- unregistered"},
    "a copy that is updated": {
        "before": "ema = copy.deepcopy(model)  # <- unregistered",
        "step": "for p, q in zip(ema.parameters(), model.parameters()): p.lerp_(q, 0.1)",
    },
    "a copy that is not": {"before": "teacher = copy.deepcopy(model)", "step": "print(teacher(x))"},
    "a second model": {
        "before": "critic = nn.Linear(2, 1)\noptimizer = torch.optim.SGD(critic.parameters())  # <- unregistered",
    },
    "random states": {"before": "state = torch.get_rng_state()  # <- random-state"},
    "random states of others": {"before": "random.setstate(np.random.get_state())  # <- random-state"},
    "a generator": {
        "before": "generator = torch.Generator().manual_seed(1)  # <- generator",
        "step": "torch.rand(1, generator=generator)",
    },
    "a generator of each step": {"step": "generator = torch.Generator().manual_seed(run.position.step)"},
    "a generator for the data": {"before": "dataset = torch.rand(9, generator=torch.Generator())"},
    "all save": {"after_epoch": 'torch.save(model, "x.pt")  # <- all-save'},
    "one saves, in a function": {
        "after_epoch": "if run.rank == 0:\n    save(model)",
        "functions": 'def save(model):\n    torch.save(model, "x.pt")',
    },
    "accelerate": {
        "imports": "from accelerate import Accelerator\naccelerator = Accelerator()",
        "before": "model = accelerator.prepare(model)  # <- accelerate",
    },
}
