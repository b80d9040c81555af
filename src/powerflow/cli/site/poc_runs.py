"""Find the measured runs of the jobs of a log: in the file of a watch, or afterwards in a Prometheus."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from powerflow.cli.replay import REFUSED
from powerflow.errors import InputError
from powerflow.report.poc_words import MeasuredBy

if TYPE_CHECKING:
    from powerflow.cli.site.sources import PrometheusAccess
    from powerflow.simulate.poc.matching import MeasuredRun
    from powerflow.trace.record import Trace
    from powerflow.watch.owners import WatchedJob
    from powerflow.watch.use import JobUse

#: What is read of each GPU: no clocks, no utilisation and no activity.
_COLUMNS = {"energy_j", "power_w", "info", "job", "uid"}


@dataclass(frozen=True, slots=True)
class FoundRuns:
    """Measured runs.

    Attributes:
        runs: The runs.
        by: Where they come from, and who says which job held a GPU.
        emulated: True if some of the GPUs are emulated.
    """

    runs: list[MeasuredRun]
    by: MeasuredBy
    emulated: bool


def watched_runs(path: Path, trace: Trace) -> FoundRuns:
    """Return the runs of jobs of Slurm that a watch has measured, from the begin of a log on.

    Raises:
        InputError: The file cannot be used.
    """
    from powerflow.watch.ledger import WatchLedger

    ledger = WatchLedger(path, create=False)
    try:
        since_s = trace.jobs[0].submit_s if trace.jobs else 0.0
        rows, state = ledger.jobs(since_s, math.inf), ledger.state()
    finally:
        ledger.close()
    runs = _runs((row.job, row.use) for row in rows)
    return FoundRuns(runs, MeasuredBy.WATCH, bool(state.get("emulated")))


def past_runs(
    access: PrometheusAccess, trace: Trace, cluster: str, progress: Callable[[float, str], None]
) -> FoundRuns:
    """Return the runs of jobs that a Prometheus has readings of, over the time of a log.

    Args:
        access: How to reach it.
        trace: The log; its times are Unix seconds.
        cluster: The site's cluster, for the numbers of GPUs that its nodes have.
        progress: Is called with the share of the time that is read, and a note.

    Raises:
        InputError: Prometheus does not answer, or nothing tells which job held which GPU.
    """
    from powerflow.cluster.spec import parse_cluster
    from powerflow.watch.history import by_labels, past_uses
    from powerflow.watch.sources.prometheus import MetricsSource, opened_api
    from powerflow.watch.sources.prometheus_api import PacedStore
    from powerflow.watch.sources.whole_nodes import WholeNodes

    assert access.url is not None
    api = opened_api(access.url, access.token_file, access.basic_file, access.ca_file)
    source = MetricsSource(PacedStore(api), access.node_label, columns=_COLUMNS)
    whole = WholeNodes(trace, {node.gpus for node in parse_cluster(cluster).nodes})
    since_s, until_s = _span(trace)
    if since_s >= until_s:
        raise InputError("all its jobs are in the future", where=trace.source, fix="give its time zone with --tz")
    told, from_log = past_uses(
        source, since_s, until_s, [by_labels, whole], lambda share: progress(share, "reading Prometheus")
    )
    emulated = any(card.emulated for card in source.cards.values())
    if labelled := _runs(told.values()):
        return FoundRuns(labelled, MeasuredBy.LABELS, emulated)
    if on_whole := _runs(from_log.values()):
        return FoundRuns(on_whole, MeasuredBy.WHOLE_NODES, emulated)
    why = "no job of the log held all GPUs of its nodes" if whole.possible else "the log has no NodeList"
    raise InputError(
        f"labels do not tell which job held a GPU, and {why}",
        where=api.name,
        fix="let powerflow watch run" + ", or add NodeList to sacct -o" * (not whole.possible),
        exit_code=REFUSED,
    )


def _span(trace: Trace) -> tuple[float, float]:
    """Return the time in which jobs of a log ran, up to now, Unix seconds."""
    starts_s = [job.submit_s + (job.wait_s or 0.0) for job in trace.jobs]
    ends_s = [start_s + job.held_s for start_s, job in zip(starts_s, trace.jobs, strict=True)]
    return min(starts_s), min(max(ends_s), time.time())


def _runs(measured: Iterable[tuple[WatchedJob, JobUse]]) -> list[MeasuredRun]:
    from powerflow.simulate.poc.matching import MeasuredRun

    return [
        MeasuredRun(job.id, job.start_s, use.gpu_s, use.energy_j, use.low_j, use.high_j)
        for job, use in measured
        if (job.key.startswith("slurm:") or _is_number(job)) and use.gpu_s > 0
    ]


def _is_number(job: WatchedJob) -> bool:
    """Return True for a job that the labels of an exporter name by a number of Slurm: ``4711`` or ``4711_3``."""
    return job.key.startswith("job:") and job.id.replace("_", "", 1).isdecimal()
