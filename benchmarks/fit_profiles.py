"""How well the cost models fit what others measured: ``python -m benchmarks.fit_profiles``.

Every figure is an error on points that the fit did not see, against the target of the issue. Exits with 1 where a
target is missed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import profiles
from benchmarks.make_catalogue import TWO_NODES_APART, throughput_of
from powerflow.arrays import FloatArray
from powerflow.cost.catalogue import family_model
from powerflow.cost.fit import Fit, fit
from powerflow.cost.limit import limited_costs
from powerflow.cost.model import JobModel
from powerflow.cost.observation import Observation
from powerflow.cost.points import points_of
from powerflow.cost.tabulate import split_batch

FOLDS = 5


@dataclass(frozen=True)
class Result:
    """Errors on points left out; ``target`` in percent is on ``judged`` ("mean" or "median"), None: only shown."""

    what: str
    errors: FloatArray
    target: float | None
    judged: str

    @property
    def value(self) -> float:
        """The judged error."""
        return float(100 * (np.mean(self.errors) if self.judged == "mean" else np.median(self.errors)))

    @property
    def passes(self) -> bool:
        """Whether it is within the target."""
        return self.target is None or self.value <= self.target


def pollux_placements(applications: Sequence[str] = profiles.APPLICATIONS) -> list[Result]:
    """Each fifth of the placements left out in turn, whole placements at a time."""
    results = []
    for application in applications:
        rows = profiles.pollux_placements(application)
        names = np.array([placement for placement, _ in rows])
        kinds = np.unique(names)
        part = dict(zip(kinds, np.random.default_rng(0).permutation(len(kinds)) % FOLDS, strict=True))
        folds = np.array([part[name] for name in names])
        errors = []
        for fold in range(FOLDS):
            seen = [o for (_, o), f in zip(rows, folds, strict=True) if f != fold]
            unseen = [o for (_, o), f in zip(rows, folds, strict=True) if f == fold]
            errors.append(time_errors(throughput_of(application, seen), unseen))
        results.append(Result(application, np.concatenate(errors), 9.0, "median"))
    return results


def t4_tables(applications: Sequence[str] = profiles.APPLICATIONS) -> list[Result]:
    """Each cell predicted from Pollux' points on the same hardware.

    The tables are mostly look-ups in Pollux' measurements, so a cell's own configuration (equal count and kind of
    placement, local batch within a tenth) is left out of the fit that predicts it.
    """
    results = []
    for application in applications:
        seen = profiles.pollux(application)
        memory = max(o.local_batch for o in seen)
        whole = throughput_of(application, seen)
        errors = []
        for cell in profiles.elasticflow(application):
            unseen = table_observation(application, memory, *cell)
            others = [o for o in seen if not is_twin(o, unseen)]
            apart = application in TWO_NODES_APART
            model = throughput_of(application, others) if apart else fit(others, start=whole, folds=0).model
            errors.append(time_errors(model, [unseen]))
        results.append(Result(application, np.concatenate(errors), 9.0, "median"))
    return results


def table_observation(application: str, memory: int, batch: int, gpus: int, seconds: float) -> Observation:
    """A cell of an ElasticFlow table: local batch and passes follow from the largest local batch that was profiled."""
    passes, local_batch = split_batch(batch, np.array([gpus]), memory)
    nodes = -(-gpus // profiles.POLLUX_GPUS_PER_NODE)
    return Observation(application, "T4", gpus, int(local_batch[0]), seconds, nodes=nodes, accumulation=int(passes[0]))


def is_twin(one: Observation, other: Observation) -> bool:
    """Whether two points may be one measurement."""
    alike = one.gpus == other.gpus and (one.nodes > 1) == (other.nodes > 1)
    return alike and abs(one.local_batch - other.local_batch) <= 0.1 * other.local_batch


def v100_clocks() -> list[Result]:
    """Lowest, middle and highest clock fitted, all thirteen predicted."""
    time, power = [], []
    for points in profiles.v100_clocks().values():
        fitted = fit([points[0], points[len(points) // 2], points[-1]], folds=0).model
        time.append(time_errors(fitted, points))
        power.append(power_errors(fitted, points))
    return [Result("time", np.concatenate(time), 4.0, "mean"), Result("power", np.concatenate(power), 2.5, "mean")]


def zeus_batches(gpu: str) -> list[Result]:
    """Each batch size of each job left out in turn; first all jobs together, then each."""
    time, power = {}, {}
    for job, points in profiles.zeus(gpu).items():
        fits = [fit(points[:i] + points[i + 1 :], folds=0).model for i in range(len(points))]
        time[job] = np.concatenate([time_errors(m, [o]) for m, o in zip(fits, points, strict=True)])
        power[job] = np.concatenate([power_errors(m, [o]) for m, o in zip(fits, points, strict=True)])
    results = [
        Result(f"{gpu} time, all", np.concatenate(list(time.values())), 10.0, "mean"),
        Result(f"{gpu} power, all", np.concatenate(list(power.values())), 10.0, "mean"),
    ]
    for job, errors in time.items():
        results.append(Result(f"{gpu} time, {' '.join(job)}", errors, None, "mean"))
        results.append(Result(f"{gpu} power, {' '.join(job)}", power[job], None, "mean"))
    return results


def zeus_limits(gpu: str) -> list[Result]:
    """A fifth of all batch sizes and power limits of a job left out at a time; with the limits told, and without."""
    errors: dict[str, list[FloatArray]] = {}
    for points in profiles.zeus_limits(gpu).values():
        part = np.random.default_rng(0).permutation(len(points)) % FOLDS
        for told in (True, False):
            seen = points if told else [replace(o, power_limit_w=None) for o in points]
            for fold in range(FOLDS):
                model = fit([o for o, p in zip(seen, part, strict=True) if p != fold], folds=0).model
                unseen = [o for o, p in zip(seen, part, strict=True) if p == fold]
                for what, of in (("time", time_errors), ("power", power_errors)):
                    label = f"{gpu} {what}, {'with' if told else 'without'} the limits"
                    errors.setdefault(label, []).append(of(model, unseen))
    return [Result(what, np.concatenate(parts), None, "mean") for what, parts in errors.items()]


def fit_speed() -> list[tuple[str, float]]:
    """Milliseconds of one fit of 50 points: cold, and started from the last fit as the online learner does."""
    seen = profiles.pollux("cifar10")[::25][:50]
    cold = fit(seen, folds=0)
    return [
        ("cold, no prior", _best_ms(lambda: fit(seen, folds=0))),
        ("prior", _best_ms(lambda: fit(seen, family_model("cifar10", "T4"), folds=0))),
        ("prior and warm start", _best_ms(lambda: fit(seen, cold.model, start=cold.model, folds=0))),
    ]


def time_errors(model: JobModel, unseen: Sequence[Observation]) -> FloatArray:
    """|predicted ÷ measured − 1| of step times."""
    points = points_of(unseen, model.throughput.clock_max_mhz)
    return np.abs(limited_costs(model, *points.where, points.limit_w)[0] / points.time_s - 1)


def power_errors(model: JobModel, unseen: Sequence[Observation]) -> FloatArray:
    """|predicted ÷ measured − 1| of watts."""
    points = points_of(unseen, model.throughput.clock_max_mhz)
    return np.abs(points.gpus * limited_costs(model, *points.where, points.limit_w)[1] / points.power_w - 1)


def _best_ms(work: Callable[[], Fit], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        begin = perf_counter()
        work()
        times.append(perf_counter() - begin)
    return 1e3 * min(times)


def main() -> int:
    console = Console()
    if not profiles.PROFILES.is_dir():
        console.print(f"no profiles at {profiles.PROFILES}")
        return 1
    groups = {
        "Pollux placements on T4, whole placements left out": pollux_placements(),
        "ElasticFlow tables on T4 from Pollux' points, each cell's own configuration left out": t4_tables(),
        "V100 clocks: three fitted, thirteen predicted, 33 workloads": v100_clocks(),
        "Zeus, full power limit, each batch size left out": [*zeus_batches("V100"), *zeus_batches("RTX6000")],
        "Zeus, all power limits, a fifth of the points left out": [*zeus_limits("V100"), *zeus_limits("RTX6000")],
    }
    for title, results in groups.items():
        table = Table(title=title, title_justify="left")
        for column in ("what", "points", "median %", "mean %", "p90 %", "judged by", "target %", ""):
            table.add_column(column, justify="left" if column in ("what", "judged by", "") else "right")
        for result in results:
            off = 100 * result.errors
            numbers = [f"{np.median(off):.1f}", f"{np.mean(off):.1f}", f"{np.percentile(off, 90):.1f}"]
            judged = ("", "", "")
            if result.target is not None:
                judged = (result.judged, f"≤ {result.target:g}", "pass" if result.passes else "MISS")
            table.add_row(result.what, str(len(off)), *numbers, *judged)
        console.print(table)
    speed = Table("fit of 50 points", "ms", title="Speed", title_justify="left")
    for what, ms in fit_speed():
        speed.add_row(what, f"{ms:.1f}")
    console.print(speed)
    return 0 if all(result.passes for results in groups.values() for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
