"""Two gloo ranks on the one card, rescaled in place: how long training pauses, by the size of the state.

NCCL refuses two ranks on one GPU, so both compute on the card and exchange through gloo: the pause holds what PowerFlow
does (a gang regrouped, the state handed over), not what NVLink would.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import statistics
import tempfile
from multiprocessing.context import ForkContext, ForkServerContext
from pathlib import Path
from typing import Any

from benchmarks.on_gpu.card import TINY, busy, device

#: Width of a square layer of each network trained; two such layers.
WIDTHS = (64,) if TINY else (1024, 4096, 8192)
#: Numbers of ranks in turn.
SIZES = (1, 2, 1) if TINY else (1, 2, 1, 2, 1, 2)
BATCH = 32


def train(directory: str, name: str, *, width: int) -> None:
    """Train a network of that width for ever, as a gang wants it."""
    import torch
    from torch import nn
    from torch._C._distributed_c10d import Store
    from torch.utils.data import TensorDataset

    from benchmarks.pauses import StepLog
    from powerflow import elastic
    from powerflow.elastic import group
    from powerflow.elastic.mailbox import JOB_DIR, RANK_NAME

    os.environ.update({JOB_DIR: directory, RANK_NAME: name})
    torch.set_num_threads(1)
    form = group.form

    def by_gloo(store: Store, rank: int, ranks: int, *, cuda: bool) -> None:
        form(store, rank, ranks, cuda=False)

    group.form = by_gloo
    run, where = elastic.init(), device()
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)).to(where)
    optimizer = torch.optim.Adam(model.parameters())
    wrapped, log = run.wrap(model, optimizer), StepLog(Path(directory))
    data = TensorDataset(torch.randn(1024, width), torch.randn(1024, width))
    for _ in run.epochs(10**6):
        for x, y in run.batches(data, global_batch=BATCH):
            run.backward(nn.functional.mse_loss(wrapped(x.to(where)), y.to(where)))
            optimizer.step()
            optimizer.zero_grad()
            log.step(run.generation)


def measure(out: Path) -> dict[str, Any]:
    """Pauses of each rescaling, by size of the state that a newcomer is handed."""
    from benchmarks.pauses import pauses, read_steps, rising
    from benchmarks.rescale import CONTEXT, gang

    context: ForkContext | ForkServerContext = CONTEXT
    if TINY:  # torch on the CPU can be forked, and a fork does not import again what was imported before
        importlib.import_module("torch._dynamo")
        context = multiprocessing.get_context("fork")
    found = {}
    for width in WIDTHS:
        parameters = 2 * (width * width + width)
        with tempfile.TemporaryDirectory() as name, busy():
            directory = Path(name)
            with gang(directory, functools.partial(train, width=width), context) as rescale:
                for size in SIZES:
                    rescale(size)
            pauses_s = [pause.pause_s for pause in pauses(rising(read_steps(directory)))]
        found[f"{12 * parameters / 2**20:.1f} MiB"] = {
            "width": width,
            "state_bytes": 12 * parameters,  # float32 parameters, and Adam's two moments
            "ranks": list(SIZES),
            "pauses_s": pauses_s,
            "median_s": statistics.median(pauses_s) if pauses_s else None,
        }
    return {"backend": "gloo", "device": str(device()), "by_state": found}
