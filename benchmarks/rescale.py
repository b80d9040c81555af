"""How long training pauses when a job's number of GPUs changes: PowerFlow in place, and torchrun elastic.

    python -m benchmarks.rescale [--rescales 24] [--gangs 24] [--steps 96] [--torchrun-sizes 1 2 3 2]

All is on this machine's CPU with gloo; ranks are real processes. A pause is the time between the end of the last step
of the old gang and the end of the first step of the new one, less a median step, as the ranks' own logs have it: the
same measure for both. PowerFlow's newcomers come from a preloaded interpreter, as its local engine starts them;
torchrun's come as torchrun starts them. The last part trains with the library and with plain DDP in turns, step by
step, in the same two processes, and again in other ones; beside wall time it gives CPU time of the training thread,
which a busy machine blurs less. ``--rescales 0`` and ``--torchrun-sizes`` without a number leave the first parts out.
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
import subprocess
import sys
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
from torch._C._distributed_c10d import TCPStore
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from powerflow import elastic
from powerflow.elastic.mailbox import JOB_DIR, RANK_NAME, Mailbox, Member, Target

GLOBAL_BATCH = 128
CONTEXT = multiprocessing.get_context("forkserver")


def network() -> nn.Module:
    """1.6 million parameters: 6 MB, and 12 MB more in Adam."""
    return nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 16))


def dataset() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(4096, 512, generator=generator), torch.randn(4096, 16, generator=generator))


class StepLog:
    """One line at the end of every step: when, and what tells one gang from the next."""

    def __init__(self, directory: Path) -> None:
        self._file = open(directory / f"steps-{os.getpid()}", "a", buffering=1)  # noqa: SIM115

    def step(self, gang: int) -> None:
        """A step has ended."""
        self._file.write(f"{time.monotonic():.6f} {gang}\n")


def read_steps(directory: Path) -> list[tuple[float, int]]:
    """All ranks' lines, by time."""
    lines = (line.split() for path in directory.glob("steps-*") for line in path.read_text().splitlines())
    return sorted((float(when), int(ranks)) for when, ranks in (line for line in lines if len(line) == 2))


def pauses_s(steps: Sequence[tuple[float, int]]) -> list[float]:
    """Pauses at every change from one gang to the next, in order."""
    found = []
    for (before, old), (after, new) in itertools.pairwise(steps):
        if old != new:
            gaps = [b - a for (a, n), (b, m) in itertools.pairwise(steps) if n == m == new and b - a > 1e-3]
            found.append(max(0.0, after - before - (statistics.median(gaps) if gaps else 0.0)))
    return found


def wait(condition: Callable[[], bool], deadline_s: float = 120.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("what the benchmark waits for does not come about")
        time.sleep(0.01)


# -- PowerFlow -------------------------------------------------------------------------------------------------------


def elastic_rank(directory: str, name: str) -> None:
    os.environ.update({JOB_DIR: directory, RANK_NAME: name})
    torch.set_num_threads(1)
    run, model = elastic.init(), network()
    optimizer = torch.optim.Adam(model.parameters())
    wrapped, log, data = run.wrap(model, optimizer), StepLog(Path(directory)), dataset()
    for _ in run.epochs(10**6):
        for x, y in run.batches(data, global_batch=GLOBAL_BATCH):
            run.backward(nn.functional.mse_loss(wrapped(x), y))
            optimizer.step()
            optimizer.zero_grad()
            log.step(run.generation)


@contextlib.contextmanager
def gang(
    directory: Path, body: Callable[[str, str], None], context: ForkContext | ForkServerContext = CONTEXT
) -> Iterator[Callable[[int], list[str]]]:
    """Gives a function that rescales a gang to so many ranks and returns when all train."""
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


def measure_powerflow(rescales: int) -> list[float]:
    rng, sizes = random.Random(0), [1]
    with tempfile.TemporaryDirectory() as directory:
        with gang(Path(directory), elastic_rank) as rescale:
            rescale(1)
            for _ in range(rescales):
                sizes.append(rng.choice([n for n in (1, 2, 3, 4) if n != sizes[-1]]))
                rescale(sizes[-1])
        newest, steps = 0, []
        for when, generation in read_steps(Path(directory)):
            if generation >= newest:  # not what a rank that leaves says late
                newest = generation
                steps.append((when, generation))
        return pauses_s(steps)


# -- torchrun elastic ------------------------------------------------------------------------------------------------


def torchrun_rank(directory: Path) -> None:
    """A script as torchrun wants it: resumes from its own checkpoint, which rank 0 writes at every step."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    ranks, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    model, checkpoint, step = network(), directory / "checkpoint.pt", 0
    optimizer = torch.optim.Adam(model.parameters())
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    parallel, log, data = nn.parallel.DistributedDataParallel(model), StepLog(directory), dataset()
    for epoch in itertools.count(step):
        sampler: DistributedSampler[tuple[Tensor, ...]] = DistributedSampler(data, seed=epoch)
        for x, y in DataLoader(data, GLOBAL_BATCH // ranks, sampler=sampler):
            nn.functional.mse_loss(parallel(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            log.step(ranks)
            if rank == 0:
                temporary = directory / "checkpoint.new"
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, temporary)
                temporary.replace(checkpoint)


def measure_torchrun(sizes: Sequence[int]) -> list[float]:
    """Pauses while agents of one rank each come and go."""
    agents: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes=1:4", "--nproc-per-node=1"),
            *("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{store.port}", "--rdzv-id=bench"),
            *("--rdzv-conf=last_call_timeout=1,is_host=0", "--max-restarts=100", "--monitor-interval=0.1"),
            *("--local-addr=127.0.0.1", "-m", "benchmarks.rescale", "--torchrun-rank", name),
        ]
        env = {
            **os.environ,
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        }
        try:
            for size in sizes:
                while len(agents) > size:
                    agent = agents.pop()
                    agent.terminate()
                    agent.wait()
                seen = len(read_steps(directory))
                while len(agents) < size:
                    log = open(directory / f"agent-{len(agents)}.log", "ab")  # noqa: SIM115
                    agents.append(subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True))
                    log.close()

                def train(size: int = size, seen: int = seen) -> bool:
                    return [ranks for _, ranks in read_steps(directory)[seen:]].count(size) > 10 * size

                wait(train)
            return pauses_s(read_steps(directory))
        except TimeoutError:
            for path in directory.glob("agent-*.log"):
                print(path.read_text()[-3000:])
            raise
        finally:
            for agent in agents:
                agent.terminate()
            for agent in agents:
                agent.wait()


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rescales", type=int, default=24)
    parser.add_argument("--gangs", type=int, default=24)
    parser.add_argument("--steps", type=int, default=96)
    parser.add_argument("--torchrun-sizes", type=int, nargs="*", default=[1, 2, 3, 2])
    parser.add_argument("--torchrun-rank", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.torchrun_rank:
        torchrun_rank(asked.torchrun_rank)
        return
    CONTEXT.set_forkserver_preload(["torch", "torch._dynamo", "torch.distributed", "powerflow.elastic.run"])
    ours = measure_powerflow(asked.rescales) if asked.rescales else []
    if ours:
        p95 = sorted(ours)[int(0.95 * (len(ours) - 1))]
        print(
            f"PowerFlow in place   {len(ours)} rescales   median {statistics.median(ours):.3f} s   p95 {p95:.3f} s"
            f"   most {max(ours):.3f} s"
        )
    if asked.torchrun_sizes:
        theirs = measure_torchrun(asked.torchrun_sizes)
        listed = ", ".join(f"{pause:.1f}" for pause in theirs)
        print(f"torchrun elastic     {len(theirs)} rescales   median {statistics.median(theirs):.3f} s   ({listed})")
        if ours:
            print(f"ratio of medians     ×{statistics.median(theirs) / statistics.median(ours):.0f}")
    measure_overhead(asked.gangs, asked.steps)


if __name__ == "__main__":
    main()
