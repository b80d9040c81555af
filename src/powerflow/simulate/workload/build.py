"""Build a workload from a trace: the model that each job trains, its work, and its true costs.

Traces have the submission, duration and GPUs of each job, but few traces have models. The built-in catalogue has
families of models with known costs. If a trace names no model, a family is drawn at random. If it names a model that is
not in the catalogue, the most similar family is used (`powerflow.simulate.workload.placing`). The facts of the workload
tell the user about this.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from powerflow.cluster.spec import ClusterSpec, parse_cluster
from powerflow.cost.catalogue import axes_for, declare, family, family_model, gpu_type
from powerflow.cost.costs_file import Costs
from powerflow.cost.goodput import tabulate_best
from powerflow.cost.table import Axes, CostTable
from powerflow.cost.vary import FACTORS, VARIATION, varied
from powerflow.errors import InputError
from powerflow.job import Job
from powerflow.simulate.workload.measured_costs import measured
from powerflow.simulate.workload.measured_steps import scaled, step_on, step_scaling
from powerflow.simulate.workload.placing import place
from powerflow.simulate.workload.workload import Kind, Workload, with_logged
from powerflow.trace.record import Trace, TraceJob
from powerflow.units import HOUR_S, prose

ROUGHNESS = 0.03  # standard deviation of the logarithm of the random factors per GPU count


def build_workload(
    trace: Trace,
    cluster: str,
    *,
    load: float | None = None,
    seed: int = 0,
    most_gpus: int | None = None,
    variation: float = VARIATION,
    costs: Costs | None = None,
) -> Workload:
    """Build the workload of a trace on a cluster.

    Each class of jobs (family and global batch) has its own true costs. They are the costs of the family's built-in
    model, after each parameter is multiplied by a random lognormal factor. In addition, the step time at each GPU count
    is multiplied by a random factor of about 3 %. So no built-in or fitted model can be exact.

    Jobs whose global batch may change form classes of their own. They did their logged work at their own batch, and use
    the best allowed batch in the simulation (`powerflow.cost.goodput`).

    Args:
        trace: The trace.
        cluster: ``"16x8:A100"`` or a file, as `parse_cluster` reads it.
        load: Load to which submission times are scaled: requested GPU-seconds ÷ (GPUs × time of submissions). None
            keeps the times.
        seed: Seed of the models that the trace does not name, and of true costs.
        most_gpus: Larger requests are cut to this number of GPUs. With None, a request that is larger than the cluster
            is an error.
        variation: Standard deviation of the logarithm of the random factors on parameters. With 0 only the random
            factors of 3 % on step times remain.
        costs: Measured costs of some models; they are the true costs of jobs that name these models, without random
            factors.

    Raises:
        InputError: The trace is empty, the load is impossible, or a job is larger than the cluster.
    """
    if not trace.jobs:
        raise InputError("it contains no jobs", where=trace.source)
    declare(*(costs.cards if costs else ()))
    spec = _named_as_in_catalogue(parse_cluster(cluster))
    pools = spec.pools()
    largest = max(sum(node.gpus for node in nodes) for nodes in pools.values())
    asked = _requests(trace, largest, most_gpus)
    rng = np.random.default_rng([seed, 0x7A5E])
    reference = next(iter(pools))
    known = measured(trace.jobs, costs, [*pools])
    rest = [i for i, kind in enumerate(known.kinds) if kind is None]
    rest_jobs, rest_asked = [trace.jobs[i] for i in rest], [asked[i] for i in rest]
    placing = place(rest_jobs, rest_asked, reference, rng, seed)
    placed = iter(placing.kinds)
    kinds = [next(placed) if kind is None else kind for kind in known.kinds]
    axes = _axes(spec, asked)
    truth = _truth(with_logged(placing.kinds), axes, variation, seed)
    as_logged = [kind.as_logged.cost_class for kind in kinds]
    rest_classes = [kind.as_logged.cost_class for kind in placing.kinds]
    logged = step_scaling(rest_jobs, rest_asked, rest_classes, truth, axes[reference])
    factors = {
        kind.cost_class: logged.factors.get(kind.as_logged.cost_class, 1.0) for kind in with_logged(placing.kinds)
    }
    truth = scaled(truth, factors) | known.truth(axes)
    only_on = {name: known.only_on(name, [*pools]) for name in known.fits}
    reference_pools = [only_on.get(kind.model) or reference for kind in kinds]
    iterations = [
        _iterations(job, gpus, truth[name, pool], axes[pool], trace.source)
        for job, gpus, name, pool in zip(trace.jobs, asked, as_logged, reference_pools, strict=True)
    ]
    first_s = trace.jobs[0].submit_s
    submit_s = [job.submit_s - first_s for job in trace.jobs]
    offered = _offered(submit_s, asked, iterations, as_logged, truth, axes, reference_pools, spec.gpus)
    scale = _time_scale(offered, load, trace.source)
    most = {name: min(_power_of_two_below(largest), family(name).gpus_max) for name, *_ in set(placing.kinds)}
    most |= {name: min(largest, known.most_gpus(name)) for name in known.fits}
    jobs = tuple(
        Job(
            id=_unique(job.id, i),
            submit_s=submit * scale,
            cost_class=kind.cost_class,
            iterations=work,
            gpus=gpus,
            gpus_max=max(gpus, most[kind.model]),
            project=job.project,
            name=job.name,
            gpu_type=only_on.get(kind.model),
        )
        for i, (job, submit, kind, work, gpus) in enumerate(
            zip(trace.jobs, submit_s, kinds, iterations, asked, strict=True)
        )
    )
    facts = {
        "Jobs": f"{len(jobs):,} from {trace.source} ({trace.format})",
        "Cluster": f"{cluster} ({spec.gpus:,} GPUs)",
        "Offered load": f"{offered / scale:.2f}"
        + ("" if load is None else f" (submissions scaled by {prose(scale)}, from {offered:.2f} in the trace)"),
        "Models": placing.fact(seed),
        "Costs": known.fact(
            f"modelled: catalogue models on {', '.join(axes)}, each class varied by {variation:.0%} (seed {seed})"
        ),
    }
    if trace.skipped:
        first = trace.skipped[0]
        facts["Skipped"] = f"{len(trace.skipped):,} lines gave no job (first: line {first.line}: {first.why})"
    if changing := sum(kind.allowed is not None for kind in kinds):
        facts["Batches"] = (
            f"{changing:,} jobs may change their global batch: each GPU count has the batch with the most progress per "
            "second (modelled: statistical efficiency at a constant noise scale)"
        )
    if logged.factors:
        facts["Step times"] = logged.fact()
    if requeued := sum(job.earlier_gpu_s > 0 for job in trace.jobs):
        hours = math.fsum(job.earlier_gpu_s for job in trace.jobs) / HOUR_S
        facts["Requeued"] = f"{requeued:,} jobs; {hours:,.1f} GPU-hours of their earlier runs are part of their work"
    cut = sum(gpus < job.gpus for job, gpus in zip(trace.jobs, asked, strict=True))
    if cut:
        facts["Requests"] = f"{cut} jobs requested more than {most_gpus} GPUs; their requests were reduced to that"
    title = f"{len(jobs):,} jobs of {trace.source} on {cluster}"
    classes = {kind.cost_class: kind for kind in kinds}
    truth = {(name, pool): table for (name, pool), table in truth.items() if name in classes}
    return Workload(title, jobs, spec, axes, truth, facts, known.models(), classes)


def _named_as_in_catalogue(spec: ClusterSpec) -> ClusterSpec:
    """Return the cluster with its GPU types named as in the catalogue (``a100`` becomes A100)."""
    nodes = tuple(dataclasses.replace(node, gpu_type=gpu_type(node.gpu_type).name) for node in spec.nodes)
    return dataclasses.replace(spec, nodes=nodes)


def _unique(name: str, position: int) -> str:
    """Return a unique name for a job. Names in a log may repeat, for example for requeued jobs."""
    return f"{position}:{name}"


def _requests(trace: Trace, largest: int, most_gpus: int | None) -> list[int]:
    limit = largest if most_gpus is None else min(most_gpus, largest)
    too_large = [job for job in trace.jobs if job.gpus > limit]
    if too_large and most_gpus is None:
        worst = max(too_large, key=lambda job: job.gpus)
        raise InputError(
            f"{len(too_large)} jobs ask for more than the cluster's {largest} GPUs (job {worst.id}: {worst.gpus})",
            where=trace.source,
            fix=f"give a larger cluster, or cut requests with --most-gpus {largest}",
        )
    return [min(job.gpus, limit) for job in trace.jobs]


def _axes(spec: ClusterSpec, asked: Sequence[int]) -> dict[str, Axes]:
    """Return for each pool the GPU counts and clocks to choose from.

    GPU counts are the powers of two that fit into the pool, and all requested counts that fit.
    """
    axes = {}
    for name, nodes in spec.pools().items():
        gpus = sum(node.gpus for node in nodes)
        counts = {1 << k for k in range(gpus.bit_length()) if 1 << k <= gpus} | {n for n in asked if n <= gpus}
        axes[name] = axes_for(name, max(node.gpus for node in nodes), sorted(counts))
    return axes


def _truth(
    kinds: Sequence[Kind], axes: Mapping[str, Axes], variation: float, seed: int
) -> dict[tuple[str, str], CostTable]:
    truth = {}
    for kind in kinds:
        # the factors of a class do not depend on the other classes, or on whether its batch may change
        rng = np.random.default_rng([seed, *kind.as_logged.cost_class.encode()])
        factors = np.exp(variation * rng.standard_normal(FACTORS))
        most = max(len(pool.gpu_counts) for pool in axes.values())
        roughness = np.exp(ROUGHNESS * rng.standard_normal(max(64, most)))
        for pool_name, pool in axes.items():
            model = varied(family_model(kind.model, pool_name), factors)
            table = tabulate_best(model, pool, kind.global_batch, kind.allowed)
            rough = roughness[: len(pool.gpu_counts), None]
            truth[kind.cost_class, pool_name] = dataclasses.replace(
                table,
                step_time_s=table.step_time_s * rough,
                spread_step_time_s=np.maximum(table.spread_step_time_s, table.step_time_s) * rough,
            )
    return truth


def _iterations(job: TraceJob, gpus: int, table: CostTable, axes: Axes, source: str) -> float:
    """Return the iterations of a job: as many as its logged time allows at the maximum clock.

    Without a logged time, the logged iterations are returned. With a logged time, logged iterations are ignored: they
    have already scaled the step time of the class, and the job must last as long as logged.
    """
    if not math.isfinite(job.duration_s):
        if job.iterations is None:
            raise InputError(f"job {job.id} has neither a duration nor iterations", where=source)
        return job.iterations
    work = max(job.held_s, 1.0) / step_on(table, axes, gpus)
    logged = job.iterations if job.iterations is not None else math.nan
    return logged if math.isclose(work, logged, rel_tol=1e-9) else work


def _offered(
    submit_s: Sequence[float],
    asked: Sequence[int],
    iterations: Sequence[float],
    classes: Sequence[str],
    truth: Mapping[tuple[str, str], CostTable],
    axes: Mapping[str, Axes],
    reference_pools: Sequence[str],
    gpus: int,
) -> float:
    """Return the load: requested GPU-seconds ÷ (GPUs × time of submissions).

    The result is ``inf`` if all jobs are submitted at one time.
    """
    demand = sum(
        n * work * step_on(truth[name, pool], axes[pool], n)
        for n, work, name, pool in zip(asked, iterations, classes, reference_pools, strict=True)
    )
    span_s = submit_s[-1] - submit_s[0]
    return demand / (gpus * span_s) if span_s > 0 else math.inf


def _time_scale(offered: float, load: float | None, source: str) -> float:
    if load is None:
        return 1.0
    if not (load > 0 and math.isfinite(load)):
        raise InputError(f"load is {load}", where="--load", fix="give a number > 0, such as 0.8")
    if not math.isfinite(offered):
        raise InputError("all jobs have one submission time: no load can be set", where=source, fix="leave --load out")
    return offered / load


def _power_of_two_below(n: int) -> int:
    return 1 << (n.bit_length() - 1)
