"""What the test gangs train: a small network in float64, and a log of all that happened to it.

Runs as a script of its own would, in a process of its own. The supervisor says in a file how many steps it allows, so
that tests wait for conditions and never for the clock. Faults are put in from here, by replacing functions of the
library in this process: the library itself has no hooks for tests.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from powerflow import elastic
from powerflow.elastic import announcement, exchange, gang, group, handover
from powerflow.elastic.mailbox import JOB_DIR, RANK_NAME, Phase

SAMPLES, GLOBAL_BATCH = 103, 8
STEPS_PER_EPOCH = 13


class Numbers(Dataset[tuple[Tensor, Tensor, int]]):
    """Samples that know their index."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(SAMPLES, 6, generator=generator, dtype=torch.float64)
        self.y = torch.sin(self.x.sum(1, keepdim=True))

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, int]:
        return self.x[i], self.y[i], i


def network() -> nn.Module:
    """Two layers, and a buffer for DDP to broadcast in forward."""
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 1)).double()
    model.register_buffer("counter", torch.zeros(1, dtype=torch.float64))
    return model


def digest(*states: Any) -> str:
    """Of every tensor in some state dicts."""
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            found.update(value.detach().numpy().tobytes())
        elif isinstance(value, dict):
            for key in value:
                add(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        else:
            found.update(repr(value).encode())

    add(list(states))
    return found.hexdigest()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class SleepyLoop:
    """Threads in which gloo reads its connections, for as long as a test lets them sleep.

    They sleep in the handler of a signal: only these threads, and wherever they are.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        tasks = [int(path.name) for path in Path("/proc/self/task").iterdir()]
        self._threads = [t for t in tasks if "gloo_tcp_loop" in Path(f"/proc/self/task/{t}/comm").read_text()]
        assert self._threads

    def sleep(self) -> None:
        self._interrupt(signal.SIGUSR1, self._libc.pause)

    def wake(self) -> None:
        self._interrupt(signal.SIGUSR2, self._libc.getpid)  # does nothing, but ends the pause

    def _interrupt(self, number: int, act: Any) -> None:
        self._libc.signal(number, ctypes.cast(act, ctypes.c_void_p))
        for thread in self._threads:
            self._libc.tgkill(os.getpid(), thread, number)


def stop_while_gloo_sleeps() -> Callable[[], None]:
    """Stop this process until it gets SIGCONT. Return what lets gloo read again; it comes by itself after a while."""
    loop = SleepyLoop()
    loop.sleep()
    os.kill(os.getpid(), signal.SIGSTOP)
    timer = threading.Timer(0.5, loop.wake)
    timer.start()

    def wake() -> None:
        timer.cancel()
        loop.wake()

    return wake


def put_in(fault: str, run: Any, model: nn.Module) -> None:
    """Have this process die at a place, ``PLACE:AT``; see each place for what it means.

    In training AT is a step. Where a gang regroups it is the generation that the rank comes from, 0 for a newcomer:
    before which step that happens depends on who was built when, that it happens does not.
    """
    place, _, number = fault.partition(":")
    at = int(number or 0)

    def training() -> bool:
        return bool(run.position.step >= at)

    def regrouping() -> bool:
        phase = run._reporter._facts["phase"]
        return bool(run.generation == at and phase in (Phase.READY, Phase.REGROUPING))  # newcomers arrive early

    def stopped(due: Callable[[], bool], module: Any, name: str) -> None:
        """Have this process not die but stop, once; when it goes on, gloo has not yet seen that the others are gone."""
        behind = getattr(module, name)

        def stopping(*args: Any, **kwargs: Any) -> Any:
            if not due():
                return behind(*args, **kwargs)
            setattr(module, name, behind)
            wake = stop_while_gloo_sleeps()
            try:
                return behind(*args, **kwargs)
            finally:
                wake()

        setattr(module, name, stopping)

    def before(due: Callable[[], bool], module: Any, name: str) -> None:
        behind = getattr(module, name)

        def dying(*args: Any, **kwargs: Any) -> Any:
            if due():
                die()
            return behind(*args, **kwargs)

        setattr(module, name, dying)

    if place == "forward":
        model.register_forward_pre_hook(lambda *_: die() if training() and torch.is_grad_enabled() else None)
    elif place == "all-reduce":  # one bucket of gradients is ready, others are not
        hook = next(iter(model.parameters())).register_hook
        hook(lambda _: die() if training() else None)  # type: ignore[no-untyped-call]
    elif place == "after-all-reduce":  # this rank has the gradients; perhaps others have not
        before(training, gang.GangMember, "between_steps")
    elif place == "meet":
        before(regrouping, group, "meet")
    elif place == "form":  # all members have arrived
        before(regrouping, group, "form")
    elif place == "share":  # the group stands, the state is about to be given
        before(regrouping, gang, "share")
    elif place == "send":  # only the source comes here
        before(regrouping, handover, "send")
    elif place == "receive":
        before(regrouping, handover, "receive")
    elif place == "stop-forward":
        stopped(lambda: training() and run._gang.parallel is not None, exchange.Exchange, "forward")
    elif place == "stop-backward":
        stopped(training, elastic.run.Run, "backward")
    elif place == "stop-announce":
        stopped(training, announcement.Announcements, "send")
    elif place == "checkpoint":  # the file is written, but not in place
        before(training, os, "fsync")
    elif place == "full":  # nothing dies: there is no room for a checkpoint until the test says so
        fsync = os.fsync

        def full(fd: Any) -> None:
            if not Path(run._mailbox.directory, "room").exists():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(fd)

        os.fsync = full
    elif place == "finish":
        before(training, gang.GangMember, "finish")
    else:
        raise ValueError(place)


def main(
    directory: str,
    name: str,
    epochs: int,
    fault: str = "",
    environment: Mapping[str, str] | None = None,
    workers: int = 0,
) -> None:
    """Train; log to ``log/NAME``; leave the final parameters in ``final-NAME.pt``."""
    os.environ.update(environment or {JOB_DIR: directory, RANK_NAME: name})
    torch.set_num_threads(1)
    out = Path(directory)
    stream = os.open(out / "log" / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    errors = open(out / "log" / f"{name}.err", "w")  # noqa: SIM115
    os.dup2(errors.fileno(), 2)

    def log(**entry: Any) -> None:
        os.write(stream, (json.dumps(entry) + "\n").encode())

    if fault == "building:0":
        die()
    torch.manual_seed(hash(name) % 1000)  # newcomers must not depend on their own initial values
    run = elastic.init()
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    per_step = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1.0 / (1.0 + k / 200))
    per_epoch = torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.9)
    wrapped = run.wrap(model, optimizer, per_step, per_epoch)
    if name.endswith(".0") and not (out / "checkpoint.pt").exists() and not (out / "switch.json").exists():
        torch.manual_seed(7)
        model.load_state_dict(network().state_dict())
    if fault:
        put_in(fault, run, model)
    data = Numbers()
    # forked ones are the rule on Linux, and hold a copy of all that the rank has open
    forked = {"num_workers": workers, "persistent_workers": True, "multiprocessing_context": "fork"}
    loading: dict[str, Any] = forked if workers else {}
    seen_generation = -1
    for epoch in run.epochs(epochs):
        for x, y, index in run.batches(data, global_batch=GLOBAL_BATCH, seed=3, **loading):
            at, now = run.position, run._pass
            assert run._gang is not None
            assert now is not None
            if run._gang.generation != seen_generation or now.begin == 0:
                seen_generation = run._gang.generation
                log(
                    kind="state",
                    generation=seen_generation,
                    step=at.step,
                    rates=per_step.get_last_lr(),
                    hash=digest(
                        model.state_dict(), optimizer.state_dict(), per_step.state_dict(), per_epoch.state_dict()
                    ),
                )
            if now.weight:
                log(
                    kind="pass",
                    generation=seen_generation,
                    epoch=epoch,
                    within=at.within,
                    step=at.step,
                    index=index.tolist(),
                )
            while run._mailbox is not None and int((out / "allowed").read_text() or 0) <= at.step:
                time.sleep(0.002)
            loss = ((wrapped(x) - y) ** 2).mean()
            run.backward(loss)
            optimizer.step()
            per_step.step()
            optimizer.zero_grad()
        per_epoch.step()
    torch.save(model.state_dict(), out / f"final-{name}.pt")
    log(kind="end", step=run.position.step, samples=run.position.samples)
    errors.flush()
    sys.exit(0)


def run_script(command: Sequence[str], environment: Mapping[str, str], output: str) -> None:
    """A script as it stands, with its arguments, in a process that has torch loaded already."""
    torch.set_num_threads(1)  # two would wait for each other by spinning
    os.environ.update(environment)
    sys.argv = list(command)
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    runpy.run_path(command[0], run_name="__main__")


def reference(epochs: int) -> dict[str, Tensor]:
    """Parameters that a plain loop without any of the library ends with."""
    import numpy as np

    torch.manual_seed(7)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    per_step = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1.0 / (1.0 + k / 200))
    per_epoch = torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.9)
    data = Numbers()
    for epoch in range(epochs):
        order = np.random.default_rng((3, epoch)).permutation(SAMPLES)
        for k in range(0, SAMPLES, GLOBAL_BATCH):
            index = torch.from_numpy(order[k : k + GLOBAL_BATCH])
            loss = ((model(data.x[index]) - data.y[index]) ** 2).mean()
            loss.backward()
            optimizer.step()
            per_step.step()
            optimizer.zero_grad()
        per_epoch.step()
    return model.state_dict()
