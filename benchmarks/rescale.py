"""How long training pauses when a job's number of GPUs changes on one host: PowerFlow in place, and torchrun elastic.

    python -m benchmarks.rescale [--rescales 24] [--gangs 24] [--steps 96] [--torchrun-sizes 1 2 3 2]

All is on this machine's CPU with gloo; ranks are real processes. What a pause is stands in `benchmarks.pauses`: it is
the same measure for both. PowerFlow's newcomers come from a preloaded interpreter, as its local engine starts them;
torchrun's come as torchrun starts them. The last part trains with the library and with plain DDP in turns, step by
step, in the same two processes, and again in other ones; beside wall time it gives CPU time of the training thread,
which a busy machine blurs less. ``--rescales 0``, ``--torchrun-sizes`` without a number and ``--gangs 0`` leave parts
out. `benchmarks.rescale_hosts` measures pauses on several hosts.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import ForkContext, ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from benchmarks.pause_ranks import train_elastic
from benchmarks.pause_torchrun import TorchrunAgents, measure, start_here
from benchmarks.pauses import GLOBAL_BATCH, Pause, dataset, network, p95, pauses, read_steps, rising, wait
from powerflow import elastic
from powerflow.elastic.mailbox import JOB_DIR, RANK_NAME, Mailbox, Member, Target

CONTEXT = multiprocessing.get_context("forkserver")


# -- PowerFlow -------------------------------------------------------------------------------------------------------


def elastic_rank(directory: str, name: str) -> None:
    """Be one rank."""
    os.environ.update({JOB_DIR: directory, RANK_NAME: name})
    train_elastic(Path(directory))


@contextlib.contextmanager
def gang(
    directory: Path, body: Callable[[str, str], None], context: ForkContext | ForkServerContext = CONTEXT
) -> Iterator[Callable[[int], list[str]]]:
    """Give a function that rescales a gang to so many ranks and returns when all train."""
    mailbox, members, ranks = Mailbox(directory), list[str](), dict[str, BaseProcess]()
    mailbox.create()
    generations = itertools.count(1)

    def rescale(size: int) -> list[str]:
        nonlocal members
        members = members[:size]
        while len(members) < size:
            name = f"bench.1.{len(ranks)}"
            ranks[name] = context.Process(target=body, args=(str(directory), name), daemon=True)
            ranks[name].start()
            members.append(name)
        generation = next(generations)
        mailbox.post_target(Target(generation, tuple(Member(name, "here") for name in members), 0))

        def train() -> bool:
            reports = mailbox.reports(members)
            return len(reports) == size and all(r.generation == generation and r.timed_steps > 3 for r in reports)

        wait(train)
        return members

    try:
        yield rescale
    finally:
        for process in ranks.values():
            process.kill()
        for process in ranks.values():
            process.join()


def measure_powerflow(rescales: int) -> list[Pause]:
    """Return the pauses of so many rescales, each to a random number of ranks."""
    rng, size = random.Random(0), 1
    with tempfile.TemporaryDirectory() as directory:
        with gang(Path(directory), elastic_rank) as rescale:
            rescale(1)
            for _ in range(rescales):
                size = rng.choice([n for n in (1, 2, 3, 4) if n != size])
                rescale(size)
        return pauses(rising(read_steps(Path(directory))))


def measure_torchrun(sizes: Sequence[int]) -> list[Pause]:
    """Return the pauses while agents of one rank each come and go."""
    with tempfile.TemporaryDirectory() as name:
        here = "127.0.0.1"
        return measure(TorchrunAgents(Path(name), here, "lo", start_here, lambda _: here), Path(name), sizes)


# -- Overhead --------------------------------------------------------------------------------------------------------


def three_rank(directory: str, name: str, *, ours: int) -> None:
    """Three equal models train in turns, step by step; number ``ours`` with the library, the others with plain DDP.

    Writes the seconds of each step by wall clock and by CPU time of this thread: the library's first.
    """
    os.environ.update({JOB_DIR: directory, RANK_NAME: name})
    torch.set_num_threads(1)
    run, data = elastic.init(), dataset()
    models = [network() for _ in range(3)]
    optimizers = [torch.optim.Adam(model.parameters()) for model in models]
    parallel: list[nn.Module] = []
    plain = [which for which in range(3) if which != ours]
    wrapped, turns = run.wrap(models[ours], optimizers[ours]), random.Random(0)

    def train(which: int, batches: Iterator[Sequence[Tensor]]) -> str:
        began, began_cpu = time.perf_counter(), time.thread_time()
        x, y = next(batches)
        loss = nn.functional.mse_loss(parallel[which](x), y)
        if which == ours:
            run.backward(loss)
        else:
            loss.backward()  # type: ignore[no-untyped-call]
        optimizers[which].step()
        optimizers[which].zero_grad()
        return f"{time.perf_counter() - began} {time.thread_time() - began_cpu}"

    with open(Path(directory) / f"three-{name}", "w", buffering=1) as log:
        for epoch in run.epochs(10**6):
            if not parallel:  # the group is there by now
                parallel += [
                    nn.parallel.DistributedDataParallel(model) for model in models if model is not models[ours]
                ]
                parallel.insert(ours, wrapped)
            our_batches = run.batches(data, global_batch=GLOBAL_BATCH)
            # Each sees samples of its own: who comes second must not find them in the cache.
            samplers: list[DistributedSampler[tuple[Tensor, ...]]] = [
                DistributedSampler(data, run.ranks, run.rank, seed=3 * epoch + which) for which in range(3)
            ]
            batches: list[Iterator[Sequence[Tensor]]] = [
                iter(DataLoader(data, GLOBAL_BATCH // run.ranks, sampler=sampler)) for sampler in samplers
            ]
            batches[ours] = our_batches
            for _ in range(len(data) // GLOBAL_BATCH):
                took = {which: train(which, batches[which]) for which in turns.sample(range(3), 3)}
                log.write(" ".join(took[which] for which in (ours, *plain)) + "\n")
            next(our_batches, None)  # ends the epoch


def measure_three(ours: int, steps: int) -> NDArray[np.float64]:
    """Seconds in one gang of two: ``[step, library | plain | plain, wall | CPU]``."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)

        def lines() -> list[list[str]]:
            found = [line.split() for path in directory.glob("three-*") for line in path.read_text().splitlines()]
            return [line for line in found if len(line) == 6]

        with gang(directory, functools.partial(three_rank, ours=ours)) as rescale:
            rescale(2)
            wait(lambda: len(lines()) >= 2 * steps, 600.0)
        return np.array(lines(), float).reshape(-1, 3, 2)


def percent(logs: NDArray[np.float64]) -> str:
    """Mean over gangs of logarithms of ratios, with its 95 % interval (bootstrap over gangs)."""
    again = np.random.default_rng(0).choice(logs, (10_000, len(logs))).mean(axis=1)
    mean, low, high = 100 * np.expm1([logs.mean(), *np.quantile(again, (0.025, 0.975))])
    return f"{mean:+.2f} % ({low:+.2f} to {high:+.2f})"


def measure_overhead(gangs: int, steps: int) -> None:
    """Print what the library adds to a step, and what plain DDP seems to add to itself: finer than that nothing shows.

    Where its memory happens to lie makes one of two equal models up to 3 % faster, as long as its process lives. So
    steps are compared within a gang, and what is averaged are gangs.
    """
    all_seconds = [measure_three(number % 3, steps) for number in range(gangs)]
    for kind, clock in (("wall", 0), ("CPU", 1)):
        library, one, other = np.moveaxis(np.array([np.median(s[:, :, clock], axis=0) for s in all_seconds]), 1, 0)
        logs = [np.log(seconds[:, :, clock]) for seconds in all_seconds]
        added = np.array([np.median(log[:, 0] - (log[:, 1] + log[:, 2]) / 2) for log in logs])
        itself = np.array([np.median(log[:, 2] - log[:, 1]) for log in logs])
        print(
            f"step on two ranks, {kind:<4} library {1e3 * library.mean():.3f} ms"
            f"   plain DDP {500 * (one + other).mean():.3f} ms"
            f"   {percent(added)}   plain DDP against itself {percent(itself)}"
        )
    print(f"{gangs} gangs of two, some {steps} steps each; load {os.getloadavg()[0]:.1f} at the end")


def _told(name: str, found: Sequence[Pause]) -> str:
    seconds = [pause.pause_s for pause in found]
    return (
        f"{name:<20} {len(seconds)} rescales   median {statistics.median(seconds):.3f} s   p95 {p95(seconds):.3f} s"
        f"   most {max(seconds):.3f} s"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rescales", type=int, default=24)
    parser.add_argument("--gangs", type=int, default=24)
    parser.add_argument("--steps", type=int, default=96)
    parser.add_argument("--torchrun-sizes", type=int, nargs="*", default=[1, 2, 3, 2])
    asked = parser.parse_args()
    CONTEXT.set_forkserver_preload(["torch", "torch._dynamo", "torch.distributed", "powerflow.elastic.run"])
    ours = measure_powerflow(asked.rescales) if asked.rescales else []
    if ours:
        print(_told("PowerFlow in place", ours))
        for kind, some in (
            ("grows", [pause for pause in ours if pause.after > pause.before]),
            ("shrinks", [pause for pause in ours if pause.after < pause.before]),
        ):
            if some:
                spent = statistics.median(pause.cpu_s for pause in some)
                print(f"{_told(f'  a gang that {kind}', some)}   {spent:.3f} CPU s of each rank that stays")
    if asked.torchrun_sizes:
        theirs = measure_torchrun(asked.torchrun_sizes)
        listed = ", ".join(f"{pause.pause_s:.1f}" for pause in theirs)
        print(f"{_told('torchrun elastic', theirs)}   ({listed})")
        if ours:
            ratio = statistics.median(p.pause_s for p in theirs) / statistics.median(p.pause_s for p in ours)
            print(f"ratio of medians     ×{ratio:.0f}")
    if asked.gangs:
        measure_overhead(asked.gangs, asked.steps)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
