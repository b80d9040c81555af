"""What the elastic jobs of the machines tests run: a user's script that notes in a shared file all that it trains.

    machines_trainee.py LEDGER EPOCHS

Each rank appends lines of JSON to LEDGER, one write each, from whatever host it is on: its start and end, the state
with which it begins a generation, the samples of each pass before it trains them, and each step that has taken effect.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import torch

from powerflow import elastic
from tests.elastic.trainee import GLOBAL_BATCH, Numbers, digest, network


def main() -> None:
    """Train."""
    path, epochs = Path(sys.argv[1]), int(sys.argv[2])
    name = os.environ["POWERFLOW_RANK"]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    ledger = os.open(path, os.O_WRONLY | os.O_APPEND)

    def log(kind: str, **more: Any) -> None:
        entry = {"kind": kind, "rank": name, "at_s": time.time(), **more}
        os.write(ledger, (json.dumps(entry) + "\n").encode())

    log("start", host=socket.gethostname(), pid=os.getpid(), boot=boot)
    atexit.register(lambda: log("end"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the library takes the signal
    torch.set_num_threads(1)
    torch.manual_seed(7)
    run = elastic.init()
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    per_step = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1.0 / (1.0 + k / 200))
    per_epoch = torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.9)
    wrapped = run.wrap(model, optimizer, per_step, per_epoch)
    data, seen = Numbers(), 0

    def state() -> str:  # without the schedulers, which also change between two epochs
        return digest(model.state_dict(), optimizer.state_dict()["state"])

    for epoch in run.epochs(epochs):
        for x, y, index in run.batches(data, global_batch=GLOBAL_BATCH, seed=3):
            at, generation, now = run.position, run.generation, run._pass
            assert now is not None
            if generation != seen:
                seen = generation
                log("state", generation=generation, step=at.step, hash=state(), ranks=run.ranks)
            if now.weight:  # of no weight: a pass only to take part in the exchange
                where = {"epoch": epoch, "within": at.within, "step": at.step}
                log("pass", generation=generation, index=index.tolist(), **where)
            loss = ((wrapped(x) - y) ** 2).mean()
            run.backward(loss)
            takes_effect = run.updates
            optimizer.step()
            per_step.step()
            optimizer.zero_grad()
            if takes_effect:
                log("step", generation=generation, step=at.step, hash=state())
        per_epoch.step()
    torch.save(model.state_dict(), path.parent / f"final-{name}.pt")
    log("done", generation=run.generation, step=run.position.step, samples=run.position.samples)


if __name__ == "__main__":
    main()
