"""Export the state of the cluster as Prometheus metrics, read anew for every request.

Units are base units: joules, watts, seconds, hertz, ratios. A value that comes from emulated GPUs has the label
``emulated="true"``. Jobs that have ended have no metrics of their own. Their joules are part of
``powerflow_energy_joules_total``; ``powerflow acct`` shows the joules of each job. No label is named ``job`` or
``instance``: Prometheus gives these names to what it scrapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from math import isinf
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from powerflow.api.cluster_api import ClusterApi
from powerflow.api.governance import BudgetRecord, SignalRecord
from powerflow.api.loop_figures import CapReading, DurationCounts, LoopFigures
from powerflow.api.records import JobRecord, JobState, NodeRecord, Top
from powerflow.units import J_PER_KWH

_HERTZ_PER_MHZ = 1e6
_JOB = ("job_id", "name", "user", "project", "emulated")
_GPU = ("node", "gpu", "gpu_type", "emulated")


def exposition(cluster: ClusterApi, version: str, accept: str) -> tuple[bytes, str]:
    """Return all metrics as text, and the text's media type. The HTTP header ``accept`` selects the format."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(_Cluster(cluster, version))
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


class _Cluster(Collector):
    def __init__(self, cluster: ClusterApi, version: str) -> None:
        self._cluster = cluster
        self._version = version

    def collect(self) -> Iterable[Metric]:
        top, nodes, figures = self._cluster.top(), self._cluster.nodes(), self._cluster.loop_figures()
        yield InfoMetricFamily("powerflow_build", "Version of PowerFlow.", {"version": self._version})
        yield from _controller(self._cluster.healthy())
        yield _turns(figures.turns)
        yield from _cluster(top)
        yield from _prices(top, figures)
        yield from _caps(figures.caps, _word(top.emulated))
        yield from _budgets(self._cluster.budgets())
        yield from _signals(self._cluster.signals())
        yield _gpu_states(nodes)
        yield from _nodes(nodes)
        yield from _jobs([job for job in top.jobs if job.state is JobState.RUNNING])


def _controller(health: Mapping[str, Any]) -> Iterator[Metric]:
    yield _plain("powerflow_healthy", "1 while the controller's main loop runs.", float(bool(health.get("ok"))))
    # facts that the controller reports, in seconds: age of its last round, duration of its last decision
    for name, value in health.items():
        if name.endswith("_s") and isinstance(value, int | float):
            words = name.removesuffix("_s")
            yield _plain(f"powerflow_{words}_seconds", f"Of the controller: {words.replace('_', ' ')}.", value)


def _cluster(top: Top) -> Iterator[Metric]:
    emulated = _word(top.emulated)
    energy = CounterMetricFamily(
        "powerflow_energy_joules", "Metered energy of jobs and of idle GPUs.", labels=("account", "emulated")
    )
    energy.add_metric(("jobs", emulated), top.jobs_energy_j)
    energy.add_metric(("idle", emulated), top.idle_energy_j)
    yield energy
    power = GaugeMetricFamily("powerflow_power_watts", "Power of GPUs.", labels=("account", "emulated"))
    power.add_metric(("jobs", emulated), top.jobs_power_w)
    power.add_metric(("idle", emulated), top.power_w - top.jobs_power_w)
    yield power
    jobs = GaugeMetricFamily("powerflow_jobs", "Jobs that have not ended.", labels=("state",))
    counts = {"queued": top.queued, "running": top.running, "held": top.held, "completing": top.completing}
    for state, count in counts.items():
        jobs.add_metric((state,), count)
    yield jobs
    yield _plain("powerflow_notices", "Notices for operators; powerflow top lists them.", len(top.notices))


def _turns(turns: DurationCounts) -> HistogramMetricFamily:
    """Return how long the turns of the controller took, as a histogram: each bucket also counts all shorter turns."""
    totals = zip(turns.bounds_s, accumulate(turns.counts), strict=True)
    buckets = [("+Inf" if isinf(bound_s) else str(bound_s), float(total)) for bound_s, total in totals]
    return HistogramMetricFamily(
        "powerflow_turn_seconds", "Duration of a turn of the controller's main loop.", buckets, turns.sum_s
    )


def _prices(top: Top, figures: LoopFigures) -> Iterator[Metric]:
    yield _plain("powerflow_energy_price_seconds_per_joule", "Price of energy that decisions use.", top.energy_price)
    price = GaugeMetricFamily(
        "powerflow_gpu_price",
        "Worth of one more GPU in the last decision: weighted seconds of completion time per second.",
        labels=("gpu_type",),
    )
    for gpu_type, value in figures.gpu_prices.items():
        price.add_metric((gpu_type,), value)
    yield price


def _caps(caps: Sequence[CapReading], emulated: str) -> Iterator[Metric]:
    labels = ("scope", "emulated")
    allowed = GaugeMetricFamily(
        "powerflow_cap_watts", "Power that caps allow a part of the cluster now, with their ramps.", labels=labels
    )
    drawn = GaugeMetricFamily("powerflow_cap_power_watts", "Power of the GPUs under a cap.", labels=labels)
    for cap in caps:
        allowed.add_metric((cap.scope, emulated), cap.allowed_w)
        drawn.add_metric((cap.scope, emulated), cap.power_w)
    yield from (allowed, drawn)


def _budgets(budgets: Sequence[BudgetRecord]) -> Iterator[Metric]:
    labels = ("project", "emulated")
    amount = GaugeMetricFamily("powerflow_budget_joules", "Energy of the budget for this day or month.", labels=labels)
    spent = GaugeMetricFamily("powerflow_budget_spent_joules", "Energy used in this day or month.", labels=labels)
    expected = GaugeMetricFamily(
        "powerflow_budget_expected_joules", "Energy expected at the end of this day or month.", labels=labels
    )
    binds = GaugeMetricFamily(
        "powerflow_budget_limit_binds", "1 while the budget's limit in watts delays jobs.", labels=labels
    )
    for budget in budgets:
        whose = (budget.project, _word(budget.emulated))
        amount.add_metric(whose, budget.amount_j)
        spent.add_metric(whose, budget.spent_j)
        expected.add_metric(whose, budget.forecast_j)
        binds.add_metric(whose, float(budget.limited))
    yield from (amount, spent, expected, binds)


def _signals(signals: Sequence[SignalRecord]) -> Iterator[Metric]:
    """Return the metrics of signals, per joule instead of per kWh: money, or grams of CO2."""
    value = GaugeMetricFamily(
        "powerflow_signal_per_joule", "Money or g CO2 per joule now.", labels=("kind", "fallback")
    )
    for signal in signals:
        value.add_metric((signal.kind, "true" if signal.fell_back else "false"), signal.value / J_PER_KWH)
    yield value


def _gpu_states(nodes: Sequence[NodeRecord]) -> GaugeMetricFamily:
    """Return how many GPUs are in which state; each GPU counts once."""
    count = dict.fromkeys(("busy", "free", "out_of_service", "node_not_up"), 0)
    for node in nodes:
        for gpu in node.gpus:
            unused = "node_not_up" if node.state != "up" else "out_of_service" if gpu.out else "free"
            count["busy" if gpu.job_id is not None else unused] += 1
    gpus = GaugeMetricFamily(
        "powerflow_gpus", "GPUs: held by jobs (busy), free, or why they are not used.", labels=("state",)
    )
    for state, number in count.items():
        gpus.add_metric((state,), number)
    return gpus


def _nodes(nodes: Sequence[NodeRecord]) -> Iterator[Metric]:
    states = GaugeMetricFamily("powerflow_node", "1 for the state a node is in.", labels=("node", "state"))
    watts = GaugeMetricFamily("powerflow_gpu_power_watts", "Power of a GPU.", labels=_GPU)
    clock = GaugeMetricFamily("powerflow_gpu_clock_hertz", "Clock at which a GPU runs.", labels=_GPU)
    locked = GaugeMetricFamily("powerflow_gpu_locked_clock_hertz", "Clock to which a GPU is locked.", labels=_GPU)
    asked = GaugeMetricFamily("powerflow_gpu_asked_clock_hertz", "Clock that PowerFlow asks of a GPU.", labels=_GPU)
    busy = GaugeMetricFamily("powerflow_gpu_busy", "1 while a job holds a GPU, otherwise 0.", labels=_GPU)
    used = GaugeMetricFamily("powerflow_gpu_utilisation_ratio", "Share of time in which a GPU computes.", labels=_GPU)
    for node in nodes:
        states.add_metric((node.name, node.state), 1.0)
        for gpu in node.gpus:
            labels = (node.name, str(gpu.index), node.gpu_type, _word(node.emulated))
            _add(watts, labels, gpu.power_w)
            _add(clock, labels, gpu.clock_mhz, _HERTZ_PER_MHZ)
            _add(locked, labels, gpu.locked_mhz, _HERTZ_PER_MHZ)
            _add(asked, labels, gpu.asked_mhz, _HERTZ_PER_MHZ)
            _add(busy, labels, float(gpu.job_id is not None))
            _add(used, labels, gpu.utilisation)
    yield from (states, watts, clock, locked, asked, busy, used)


def _jobs(running: Sequence[JobRecord]) -> Iterator[Metric]:
    energy = CounterMetricFamily("powerflow_job_energy_joules", "Energy charged to a running job.", labels=_JOB)
    watts = GaugeMetricFamily("powerflow_job_power_watts", "Power of a job's GPUs.", labels=_JOB)
    clock = GaugeMetricFamily("powerflow_job_clock_hertz", "Clock that was decided for a job.", labels=_JOB)
    gpus = GaugeMetricFamily("powerflow_job_gpus", "Number of GPUs that a job holds.", labels=_JOB)
    step = GaugeMetricFamily("powerflow_job_step_seconds", "Time per iteration, measured recently.", labels=_JOB)
    done = GaugeMetricFamily("powerflow_job_progress_ratio", "Share of the work that is done.", labels=_JOB)
    wrong = GaugeMetricFamily(
        "powerflow_job_model_error_ratio", "|predicted / measured - 1| of a job's step time.", labels=_JOB
    )
    for job in running:
        labels = (job.id, job.name, job.user, job.project, _word(job.emulated))
        _add(energy, labels, job.energy_j)
        _add(watts, labels, job.power_w)
        _add(clock, labels, job.clock_mhz, _HERTZ_PER_MHZ)
        _add(gpus, labels, job.gpus)
        _add(step, labels, job.step_time_s)
        _add(done, labels, job.progress)
        _add(wrong, labels, job.model_error)
    yield from (energy, watts, clock, gpus, step, done, wrong)


def _plain(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _add(
    family: CounterMetricFamily | GaugeMetricFamily, labels: Sequence[str], value: float | None, scale: float = 1.0
) -> None:
    """Add a value to a metric; nothing happens if the value is None (not known)."""
    if value is not None:
        family.add_metric(labels, value * scale)


def _word(emulated: bool) -> str:
    return "true" if emulated else "false"
