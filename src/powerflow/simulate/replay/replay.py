"""Estimate what PowerFlow would have saved on the job log of a site (a cluster without PowerFlow).

1. Find a simple model of the site's scheduler that reproduces the log (`powerflow.simulate.replay.log`). If no model
   reproduces the log, no savings are reported.
2. Simulate PowerFlow on the same jobs (`powerflow.simulate.replay.draws`). The log does not say which models the jobs
   trained, or what these models cost. These facts are chosen at random, several times. Each such choice is called a
   draw. The confidence intervals are over the draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from powerflow.arrays import FloatArray
from powerflow.cluster.spec import ClusterSpec, parse_cluster
from powerflow.cost.catalogue import gpu_type
from powerflow.cost.costs_file import Costs
from powerflow.errors import InputError
from powerflow.simulate.experiment import Believed
from powerflow.simulate.parallel import usable_cores, workers
from powerflow.simulate.replay.draws import DrawOutcome, Draws, idle_w
from powerflow.simulate.replay.log import MOST_ERROR, Log, Reproduction, log_of, reproductions
from powerflow.simulate.replay.misses import misses
from powerflow.simulate.replay.queue import NAMES, start_times
from powerflow.simulate.replay.savings import WAYS, Savings, savings
from powerflow.simulate.replay.windows import windows
from powerflow.trace.record import Trace
from powerflow.units import DAY_S

DRAWS = 8
#: Jobs in each draw (random choice of what a log does not say). With this number, the replay of a log of 100,000 jobs
#: takes less than a minute on two cores.
JOBS_PER_DRAW = 1_000
#: Assumed discipline of a site whose log does not say when jobs started.
ASSUMED = "easy"


@dataclass(frozen=True, slots=True)
class Replay:
    """The result of a replay: how well the log of a site is reproduced, and what PowerFlow would have saved.

    A discipline is a rule by which the site's queue starts jobs, such as ``fifo``.

    Attributes:
        title: The log and the cluster, in words.
        reproductions: Comparison of each discipline with the log, the best discipline first; empty if the log has no
            start times.
        discipline: The discipline that the site is assumed to use.
        refusal: The reason why no savings are reported; None if savings are reported.
        misses: What makes the best discipline differ from the log, in sentences; none if it reproduces the log.
        savings: What PowerFlow would have saved; None if no savings were estimated. If ``refusal`` is not None, these
            savings are not validated.
        facts: How the replay was computed: label → words.
    """

    title: str
    reproductions: Sequence[Reproduction]
    discipline: str
    refusal: str | None
    savings: Savings | None
    facts: Mapping[str, str]
    misses: Sequence[str] = ()


def replay(
    trace: Trace,
    cluster: str,
    *,
    unvalidated: bool = False,
    believed: Believed,
    costs: Costs | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    jobs_per_draw: int = JOBS_PER_DRAW,
    processes: int | None = None,
    progress: Callable[[float, str], None] = lambda share, note: None,
) -> Replay:
    """Compare the log of a site with simple models of its scheduler, and estimate what PowerFlow would have saved.

    Savings are estimated only if one of these models reproduces the log, or with ``unvalidated``.

    Args:
        trace: The log.
        cluster: The site's cluster, as `parse_cluster` reads it, with one GPU type.
        unvalidated: True to estimate savings even if no model reproduces the log.
        believed: What PowerFlow knows of costs and sizes of jobs.
        costs: Measured costs of models that the log names; None to use only the costs in the catalogue.
        seed: Seed of everything random.
        draws: Number of random draws of what the log does not say (models and their costs), at least 2.
        jobs_per_draw: Number of jobs in each random draw.
        processes: Number of processes; None for one per core. The result does not depend on it.
        progress: Function that is called with the share of all work that is done, and a note about the current work.

    Raises:
        InputError: The log or the cluster cannot be used.
    """
    progress(0.05, "reproducing the log")
    site = reproduce(trace, cluster)
    if site.refusal is not None and not unvalidated:
        return Replay(site.title, site.reproductions, site.discipline, site.refusal, None, site.facts, site.misses)
    progress(0.1, "drawing models")
    stretches = windows(trace, site.log, site.start_s, draws=draws, most_jobs=jobs_per_draw, seed=seed)
    ask = Draws(stretches, cluster, [way for _, way in WAYS], site.discipline, believed, seed, costs)
    facts = {**site.facts, **draw_facts(ask, site.log, believed)}
    outcomes = simulate_draws(ask, processes, lambda share, note: progress(0.1 + 0.9 * share, note))
    saved = savings(
        outcomes,
        log_gpu_s=site.log.gpu_s,
        idle_j=site.idle_j,
        site_completion_s=site.completion_s,
    )
    return Replay(site.title, site.reproductions, site.discipline, site.refusal, saved, facts, site.misses)


@dataclass(frozen=True, slots=True, eq=False)
class Reproduced:
    """How well a log is reproduced, before anything is said about PowerFlow.

    Attributes:
        spec: The site's cluster.
        log: The log as arrays.
        title, reproductions, discipline, refusal, facts, misses: As in `Replay`.
        start_s: ``[J]`` time at which each job started, as reproduced, seconds since the first submission.
    """

    spec: ClusterSpec
    log: Log
    title: str
    reproductions: Sequence[Reproduction]
    discipline: str
    refusal: str | None
    facts: Mapping[str, str]
    misses: Sequence[str]
    start_s: FloatArray

    @property
    def idle_j(self) -> float:
        """Joules that the empty cluster would use from the first submission to the last."""
        return idle_w(self.spec) * self.log.span_s

    @property
    def completion_s(self) -> float:
        """Mean completion time, as reproduced, seconds."""
        return float((self.start_s + self.log.run_s - self.log.submit_s).mean())


def reproduce(trace: Trace, cluster: str) -> Reproduced:
    """Find the discipline (rule by which a queue starts jobs) that reproduces a log best, and compare it with the log.

    Raises:
        InputError: The log or the cluster cannot be used.
    """
    spec = _of_one_type(cluster)
    log = log_of(trace, spec.gpus)
    found = reproductions(log, spec.gpus)
    discipline = found[0].discipline if found else ASSUMED
    return Reproduced(
        spec,
        log,
        f"{len(trace.jobs):,} jobs of {trace.source} on {cluster}",
        found,
        discipline,
        _refusal(found),
        _facts(trace, log, spec, discipline, found),
        misses(log, spec.gpus, found[0]) if found else [],
        start_times(log.submit_s, log.run_s, log.gpus, spec.gpus, discipline, log.limit_s),
    )


def simulate_draws(ask: Draws, processes: int | None, progress: Callable[[float, str], None]) -> list[DrawOutcome]:
    """Simulate all draws (random choices of what a log does not say), in several processes.

    Args:
        ask: Simulates one draw.
        processes: Number of processes; None for one per core. The result does not depend on it.
        progress: Function that is called with the share of the work that is done, and a note.
    """
    draws, came = len(ask.windows), 0

    def told(_: int) -> None:
        nonlocal came
        came += 1
        progress(came / draws, f"{came} of {draws} draws")

    with workers(ask, min(processes or usable_cores(), draws)) as ask_all:
        outcomes: list[DrawOutcome] = ask_all(range(draws), told)
    return outcomes


def _of_one_type(cluster: str) -> ClusterSpec:
    spec = parse_cluster(cluster)
    types = {gpu_type(node.gpu_type).name for node in spec.nodes}
    if len(types) > 1:
        raise InputError(
            f"the cluster has GPUs of {len(types)} types and the log does not say which job had which",
            where="--cluster",
            fix="replay one partition at a time",
        )
    return spec


def _refusal(found: Sequence[Reproduction]) -> str | None:
    if not found:
        return "the log does not say when jobs started, so no queueing rule can be compared with the log"
    best = found[0]
    if best.whole.error <= MOST_ERROR:
        return None
    return (
        f"no policy reproduces the log within {MOST_ERROR:.0%}: the best, {NAMES[best.discipline]}, is off by "
        f"{best.whole.wait_error:.1%} of the mean wait and {best.whole.utilisation_error:.1%} of the utilisation"
    )


def _facts(trace: Trace, log: Log, spec: ClusterSpec, discipline: str, found: Sequence[Reproduction]) -> dict[str, str]:
    known = sum(job.wait_s is not None for job in trace.jobs)
    limited = sum(job.limit_s is not None for job in trace.jobs)
    rule = NAMES[discipline]
    site = f"{rule}, which reproduces the log best of {len(found)}" if found else f"{rule}, assumed"
    return {
        "Log": (
            f"{len(trace.jobs):,} jobs ({trace.format}) submitted over {log.span_s / DAY_S:.1f} days; "
            f"{len(trace.skipped):,} lines gave no job"
            + (f"; of {len(trace.jobs) - known:,} jobs the wait is not known" if known < len(trace.jobs) else "")
            + f"; {limited:,} have a time limit"
        ),
        "Cluster": f"{spec.source} ({spec.gpus:,} GPUs), as one pool that was up all the time",
        "The site's policy": f"{site}; jobs as logged, at the maximum clock, known to the queue beforehand",
        **({"Reading": "; ".join(trace.notes)} if trace.notes else {}),
    }


def draw_facts(ask: Draws, log: Log, believed: Believed) -> dict[str, str]:
    """Return how draws (random choices of what a log does not say) are made: label → words."""
    jobs = [len(window.jobs.jobs) for window in ask.windows]
    carried = [window.carried for window in ask.windows]
    days = [(window.end_s - window.begin_s) / DAY_S for window in ask.windows]
    whole = jobs[0] == len(log.submit_s)
    sampled = (
        "the whole log in each"
        if whole
        else f"in each {jobs[0] - carried[0]:,} consecutive jobs ({min(days):.2g} to {max(days):.2g} days), one "
        f"stretch from each of {len(jobs)} equal parts of the log, and the {min(carried):,} to {max(carried):,} jobs "
        "that then ran or waited"
    )
    workload = ask.workload(0)
    return {
        "Draws": f"{len(jobs)} (seed {ask.seed}): {sampled}; models, their true costs and noise drawn anew in each",
        "Models": workload.facts["Models"].split(" (seed")[0],
        "Costs": workload.facts["Costs"].split(" (seed")[0],
        **{("PowerFlow believes" if k == "Schedulers believe" else k): v for k, v in believed.facts().items()},
        "Elasticity": "every job may run on 1 GPU up to what its model scales to, unless said otherwise",
        "Intervals": (
            "95 %: Student's t on jackknife pseudo-values of the draws; they hold the sampling of the log, models, "
            "costs and noise, and neither the error of the reproduction nor what the simulator leaves out "
            "(docs/simulator.md)"
        ),
        "Site's energy": "modelled too: nobody logged it; idle draw counted over the whole log",
    }
