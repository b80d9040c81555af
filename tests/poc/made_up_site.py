"""A made-up site: its log does not name models, but its true models and energy are known here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from powerflow.cost.catalogue import gpu_type
from powerflow.simulate.comparison import Estimate
from powerflow.simulate.experiment import Believed
from powerflow.simulate.poc.equal import energy_at_equal_time, time_at_equal_energy
from powerflow.simulate.poc.matching import MeasuredRun
from powerflow.simulate.poc.poc import Poc, curve_of, poc
from powerflow.simulate.replay.draws import DrawOutcome, Draws, Way, added_w
from powerflow.simulate.replay.queue import start_times
from powerflow.simulate.replay.windows import LogWindow
from powerflow.simulate.workload.workload import Workload
from powerflow.trace.record import Trace, TraceJob
from powerflow.watch.ledger import WatchLedger
from powerflow.watch.owners import WatchedJob
from powerflow.watch.use import JobUse
from powerflow.watch.watcher import SettledUse

CLUSTER = "2x8:A100"
BELIEVED = Believed("oracle", "known")
EPOCH_S = 1_790_000_000.0
WAYS = [Way(price, rigid) for rigid in (True, False) for price in (0.0, 0.25, 1.0, 4.0, 16.0)]
IDLE_W = gpu_type("A100").idle_w


def site_trace(jobs: int = 40, days: float = 8.0, seed: int = 3) -> Trace:
    """Return the log of a site that runs EASY backfilling on 16 GPUs, mostly busy."""
    rng = np.random.default_rng(seed)
    submit_s = np.sort(rng.uniform(0, days * 86400, jobs))
    submit_s[[0, -1]] = 0, days * 86400
    gpus = 2 ** rng.integers(0, 4, jobs)
    run_s = rng.lognormal(10.0, 0.7, jobs) * (16 * days * 86400 / jobs) / (np.exp(10.25) * gpus.mean()) * 0.9
    start_s = start_times(submit_s, run_s, gpus.astype(np.int64), 16, "easy")
    users = ["ada", "bob", "eve", "kim"]
    made = []
    for i in range(jobs):
        user = users[int(rng.integers(4))]
        made.append(
            TraceJob(
                str(100 + i),
                EPOCH_S + float(submit_s[i]),
                float(run_s[i]),
                int(gpus[i]),
                wait_s=float(start_s[i] - submit_s[i]),
                project="lab",
                account="lab",
                user=user,
                name=f"{user}-{int(gpus[i])}",
                qos="high" if user == "eve" and gpus[i] <= 2 else "normal",
            )
        )
    return Trace("a made-up site", "made in a test", tuple(made))


@dataclass(frozen=True)
class Truth:
    """What is true at the site, and nobody knows but the test."""

    trace: Trace
    draws: Draws
    workload: Workload

    def measured(self, every: float = 1.0, factor: float = 1.0) -> list[MeasuredRun]:
        """Return the measured runs of the first jobs of the log, up to a share of all jobs."""
        added = added_w(self.workload)
        runs = []
        for i, job in enumerate(self.trace.jobs[: round(every * len(self.trace.jobs))]):
            joules = (float(added[i]) + IDLE_W * job.gpus) * job.duration_s * factor
            start_s = job.submit_s + (job.wait_s or 0.0) + 0.5
            runs.append(MeasuredRun(job.id, start_s, job.duration_s * job.gpus, joules, 0.995 * joules, 1.005 * joules))
        return runs

    def outcome(self, ways: list[Way]) -> DrawOutcome:
        """Return what the site and PowerFlow would truly do, for some ways to run PowerFlow."""
        return replace(self.draws, ways=ways)(0)


def truth_of(trace: Trace, seed: int) -> Truth:
    """Return a site with this log, whose models and true costs are drawn by a seed; a name is always one model."""
    rng = np.random.default_rng(seed)
    models = {name: str(rng.choice(_MODELS)) for name in sorted({job.user for job in trace.jobs})}
    jobs = tuple(replace(job, model=models[job.user]) for job in trace.jobs)
    window = LogWindow(replace(trace, jobs=jobs), np.arange(len(jobs)), 0, 0.0, 0.0)
    draws = Draws([window], CLUSTER, [Way(0.0)], "easy", BELIEVED, 1000 + seed)
    return Truth(trace, draws, draws.workload(0))


_MODELS = ("cifar10", "imagenet", "bert", "deepspeech2", "resnet101", "gpt2", "alexnet")


@dataclass(frozen=True)
class Claims:
    """What was claimed of a site, beside its truth.

    Attributes:
        answer: The claims.
        added_j: What the jobs truly drew above idle, joules.
        held: For each claim, whether its interval holds the truth: energy and time, of each scenario.
    """

    answer: Poc
    added_j: float
    held: list[bool]


def claims(trace: Trace, seed: int, measured: float, draws: int = 4) -> Claims:
    """Answer for a site that a seed makes up, of which a share of the jobs has measured joules."""
    truth = truth_of(trace, seed)
    runs = truth.measured(measured)
    found = poc(trace, CLUSTER, runs, believed=BELIEVED, draws=draws, processes=1, seed=seed)
    outcome = truth.outcome(WAYS)
    held = []
    for scenario in found.scenarios:
        _, curve = curve_of(scenario.rigid, WAYS, [outcome, outcome], [1.0, 1.0])
        energy = energy_at_equal_time(curve, relative_error=0.0, time_error=0.0).share.mean
        time = time_at_equal_energy(curve, time_error=0.0).share.mean
        held += [
            _within(energy * outcome.site.added_j, scenario.energy_j),
            _within(time, scenario.completion_share),
        ]
    return Claims(found, outcome.site.added_j, held)


def _within(value: float, estimate: Estimate) -> bool:
    return estimate.low <= value <= estimate.high


def write_log(trace: Trace, path: Path) -> None:
    """Write a log as ``sacct -P`` does, in UTC to the second."""
    nodes = any(job.nodes for job in trace.jobs)
    lines = ["JobID|JobName|User|Account|Partition|QOS|Submit|Start|ElapsedRaw|State|AllocTRES" + "|NodeList" * nodes]
    for job in trace.jobs:
        begins = (job.submit_s, job.submit_s + (job.wait_s or 0.0))
        submit, start = (datetime.fromtimestamp(round(when), UTC).strftime("%Y-%m-%dT%H:%M:%S") for when in begins)
        owner = "|".join((job.name, job.user, job.account, job.partition, job.qos))
        lines.append(f"{job.id}|{owner}|{submit}|{start}|{round(job.duration_s)}|COMPLETED|gres/gpu={job.gpus}")
        lines[-1] += f"|{job.nodes}" * nodes
    path.write_text("\n".join(lines) + "\n")


def write_watch(runs: Sequence[MeasuredRun], path: Path, *, emulated: bool = False) -> None:
    """Write measured runs as `powerflow watch` keeps them."""
    ledger = WatchLedger(path)
    settled = SettledUse()
    for run in runs:
        key = f"slurm:{run.id}@{int(run.start_s)}"
        use = JobUse(run.energy_j, run.low_j, run.high_j, run.gpu_s, from_s=run.start_s)
        settled.jobs[key] = (WatchedJob(key, run.id, run.start_s, run.start_s + 1e4), use)
    ledger.save(settled, {}, {"emulated": emulated})
    ledger.close()
