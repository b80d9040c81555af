"""Say what PowerFlow would change at a site, from its job log and the measured energy of its jobs.

1. Match the jobs of the log with the measured ones (`powerflow.simulate.poc.matching`).
2. Reproduce the log (`powerflow.simulate.replay`), choose models of jobs by their measured power
   (`powerflow.simulate.poc.families`), and correct the modelled energy by the measured one
   (`powerflow.simulate.poc.scale`).
3. Simulate PowerFlow at several prices of energy, and find what is saved at equal completion time and at equal energy
   (`powerflow.simulate.poc.equal`), and for whom completion times change (`powerflow.simulate.poc.groups`).

Where the data do not carry an answer, there is none, and it is said what to measure (`Refusal`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from powerflow.cluster.spec import parse_cluster
from powerflow.cost.catalogue import gpu_type
from powerflow.errors import InputError
from powerflow.simulate.comparison import Estimate
from powerflow.simulate.experiment import Believed
from powerflow.simulate.frontier import DEAREST
from powerflow.simulate.poc import groups
from powerflow.simulate.poc.equal import AtEqual, SavingCurve, energy_at_equal_time, time_at_equal_energy
from powerflow.simulate.poc.families import FamilyChooser
from powerflow.simulate.poc.matching import JobMatching, MeasuredRun, match
from powerflow.simulate.poc.scale import EnergyCheck, energy_check
from powerflow.simulate.replay.draws import DrawOutcome, Draws, ProtectedJobs, Way
from powerflow.simulate.replay.log import MOST_ERROR
from powerflow.simulate.replay.replay import DRAWS, JOBS_PER_DRAW, Reproduced, draw_facts, reproduce, simulate_draws
from powerflow.simulate.replay.savings import times
from powerflow.simulate.replay.windows import LogWindow, windows
from powerflow.trace.record import Trace
from powerflow.units import DAY_S

#: Fewest days of log, and least share of its GPU-hours with measured joules, for an answer.
LEAST_DAYS, LEAST_SHARE = 7.0, 0.5
#: Largest factor between measured and modelled energy, in either direction, for an answer.
MOST_FACTOR = 2.0
#: Exit code where the data do not carry an answer.
REFUSED = 4
#: First prices of energy, in units of the natural price; dearer ones are added while jobs end earlier than at the site.
#: Where GPU counts may change they nearly always do at 1, and a later simulation would have to fit all models again.
_PRICES_RIGID, _PRICES_ELASTIC = (0.0, 0.25, 1.0), (0.0, 0.25, 1.0, 4.0)
_DEARER = 4.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason why the data do not carry an answer.

    Attributes:
        reason: ``days``, ``measured``, ``starts``, ``reproduced`` or ``factor``.
        value: What was found: days, a share, an error as a share, or a factor.
    """

    reason: str
    value: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """What PowerFlow would change if GPU counts of jobs are kept, or if they may change.

    Attributes:
        rigid: True if jobs keep the GPUs that they asked for.
        energy_j, energy_share: Saved joules over the log at the site's mean completion time, and as a share of the
            energy that jobs add to the idle draw.
        energy_reached: False if jobs would still end earlier than at the site, so that at least this is saved.
        completion_s, completion_share: Saved seconds of each job on average at the site's energy, and as a share.
        completion_reached: False if less energy than at the site would still be used.
        price_share: The price of energy, in units of the natural price, for which ``changes`` and ``important`` were
            simulated: the highest simulated one at which jobs end no later than at the site on average. None if there
            is none.
        changes: Users, the one whose jobs would end latest first.
        important: The jobs that the site calls important; None if it did not say, or too few were simulated.
        important_later: Share of these that would end later by more than a minute and 1 %; nan if not known.
        important_delay: As ``important``, but against the time that these jobs take alone, without waiting.
        important_delayed: Share of these that would take longer than that by more than a minute and 1 %; nan if not
            known. PowerFlow protects these jobs in the simulation, so each of them is one whose promise was broken.
    """

    rigid: bool
    energy_j: Estimate
    energy_share: Estimate
    energy_reached: bool
    completion_s: Estimate
    completion_share: Estimate
    completion_reached: bool
    price_share: float | None
    changes: Sequence[groups.GroupChange]
    important: groups.GroupChange | None
    important_later: float
    important_delay: groups.GroupChange | None
    important_delayed: float


@dataclass(frozen=True, slots=True, eq=False)
class Poc:
    """The answer for a site.

    Attributes:
        title: The log and the cluster, in words.
        jobs: Number of jobs of the log.
        days: Days from the first submission to the last.
        matching: Which jobs have measured joules.
        site: How well the log is reproduced.
        refusals: Why the data do not carry an answer; empty if they do.
        energy: Measured beside modelled energy; None if nothing was simulated, or nothing was measured.
        site_j: Joules of the cluster over the log without PowerFlow, as modelled and corrected; nan if not simulated.
        scenarios: With GPUs as asked, and with GPU counts that may change; empty if nothing was simulated.
        high: Conditions that make a job important, as given.
        facts: How it was computed: label → words.
    """

    title: str
    jobs: int
    days: float
    matching: JobMatching
    site: Reproduced
    refusals: Sequence[Refusal]
    energy: EnergyCheck | None
    site_j: float
    scenarios: Sequence[Scenario]
    high: Sequence[str]
    facts: Mapping[str, str]


def poc(
    trace: Trace,
    cluster: str,
    measured: Iterable[MeasuredRun],
    *,
    high: Sequence[str] = (),
    unvalidated: bool = False,
    believed: Believed,
    seed: int = 0,
    draws: int = DRAWS,
    jobs_per_draw: int = JOBS_PER_DRAW,
    processes: int | None = None,
    progress: Callable[[float, str], None] = lambda share, note: None,
) -> Poc:
    """Compute what PowerFlow would change at a site.

    Args:
        trace: The log; its times are Unix seconds.
        cluster: The site's cluster, as `parse_cluster` reads it, with one GPU type.
        measured: Runs of jobs with their measured energy.
        high: Conditions that make a job important, such as ``qos=high``. PowerFlow protects these jobs.
        unvalidated: True to simulate even if the data do not carry an answer.
        believed, seed, draws, jobs_per_draw, processes, progress: As for `powerflow.simulate.replay.replay`.

    Raises:
        InputError: The log, the cluster or a condition cannot be used, or the cluster has several GPU types (exit code
            `REFUSED`).
    """
    _one_type(cluster)
    wanted = groups.important(trace, high)
    progress(0.05, "reproducing the log")
    site = reproduce(trace, cluster)
    matching = match(trace, measured)
    days = site.log.span_s / DAY_S
    refusals = _refusals(site, matching, days)
    nothing = Poc(
        site.title, len(trace.jobs), days, matching, site, refusals, None, float("nan"), (), high, {**site.facts}
    )
    if (refusals and not unvalidated) or matching.jobs == 0:
        return nothing
    stretches = windows(trace, site.log, site.start_s, draws=draws, most_jobs=jobs_per_draw, seed=seed)
    card = next(iter(site.spec.pools()))
    chooser = FamilyChooser(trace, matching.power_w, card, max(node.gpus for node in site.spec.nodes))
    placed = [_with_models(window, chooser, [seed, draw]) for draw, window in enumerate(stretches)]
    ways = [*(Way(price, rigid=True) for price in _PRICES_RIGID), *map(Way, _PRICES_ELASTIC)]
    ask = Draws(placed, cluster, ways, site.discipline, believed, seed, protected=_protected(wanted))
    outcomes = simulate_draws(ask, processes, lambda share, note: progress(0.1 + 0.6 * share, note))
    outcomes, ways = _extended(ask, outcomes, processes, progress)
    check = energy_check(trace, matching, placed, outcomes, gpu_type(card).idle_w)
    if not 1 / MOST_FACTOR <= float(check.factors.mean()) <= MOST_FACTOR:
        refusals = [*refusals, Refusal("factor", float(check.factors.mean()))]
        if not unvalidated:
            return replace(nothing, refusals=refusals, energy=check)
    added_j = _added_j(outcomes, check, site)
    scenarios = [
        _scenario(rigid, trace, ways, outcomes, placed, check, site, added_j, wanted) for rigid in (True, False)
    ]
    return replace(
        nothing,
        refusals=refusals,
        energy=check,
        site_j=site.idle_j + added_j,
        scenarios=scenarios,
        facts={**site.facts, **draw_facts(ask, site.log, believed)},
    )


def _protected(positions: Sequence[int]) -> ProtectedJobs:
    """Return jobs with the protection that ``priority: protected`` gives on a live cluster."""
    if not positions:
        return ProtectedJobs()
    from powerflow.api.job_spec import WEIGHTS

    return ProtectedJobs(frozenset(positions), WEIGHTS["protected"])


def _one_type(cluster: str) -> None:
    types = sorted({gpu_type(node.gpu_type).name for node in parse_cluster(cluster).nodes})
    if len(types) > 1:
        raise InputError(
            f"the cluster has GPUs of {len(types)} types ({', '.join(types)}), and the log does not say which job had "
            "which",
            where="--cluster",
            fix=f"take one partition at a time: its own log and cluster, {LEAST_DAYS:.0f} days watched for each",
            exit_code=REFUSED,
        )


def _refusals(site: Reproduced, matching: JobMatching, days: float) -> list[Refusal]:
    found = []
    if days < LEAST_DAYS:
        found.append(Refusal("days", days))
    if matching.share < LEAST_SHARE:
        found.append(Refusal("measured", matching.share))
    if not site.reproductions:
        found.append(Refusal("starts", 0.0))
    elif site.refusal is not None:
        found.append(Refusal("reproduced", site.reproductions[0].whole.error))
    return found


def _with_models(window: LogWindow, chooser: FamilyChooser, seed: Sequence[int]) -> LogWindow:
    jobs = chooser.chosen(window.jobs.jobs, window.positions.tolist(), seed)
    return replace(window, jobs=replace(window.jobs, jobs=tuple(jobs)))


def _extended(
    ask: Draws,
    outcomes: Sequence[DrawOutcome],
    processes: int | None,
    progress: Callable[[float, str], None],
) -> tuple[list[DrawOutcome], list[Way]]:
    """Add dearer ways, until completion times are as at the site, or the price is the highest one that is tried.

    Returns:
        The outcomes with all ways, and the ways.
    """
    ways, found = list(ask.ways), list(outcomes)
    while True:
        more = []
        for rigid in (True, False):
            last = max((way for way in ways if way.rigid == rigid), key=lambda way: way.price_share)
            at = ways.index(last)
            slower = sum(float(draw.ours[at].completion_s) - draw.site.completion_s for draw in found) > 0
            if not slower and last.price_share * _DEARER <= DEAREST:
                more.append(Way(last.price_share * _DEARER, rigid))
        if not more:
            return found, ways
        added = simulate_draws(
            replace(ask, ways=more),
            processes,
            lambda share, note: progress(0.7 + 0.29 * share, f"dearer energy, {note}"),
        )
        found = [replace(one, ours=[*one.ours, *two.ours]) for one, two in zip(found, added, strict=True)]
        ways += more


def _added_j(outcomes: Sequence[DrawOutcome], check: EnergyCheck, site: Reproduced) -> float:
    """Return the joules that all jobs of the log add to the idle draw, corrected by the measured energy."""
    added_j = np.array([draw.site.added_j for draw in outcomes]) * check.factors
    gpu_s = sum(draw.site.gpu_s for draw in outcomes)
    return float(added_j.sum() / gpu_s) * site.log.gpu_s


def curve_of(
    rigid: bool, ways: Sequence[Way], outcomes: Sequence[DrawOutcome], factors: Sequence[float]
) -> tuple[list[int], SavingCurve]:
    """Return the positions of the ways of one scenario by price, and their sums over each draw.

    Args:
        rigid: Whether jobs keep their GPUs.
        ways: All ways.
        outcomes: Results of the draws, with all ways.
        factors: Measured ÷ modelled energy of each draw.
    """
    order = sorted((i for i, way in enumerate(ways) if way.rigid == rigid), key=lambda i: ways[i].price_share)
    scale = np.array(factors)
    ours = [[draw.ours[i] for i in order] for draw in outcomes]
    return order, SavingCurve(
        np.array([draw.site.added_j for draw in outcomes]) * scale,
        np.array([[one.added_j for one in row] for row in ours]) * scale[:, None],
        np.array([draw.site.completion_s for draw in outcomes]),
        np.array([[one.completion_s for one in row] for row in ours]),
    )


def _scenario(
    rigid: bool,
    trace: Trace,
    ways: Sequence[Way],
    outcomes: Sequence[DrawOutcome],
    placed: Sequence[LogWindow],
    check: EnergyCheck,
    site: Reproduced,
    added_j: float,
    wanted: Sequence[int],
) -> Scenario:
    order, curve = curve_of(rigid, ways, outcomes, check.factors.tolist())
    error = _time_error(site)
    energy: AtEqual = energy_at_equal_time(curve, relative_error=check.relative_error, time_error=error)
    time: AtEqual = time_at_equal_energy(curve, time_error=error)
    as_fast = [i for i, saved in zip(order, curve.saved[1], strict=True) if saved >= 0]
    moved, delayed = [], []
    if as_fast:
        for window, draw in zip(placed, outcomes, strict=True):
            alone_s, ours_s = np.array([job.duration_s for job in window.jobs.jobs]), draw.ours[as_fast[-1]].jct_s
            moved.append(groups.Times(window.positions, draw.site.jct_s, ours_s))
            delayed.append(groups.Times(window.positions, alone_s, ours_s))
    return Scenario(
        rigid,
        times(energy.share, added_j),
        energy.share,
        energy.reached,
        times(time.share, site.completion_s),
        time.share,
        time.reached,
        ways[as_fast[-1]].price_share if as_fast else None,
        groups.changes(trace, moved),
        groups.change_of("", wanted, moved) if wanted else None,
        groups.share_later(wanted, moved),
        groups.change_of("", wanted, delayed) if wanted else None,
        groups.share_later(wanted, delayed),
    )


def _time_error(site: Reproduced) -> float:
    """Return the error of the reproduced mean completion time, as a share of it."""
    if not site.reproductions:
        return MOST_ERROR
    whole = site.reproductions[0].whole
    return abs(whole.wait_s - whole.wait_logged_s) / site.completion_s
