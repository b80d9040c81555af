"""Does another checkout of PowerFlow compute the same results, to the last bit? For changes that may only save time.

    python -m benchmarks.same_results OTHER_CHECKOUT [--only WORD]

Runs the same cases with the code of this checkout and of the other one, each in a process of its own, and compares
digests. A case is the whole JSON output of a command, or a simulation with everything that it gives back: the results
of all jobs, the timeline, the allocations, and each plan of the scheduler with the reasons in it.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from powerflow.cluster.spec import NodeGroup, build_cluster
from powerflow.energy.terms import EnergyTerms
from powerflow.policy.protocol import Policy
from powerflow.policy.registry import BUILT_IN, load
from powerflow.scheduler.cap import PowerCap
from powerflow.scheduler.events import Event, ManagedProjects
from powerflow.scheduler.plan import Plan
from powerflow.scheduler.rules.compose import with_rules
from powerflow.simulate.belief import belief_named
from powerflow.simulate.run import Simulation
from powerflow.simulate.workload.build import build_workload
from powerflow.simulate.workload.workload import Workload
from powerflow.simulate.world import World
from powerflow.trace.read import read_trace
from powerflow.trace.record import Trace, TraceJob

HERE = Path(__file__).resolve().parents[1]
TRACES = HERE.parent / "shared" / "data" / "traces"
CLUSTER = "8x4:A100"
TERMS = {
    8_000.0: EnergyTerms(2e-4, {"project-1": 3e-4}),
    16_000.0: EnergyTerms(1e-4, {}, {"": 6000.0, "project-2": 1500.0}),
    40_000.0: EnergyTerms(1e-4),
}

Case = Callable[[], bytes]


def random_workload(seed: int, cluster: str = CLUSTER, jobs: int = 70) -> Workload:
    """Jobs at random that fill 32 GPUs now and then, in bursts."""
    rng = np.random.default_rng(seed)
    submit_s = np.cumsum(rng.exponential(600.0, jobs) * np.where(rng.random(jobs) < 0.2, 4.0, 0.25))
    logged = [
        TraceJob(f"job-{i}", float(at_s), float(rng.lognormal(7.5, 1.5)), int(rng.choice([1, 1, 1, 2, 3, 4, 8, 16])))
        for i, at_s in enumerate(submit_s.round())
    ]
    return build_workload(Trace("random", "here", logged), cluster, seed=seed)


def mixed_workload(seed: int) -> Workload:
    """Jobs with projects, priorities, promises, limits on slowdown, lists of counts; some must keep their GPUs."""
    workload, rng = random_workload(seed), np.random.default_rng(seed + 1)
    jobs = []
    for each in workload.jobs:
        kind, project = rng.random(), f"project-{rng.integers(4)}"
        listed = tuple(n for n in (1, 3, 6) if each.gpus_min <= n <= each.gpus_max)
        only = replace(each, gpus_allowed=listed, gpus_min=listed[0], gpus_max=listed[-1]) if listed else each
        jobs.append(
            replace(
                only if kind > 0.9 else each,
                project=project,
                weight=float(rng.choice([0.5, 1.0, 1.0, 4.0])),
                protected=bool(kind < 0.1),
                max_slowdown=0.1 if kind < 0.3 else math.inf,
                keeps=bool(0.3 <= kind < 0.4),
            )
        )
    return replace(workload, jobs=jobs)


class Recorded(Simulation):
    """A simulation that digests every plan, and tells the scheduler of other terms at given times."""

    terms: Mapping[float, Event] = {}
    every: int = 0  # one plan in so many also gives the reasons of all jobs

    def prepare(self) -> None:
        """Digest the plans from now on."""
        self.digest = hashlib.sha256()
        self._left = dict(self.terms)
        step = self.scheduler.step

        def recorded(now_s: float, events: Sequence[Event]) -> Plan:
            told = [at_s for at_s in self._left if at_s <= now_s]
            plan = step(now_s, [*events, *(self._left.pop(at_s) for at_s in told)])
            known = (plan.now_s, plan.decided, plan.changes, plan.wake_s, plan.gpu_price, plan.ignored, plan.early)
            self.digest.update(repr((*known, plan.asleep, plan.woken, plan.power_w, plan.watt_price)).encode())
            if self.every and plan.decided and self.scheduler._steps % self.every == 0:
                self.digest.update(repr((plan.reasons(), plan.wishes())).encode())
            return plan

        self.scheduler.step = recorded  # type: ignore[method-assign]


def simulated(
    workload: Workload,
    policy: Policy | str,
    *,
    belief: str = "oracle",
    sizes: str = "known",
    price: float = 1e-4,
    world: World | None = None,
    caps: tuple[tuple[float, PowerCap], ...] = (),
    terms: Mapping[float, Event] | None = None,
    every: int = 0,
) -> bytes:
    """Digest of a simulation: all results, and all plans."""
    simulation = Recorded(
        workload,
        load(policy) if isinstance(policy, str) else policy,
        energy_price=price,
        belief=belief_named(belief, workload, sizes=sizes, seed=3),
        world=world,
        seed=5,
        caps=caps,
    )
    simulation.terms, simulation.every = terms or {}, every
    simulation.prepare()
    simulation.run()
    result = simulation.result()
    numbers = [result.end_s, result.metered_j, result.idle_j, result.tail_w, float(result.decisions)]
    simulation.digest.update(np.array(numbers).tobytes() + repr(result.jobs.ids).encode())
    for group in (result.jobs, result.timeline, result.segments):
        for name in group.__slots__:
            if isinstance(value := getattr(group, name), np.ndarray):
                simulation.digest.update(value.tobytes())
    return simulation.digest.digest()


def simulations() -> Iterator[tuple[str, Case]]:
    """Simulations of policies, rules, beliefs, failures, sleep, caps, limits, several types."""
    for policy in (*BUILT_IN, "srtf+clock:0.7", "fifo+zeus:0.5"):
        yield f"policy {policy}", partial(simulated, random_workload(1), policy, every=40)
    for belief in ("fitted", "online"):
        for sizes in ("known", "unknown", "mispredicted:0.7"):
            yield (
                f"prices, {belief} costs, sizes {sizes}",
                partial(simulated, random_workload(2), "prices", belief=belief, sizes=sizes, every=60),
            )
    failing = World(pause_s=45.0, node_mtbf_h=20.0, node_repair_h=2.0, checkpoint_s=600.0, start_s=10.0)
    for policy in ("prices", "fifo", "tiresias", "afs", "gandiva"):
        yield f"nodes fail, {policy}", partial(simulated, random_workload(3), policy, world=failing)
    yield (
        "nodes fail, rules, online",
        partial(simulated, mixed_workload(3), with_rules(load("prices")), belief="online", world=failing, every=80),
    )
    sleepy = build_cluster(
        [NodeGroup("A100", 8, 4, idle_w=300.0, can_sleep=True, sleep_w=20.0, wake_s=90.0)], source="sleepy"
    )
    for price in (0.0, 3e-4):
        yield (
            f"nodes sleep, λ={price}",
            partial(simulated, replace(random_workload(4), cluster=sleepy), "prices", price=price),
        )
    yield (
        "two GPU types",
        partial(simulated, random_workload(5, "4x4:A100+6x4:V100"), "prices", every=50, world=failing),
    )
    yield (
        "two GPU types, rules, limits",
        partial(simulated, random_workload(5, "4x4:A100+6x4:V100"), with_rules(load("prices")), terms=TERMS),
    )
    for policy in ("prices", "fifo", "srtf"):
        yield (
            f"rules, projects, {policy}",
            partial(simulated, mixed_workload(6), with_rules(load(policy)), every=60),
        )
    yield (
        "rules, energy limits, projects enter",
        partial(
            simulated,
            mixed_workload(7),
            with_rules(load("prices")),
            terms={**TERMS, 12_000.0: ManagedProjects(False, {"project-1": True}), 25_000.0: ManagedProjects()},
            every=60,
        ),
    )
    cap = PowerCap(watts=4000.0, start_s=8_000.0, end_s=30_000.0)
    for policy in ("prices", "afs"):
        yield f"power cap, {policy}", partial(simulated, random_workload(8), policy, caps=((4e3, cap),))
    yield (
        "power cap, rules, online",
        partial(
            simulated, mixed_workload(8), with_rules(load("prices")), belief="online", caps=((4e3, cap),), world=failing
        ),
    )
    for trace, cluster, policy in (
        ("itp/cluster01.csv", "16x8:A100", "prices"),
        ("itp/cluster01.csv", "8x8:A100", "fifo"),
        ("itp/cluster01.csv", "8x8:A100", "srtf"),
        ("pollux/workload-1.csv", "16x4:T4", "prices"),
    ):
        if (TRACES / trace).exists():
            yield (
                f"{trace}, {policy}",
                partial(simulated, build_workload(read_trace(TRACES / trace), cluster), policy, price=0.0),
            )


def commands(log: Path) -> Iterator[tuple[str, Case]]:
    """Commands with `--json`, on a log of one day written to ``log``."""
    rng = np.random.default_rng(9)
    rows = ["JobID|User|Account|State|Submit|Start|End|AllocTRES"]
    for i, at_s in enumerate(np.sort(rng.uniform(0, 7 * 86400, 150)).astype(int).tolist()):
        run_s = int(rng.lognormal(8.0, 1.5))
        times = "|".join(
            str(np.datetime64("2024-03-04T00:00:00") + np.timedelta64(s, "s")) for s in (at_s, at_s, at_s + run_s)
        )
        gpus = rng.choice([1, 1, 2, 4])
        rows.append(f"{i}|u{i % 7}|p{i % 3}|COMPLETED|{times}|billing=1,gres/gpu={gpus}")
    log.write_text("\n".join(rows) + "\n")
    calls = {
        "simulate": ["simulate", str(log), "--cluster", "6x4:A100", "--load", "1.1", "--mtbf", "200"],
        "simulate at energy": ["simulate", str(log), "--cluster", "6x4:A100", "--energy", "90%"],
        "compare": [
            "compare",
            str(log),
            "--cluster",
            "4x4:A100",
            "--seeds",
            "1",
            "--processes",
            "1",
            "--levels",
            "80%",
            "--policies",
            "prices,fifo,greedy,srtf",
        ],
        "compare, online, unknown": [
            *("compare", str(log), "--cluster", "4x4:A100", "--policies", "prices,tiresias"),
            *("--seeds", "1", "--processes", "1", "--belief", "online", "--sizes", "unknown", "--levels", "90%"),
        ],
        "replay": ["replay", str(log), "--cluster", "8x4:A100", "--processes", "1", "--tz", "UTC", "--unvalidated"],
    }
    for name, words in calls.items():
        yield name, partial(_said, [*words, "--json", "--quiet"])


def _said(words: list[str]) -> bytes:
    done = subprocess.run([sys.executable, "-m", "powerflow", *words], capture_output=True, check=False)
    return done.stdout or done.stderr


def digests(only: str, log: Path) -> None:
    """Print the digest of each case, with the code that this process imports."""
    for name, case in (*simulations(), *commands(log)):
        if only in name:
            print(f"{hashlib.sha256(case()).hexdigest()[:16]} {name}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("other", type=Path, help="another checkout")
    parser.add_argument("--only", default="", help="only cases whose names contain this word")
    parser.add_argument("--digests", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.digests:
        digests(arguments.only, arguments.digests)
        return
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for checkout in (HERE, arguments.other.resolve()):
            environment = {**os.environ, "PYTHONPATH": f"{checkout / 'src'}{os.pathsep}{HERE}"}
            words = [sys.executable, __file__, str(checkout), "--only", arguments.only]
            words += ["--digests", str(Path(folder) / "log.txt")]
            runs.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True, cwd=folder))
        mine, other = (run.communicate()[0].splitlines() for run in runs)
    different = [line for line in mine if line not in other]
    print("\n".join(f"{'DIFFERENT' if line in different else 'same':<10} {line[17:]}" for line in mine))
    sys.exit(bool(different) or len(mine) != len(other) or not mine)


if __name__ == "__main__":
    main()
