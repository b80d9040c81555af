"""Find the jobs of a trace whose costs were measured, and return these costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from powerflow.cluster.spec import parse_cluster
from powerflow.cost.catalogue import gpu_type
from powerflow.cost.costs_file import Costs, usual_batch
from powerflow.cost.fit import Fit
from powerflow.cost.goodput import tabulate_best
from powerflow.cost.model import JobModel
from powerflow.cost.table import Axes, CostTable
from powerflow.errors import InputError
from powerflow.simulate.workload.workload import Kind, with_logged
from powerflow.trace.fields import clip
from powerflow.trace.record import Trace, TraceJob

_MOST_SAID = 6


@dataclass(frozen=True, slots=True)
class Measured:
    """The jobs of a trace whose models are in files of measured costs, and these costs.

    Attributes:
        kinds: Model and global batches of each job; None if the catalogue's costs are used for the job.
        fits: Model → GPU type of the cluster → fit to the measured costs.
        source: Names of the files, and the models in them; "" without files.
        without: What the files do not have: the name of a model, or words for jobs that name none → number of jobs.
    """

    kinds: Sequence[Kind | None]
    fits: Mapping[str, Mapping[str, Fit]]
    source: str
    without: Mapping[str, int]

    def truth(self, axes: Mapping[str, Axes]) -> dict[tuple[str, str], CostTable]:
        """Return cost tables for the measured models: (class of jobs, GPU type) → table.

        A table has the measured costs where a configuration was measured, and fitted costs elsewhere. A class whose
        batch may change also has a table as logged, at its own batch.
        """
        return {
            (kind.cost_class, card): tabulate_best(
                fitted.model, axes[card], kind.global_batch, kind.allowed, fitted.observations
            )
            for kind in self._with_logged()
            for card, fitted in self.fits[kind.model].items()
        }

    def models(self) -> dict[tuple[str, str], JobModel]:
        """Return the models that were fitted to measurements: (class of jobs, GPU type) → model.

        A scheduler that does not know the truth begins with these models.
        """
        return {
            (kind.cost_class, card): fitted.model
            for kind in self._with_logged()
            for card, fitted in self.fits[kind.model].items()
        }

    def _with_logged(self) -> list[Kind]:
        return with_logged(kind for kind in self.kinds if kind is not None)

    def most_gpus(self, name: str) -> int:
        """Return the largest number of GPUs on which a model was measured."""
        return max(seen.gpus for fitted in self.fits[name].values() for seen in fitted.observations)

    def only_on(self, name: str, pools: Sequence[str]) -> str | None:
        """Return the GPU type that jobs with this model must use; None if they may use all GPU types of the cluster.

        They may use all types if the model was measured on all of them. Otherwise the result is the first type in
        ``pools`` on which the model was measured.
        """
        fits = self.fits[name]
        return None if all(pool in fits for pool in pools) else next(pool for pool in pools if pool in fits)

    def fact(self, otherwise: str) -> str:
        """Return a sentence that says where the costs of jobs come from.

        ``otherwise`` says how the costs of all other jobs are modelled.
        """
        if not self.source:
            return otherwise
        covered = sum(kind is not None for kind in self.kinds)
        said = f"measured, from {self.source}: {covered:,} of {len(self.kinds):,} jobs"
        if not self.without:
            return said
        named = [f"{count:,} {which}" for which, count in Counter(self.without).most_common(_MOST_SAID)]
        more = [f"and {len(self.without) - _MOST_SAID} more models"] * (len(self.without) > _MOST_SAID)
        return f"{said}; not in it: {', '.join([*named, *more])}, which are {otherwise}"


def measured(jobs: Sequence[TraceJob], costs: Costs | None, pools: Sequence[str]) -> Measured:
    """Find the jobs whose model was measured on a GPU type of the cluster.

    A job without a global batch gets the batch at which most points of its model were measured. ``pools`` are the GPU
    types of the cluster.
    """
    if costs is None:
        return Measured([None] * len(jobs), {}, "", {})
    fits: dict[str, dict[str, Fit]] = {}
    names: dict[str, str] = {}  # model of the trace → model of a kind
    for model in dict.fromkeys(job.model for job in jobs if job.model is not None):
        found = {kind: fitted for kind, fitted in costs.of(model).items() if kind in pools}
        if found:  # another name than the catalogue's family of that name
            names[model] = f"{next(iter(found.values())).model.name} (measured)"
            fits[names[model]] = found
    batches = {name: usual_batch(found.values()) for name, found in fits.items()}
    kinds: list[Kind | None] = []
    without: Counter[str] = Counter()
    for job in jobs:
        name = names.get(job.model or "")
        if name is None:
            without[_which(job.model, costs)] += 1
        kinds.append(None if name is None else Kind(name, job.global_batch or batches[name], job.batch_range))
    return Measured(kinds, fits, f"{costs.source} ({costs.names()})", without)


def check_used(costs: Costs, traces: Sequence[Trace], cluster: str) -> None:
    """Check that the measured costs are those of some job on a GPU type of the cluster.

    Args:
        costs: Measured costs.
        traces: The logs.
        cluster: The cluster, as `parse_cluster` reads it.

    Raises:
        InputError: No job uses them; the message says which models the files have, and which the logs name.
    """
    types = [gpu_type(name).name for name in parse_cluster(cluster).pools()]
    costs.check_types(types, cluster)
    models = dict.fromkeys(job.model for trace in traces for job in trace.jobs if job.model is not None)
    found = [costs.of(model) for model in models]
    if any(set(of) & set(types) for of in found):
        return
    logs = ", ".join(trace.source for trace in traces)
    named = ", ".join(clip(model) for model in list(models)[:_MOST_SAID]) or "no model"
    elsewhere = next(
        (
            f"; {clip(model)} was measured on {', '.join(of)} alone"
            for model, of in zip(models, found, strict=True)
            if of
        ),
        "",
    )
    raise InputError(
        f"no job of {logs} has a model of it: it has {costs.names()}, the log names {named}{elsewhere}",
        where=costs.source,
        fix="name the model in the log's column model, or leave out --costs",
    )


def _which(model: str | None, costs: Costs) -> str:
    """Return words for a job whose model was not measured on the cluster: ``of 'lm' (measured on A40)``."""
    if model is None:
        return "that name no model"
    other = costs.of(model)
    return f"of {clip(model)} (measured on {', '.join(other)})" if other else f"of {clip(model)}"
