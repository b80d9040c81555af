"""Compare policies on the same jobs at equal metered energy: simulate them, and read their frontiers at each level."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields

from powerflow.errors import InputError
from powerflow.policy import registry
from powerflow.simulate.bound.bound import Bound, joined
from powerflow.simulate.comparison import (
    OURS,
    REFERENCE,
    Comparison,
    EqualEnergyRow,
    Estimate,
    Frontier,
    FrontierPoint,
    Metrics,
)
from powerflow.simulate.experiment import Believed, BoundOf, Experiment, ExperimentRun, RunOf
from powerflow.simulate.frontier import (
    Setting,
    Sweep,
    at_energy,
    finer_settings,
    first_settings,
    hull,
    natural_price,
)
from powerflow.simulate.metrics import estimate
from powerflow.simulate.parallel import AskAll, usable_cores, workers
from powerflow.simulate.result import SimulationResult
from powerflow.simulate.workload.workload import Workload

#: The energy level that plots over time show.
SHOWN_LEVEL = 0.8
LEVELS = (1.0, 0.9, 0.8, 0.7)

#: Called as ``progress(share, note)``: the share of all work that is done, 0 to 1, and what was done last.
Progress = Callable[[float, str], None]


def compare(
    workload_of: Callable[[int], Workload],
    policies: Sequence[str],
    seeds: Sequence[int],
    *,
    levels: Sequence[float] = LEVELS,
    believed: Believed | None = None,
    sweep: Sweep | None = None,
    bound_seeds: int = 1,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare policies on the same jobs at equal metered energy.

    The reference is FIFO at maximum clock; it is always simulated. For each seed, the idle draw of the cluster counts
    until the last job of the reference ends, under every policy. After this time only the energy that jobs add above
    idle draw counts, because other jobs would share the cluster by then. So the results of a policy depend neither on
    the other policies nor on one long last job. They are read from the policy's frontier on the same seed, at each
    level (`powerflow.simulate.frontier.at_energy`). Ratios between policies are computed for each seed, then averaged.

    Args:
        workload_of: Function that returns the workload of a seed. It must be picklable (a function of a module, or a
            `functools.partial`).
        policies: Names with options, as `powerflow.policy.registry.load` reads them.
        seeds: Seeds of the workloads; at least one, all different.
        levels: Energy levels, as shares (> 0) of the energy that FIFO uses at maximum clock.
        believed: What schedulers know; with None they know the truth.
        sweep: Which values of each policy's energy setting are simulated.
        bound_seeds: Number of seeds for which the lower bound is computed.
        processes: Number of processes; None for one per core. The result does not depend on it.
        progress: Function that is called with the share of all work that is done, and a note about the current work.

    Raises:
        InputError: No seed or no policy is given, a policy is unknown, a level is impossible, or a simulation has an
            error.
    """
    believed = believed or Believed()
    policies = list(dict.fromkeys(policies))
    _check(policies, seeds, levels, processes, believed)
    swept = policies if REFERENCE in policies else [*policies, REFERENCE]
    experiment = Experiment(workload_of, believed)
    workloads = [experiment.workload(seed) for seed in seeds]
    experiment.belief(seeds[0])  # so that a wrong name is an error at once
    study = _Study(experiment, swept, list(seeds), list(levels), sweep or Sweep(), progress or _silent)
    with workers(experiment, processes or usable_cores()) as ask_all:
        study.run(ask_all, bound_seeds)
        showcase = study.showcase(ask_all, policies)
    study.say(1.0, "")
    return Comparison(
        title=_title(workloads),
        facts=_facts(workloads, believed, study),
        levels=tuple(levels),
        horizon_s=_mean(study.horizon_s(seed) for seed in seeds),
        reference_j=_mean(study.reference_j(seed) for seed in seeds),
        frontiers=[Frontier(policy, study.points(policy), study.hulls(policy)) for policy in policies],
        bound=study.bound_curve(),
        rows=[study.row(policy, level) for level in levels for policy in policies],
        showcase=showcase,
    )


class _Study:
    """Runs all simulations of a comparison, and computes the results."""

    def __init__(
        self,
        experiment: Experiment,
        policies: Sequence[str],
        seeds: Sequence[int],
        levels: Sequence[float],
        sweep: Sweep,
        say: Progress,
    ) -> None:
        self.experiment = experiment
        self.policies = policies
        self.seeds = seeds
        self.levels = levels
        self.sweep = sweep
        self.say = say
        self.runs: dict[tuple[str, int], list[ExperimentRun]] = {(p, s): [] for p in policies for s in seeds}
        self.bounds: dict[int, Bound] = {}

    # -- running ------------------------------------------------------------------------------------------------

    def run(self, ask_all: AskAll, bound_seeds: int) -> None:
        """Simulate all policies at a few settings, then at more settings near the levels; compute the lower bound."""
        first = {
            (policy, seed): first_settings(policy, self.experiment.workload(seed), self.sweep)
            for policy in self.policies
            for seed in self.seeds
        }
        with_bound = list(self.seeds[:bound_seeds]) if _bound_holds(self.experiment) else []
        self._ask(ask_all, first, (0.0, 0.6))
        for i in range(self.sweep.rounds):
            finer = {
                (policy, seed): finer_settings(
                    policy,
                    [(run.setting, run.over(self.horizon_s(seed))) for run in self.runs[policy, seed]],
                    [level * self.reference_j(seed) for level in self.levels],
                    self.experiment.workload(seed),
                )
                for policy in self.policies
                for seed in self.seeds
            }
            if not any(finer.values()):
                break
            self._ask(ask_all, finer, (0.6 + 0.25 * i / self.sweep.rounds, 0.6 + 0.25 * (i + 1) / self.sweep.rounds))
        prices = [share * natural_price(self.experiment.workload(self.seeds[0])) for share in self.sweep.bound]
        questions = [BoundOf(seed, price) for seed in with_bound for price in prices]
        told = self._told(len(questions), (0.85, 0.98), lambda i: "lower bound")
        answers: list[Bound] = ask_all(questions, told)
        for k, seed in enumerate(with_bound):
            parts = answers[k * len(prices) : (k + 1) * len(prices)]
            self.bounds[seed] = joined(self.experiment.workload(seed), parts)

    def _ask(
        self, ask_all: AskAll, settings: Mapping[tuple[str, int], Sequence[Setting]], span: tuple[float, float]
    ) -> None:
        """Run settings of all policies: first the first setting of each policy, then the second settings, and so on.

        In this order, the processes compile different kernels at the beginning.
        """
        most = max(map(len, settings.values()))
        questions = [
            (key, RunOf(key[1], chosen[k])) for k in range(most) for key, chosen in settings.items() if k < len(chosen)
        ]
        told = self._told(len(questions), span, lambda i: questions[i][1].setting.policy)
        answers: list[ExperimentRun] = ask_all([question for _, question in questions], told)
        for (key, _), answer in zip(questions, answers, strict=True):
            self.runs[key].append(answer)

    def _told(self, count: int, span: tuple[float, float], note: Callable[[int], str]) -> Callable[[int], None]:
        """Return a callback that counts answers and reports the share of all work that is done.

        ``count`` is the number of answers; ``span`` is the share of all work before the first and after the last
        answer.
        """
        came = 0

        def told(i: int) -> None:
            nonlocal came
            came += 1
            self.say(span[0] + (span[1] - span[0]) * came / count, note(i))

        return told

    def showcase(self, ask_all: AskAll, policies: Sequence[str]) -> dict[str, SimulationResult]:
        """Return two whole simulations of the first seed: `prices` near 80 % of the energy of FIFO, and FIFO.

        FIFO runs at maximum clock. If `prices` is not among the policies, only FIFO is returned.
        """
        seed = self.seeds[0]
        reference = self._reference(seed)
        shown = {}
        if OURS in policies:
            budget_j = SHOWN_LEVEL * self.reference_j(seed)
            horizon_s = self.horizon_s(seed)
            run = min(self.runs[OURS, seed], key=lambda run: abs(run.over(horizon_s).energy_j - budget_j))
            share = run.over(horizon_s).energy_j / self.reference_j(seed)
            shown[f"{OURS} at {share:.0%} of the energy"] = run
        shown[f"{REFERENCE} at maximum clock"] = reference
        questions = [RunOf(seed, run.setting, whole=True) for run in shown.values()]
        answers: list[SimulationResult] = ask_all(questions, lambda i: None)
        return dict(zip(shown, answers, strict=True))

    # -- what follows -------------------------------------------------------------------------------------------

    def horizon_s(self, seed: int) -> float:
        """Return the seconds for which idle draw is counted on a seed: as long as FIFO takes at maximum clock."""
        return self._reference(seed).end_s

    def reference_j(self, seed: int) -> float:
        """Return the joules that the reference (FIFO at maximum clock) uses on a seed."""
        return self._reference(seed).over(self.horizon_s(seed)).energy_j

    def _reference(self, seed: int) -> ExperimentRun:
        return self.runs[REFERENCE, seed][0]

    def points(self, policy: str) -> list[FrontierPoint]:
        """Return all simulated points of a policy, by seed, and for each seed in the order of the runs."""
        return [run.point(self.horizon_s(seed)) for seed in self.seeds for run in self.runs[policy, seed]]

    def hulls(self, policy: str) -> dict[int, list[FrontierPoint]]:
        """Return the frontier of a policy on each seed: seed → points."""
        points = self.points(policy)
        return {seed: hull([point for point in points if point.seed == seed]) for seed in self.seeds}

    def at_level(self, policy: str, level: float) -> dict[int, Metrics]:
        """Return the results of a policy at an energy level: seed → results.

        Seeds on which the policy needs more energy than the level are left out.
        """
        found = {seed: at_energy(front, level * self.reference_j(seed)) for seed, front in self.hulls(policy).items()}
        return {seed: numbers for seed, numbers in found.items() if numbers is not None}

    def row(self, policy: str, level: float) -> EqualEnergyRow:
        """Return the table row of a policy at an energy level.

        The row has results only if the policy reaches the level on all seeds.
        """
        budget_j = level * _mean(self.reference_j(seed) for seed in self.seeds)
        mine = self.at_level(policy, level)
        if len(mine) < len(self.seeds):
            return EqualEnergyRow(policy, level, budget_j, None, None, None)
        numbers = {
            field.name: estimate([getattr(mine[seed], field.name) for seed in self.seeds]) for field in fields(Metrics)
        }
        ours = self.at_level(OURS, level) if OURS in self.policies else {}
        least = {seed: self.bound_s(seed, level * self.reference_j(seed)) for seed in self.bounds}
        return EqualEnergyRow(policy, level, budget_j, numbers, _ratio(mine, ours), _ratio(mine, least))

    def bound_s(self, seed: int, metered_j: float) -> float:
        """Return the lower bound on the mean completion time of a seed with ``metered_j`` joules, seconds."""
        idle_j = self._reference(seed).tail_w * self.horizon_s(seed)
        return self.bounds[seed].mean_jct_at(metered_j - idle_j)

    def bound_curve(self) -> list[tuple[float, float]]:
        """Return points (joules, seconds) of the lower bound for one seed, over the energies of all frontiers.

        The result is empty if no bound was computed.
        """
        if not self.bounds:
            return []
        seed = next(iter(self.bounds))
        used = [point.metrics.energy_j for policy in self.policies for point in self.hulls(policy)[seed]]
        low, high = min(used), max(used)
        joules = [low + (high - low) * k / 40 for k in range(41)]
        return [(j, self.bound_s(seed, j)) for j in joules if self.bound_s(seed, j) > 0]


def _ratio(mine: Mapping[int, Metrics], other: Mapping[int, Metrics | float]) -> Estimate | None:
    """Return the ratio of two mean completion times, over the seeds for which both are known."""
    ratios = [
        mine[seed].jct_mean_s / (value if isinstance(value, float) else value.jct_mean_s)
        for seed, value in other.items()
        if seed in mine
    ]
    return estimate(ratios) if ratios else None


# --- around it ----------------------------------------------------------------------------------------------------


def policies_for(sizes: str) -> tuple[str, ...]:
    """Return the names of all policies that can run with these job sizes (numbers of iterations).

    If ``sizes`` is "unknown", policies that need sizes are left out.
    """
    every = registry.names()
    return every if sizes != "unknown" else tuple(name for name in every if not registry.load(name).needs_sizes)


def _check(
    policies: Sequence[str],
    seeds: Sequence[int],
    levels: Sequence[float],
    processes: int | None,
    believed: Believed,
) -> None:
    """Check the arguments of `compare`."""
    if not seeds:
        raise InputError("no seed to compare on", where="--seeds", fix="give 1 or more")
    if not policies:
        raise InputError("no policy to compare", where="--policies", fix="give names, separated by commas")
    if not levels or any(not (level > 0 and math.isfinite(level)) for level in levels):
        raise InputError("an energy level is not a share above 0", where="--levels", fix="such as 1.0,0.9,0.8")
    if processes is not None and processes < 1:
        raise InputError(f"{processes} processes", where="--processes", fix="give 1 or more")
    for policy in policies:
        if registry.load(policy).needs_sizes and believed.sizes == "unknown":
            raise InputError(
                f"policy {policy} needs the sizes of jobs",
                where="--policies",
                fix="leave the policy out, or give --sizes known or mispredicted",
            )


def _bound_holds(experiment: Experiment) -> bool:
    """Return True if the lower bound is valid: idle draw must be constant, so that no node may fail or sleep."""
    nodes = [node for workload in experiment.workloads() for node in workload.cluster.nodes]
    return math.isinf(experiment.believed.world.node_mtbf_h) and not any(node.can_sleep for node in nodes)


def _title(workloads: Sequence[Workload]) -> str:
    titles = list(dict.fromkeys(workload.title for workload in workloads))
    return titles[0] if len(titles) == 1 else f"{titles[0]}, and {len(titles) - 1} more like it"


def _facts(workloads: Sequence[Workload], believed: Believed, study: _Study) -> dict[str, str]:
    """Return how the comparison was made: label → words. Where seeds differ, all different words are joined."""
    facts = {
        label: "; ".join(dict.fromkeys(workload.facts.get(label, "–") for workload in workloads))
        for label in dict.fromkeys(label for workload in workloads for label in workload.facts)
    }
    runs = sum(map(len, study.runs.values()))
    return (
        facts
        | believed.facts()
        | {
            "Seeds": ", ".join(map(str, study.seeds)),
            "Energy": (
                f"metered for the whole cluster; idle draw for as long as FIFO takes at maximum clock, in every one of "
                f"the {runs:,} runs alike; what jobs add to it, to the end of the last job"
            ),
            "Frontiers": (
                "prices over λ, greedy over its threshold, any other policy at maximum clock, at fixed clocks and with "
                "Zeus's clock over η; a policy's runs that no other run of its own beats are joined by straight lines "
                "over energy"
            ),
            "At a level": "at most that energy: a policy whose fastest run needs less uses that run, and less energy",
            "Bound": _bound_fact(study),
        }
    )


def _bound_fact(study: _Study) -> str:
    if not study.bounds:
        return "not computed"
    return "no schedule with that energy has a lower mean completion time; computed for seed " + ", ".join(
        map(str, study.bounds)
    )


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)


def _silent(share: float, note: str) -> None:
    """Ignore a report of progress."""
