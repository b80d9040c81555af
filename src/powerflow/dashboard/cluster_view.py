"""Gather what the page of the cluster shows, as plain texts and shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from powerflow import units
from powerflow.api.cluster_api import ClusterApi
from powerflow.api.records import JobState, Top
from powerflow.api.stages import SavingsRecord
from powerflow.dashboard.cluster_map import NodeTile, node_tiles
from powerflow.dashboard.gauges import Gauge, budget_gauges, power_gauge
from powerflow.dashboard.job_rows import MOST_ROWS, JobLine, running_rows, waiting_rows
from powerflow.dashboard.shown import moment
from powerflow.look.key_figure import KeyFigure


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What the page of the cluster shows.

    Attributes:
        time_s, at: The moment that it shows, in Unix seconds and in words.
        notices: What an operator should know, one line each.
        gauges: Power against its cap, then energy against each budget.
        keys: Further key figures.
        policy: The policy, the energy price, and when the next decision is due.
        nodes: The map.
        running, waiting: Lines of the two tables.
        running_more, waiting_more: A sentence if a table does not have all jobs; or "".
        saved: How the energy saved was computed, or why it is not known.
    """

    time_s: float
    at: str
    emulated: bool
    notices: Sequence[str]
    gauges: Sequence[Gauge]
    keys: Sequence[KeyFigure]
    policy: str
    nodes: Sequence[NodeTile]
    running: Sequence[JobLine]
    waiting: Sequence[JobLine]
    running_more: str
    waiting_more: str
    saved: str


def cluster_view(cluster: ClusterApi, words: Mapping[str, str]) -> ClusterView:
    """Ask a cluster for its present state, and return what the page shows of it."""
    top, savings = cluster.top(), cluster.savings()
    running, waiting = running_rows(top.jobs, top.time_s, words), waiting_rows(top.jobs, top.time_s, words)
    return ClusterView(
        time_s=top.time_s,
        at=moment(top.time_s),
        emulated=top.emulated,
        notices=top.notices,
        gauges=[power_gauge(top, words), *budget_gauges(top, cluster.budgets(), words)],
        keys=[*_counts(top, words), *_saved_figures(savings, words)],
        policy=_policy(top, words),
        nodes=node_tiles(cluster.nodes(), words),
        running=running,
        waiting=waiting,
        running_more=_more(top, (JobState.RUNNING,), top.running, words),
        waiting_more=_more(top, (JobState.QUEUED, JobState.HELD), top.queued + top.held, words),
        saved=_saved(savings, words),
    )


def _counts(top: Top, words: Mapping[str, str]) -> list[KeyFigure]:
    said = words["jobs_completing"] if top.completing else words["jobs_count"]
    return [
        KeyFigure(str(top.gpus_busy), words["gpus_busy"].format(gpus=top.gpus)),
        KeyFigure(str(top.running), said.format(completing=top.completing, queued=top.queued, held=top.held)),
    ]


def _policy(top: Top, words: Mapping[str, str]) -> str:
    parts = [f"{words['policy']} {top.policy}"]
    if top.energy_price:
        parts.append(words["price"].format(price=units.significant(top.energy_price, 2)))
    if top.next_decision_s is not None and top.queued:
        left_s = top.next_decision_s - top.time_s
        parts.append(
            words["next_decision"].format(time=units.duration(left_s)) if left_s >= 1.0 else words["decision_now"]
        )
    return " · ".join(parts)


def _more(top: Top, states: Sequence[JobState], count: int, words: Mapping[str, str]) -> str:
    """Return a sentence if the list of jobs does not have all jobs in these states, else ""."""
    shown = min(sum(job.state in states for job in top.jobs), MOST_ROWS)
    return words["more_jobs"].format(shown=shown, all=count) if shown < count else ""


def _saved_figures(savings: SavingsRecord | None, words: Mapping[str, str]) -> list[KeyFigure]:
    if savings is None:
        return []
    changes = (
        (savings.acted_j, savings.asked_j, words["saved"].format(days=savings.days)),
        (savings.acted_jct_s, savings.asked_jct_s, words["saved_jct"]),
    )
    return [KeyFigure(_change(after, before), meaning) for after, before, meaning in changes if before > 0]


def _change(after: float, before: float) -> str:
    text = units.percent(abs(after / before - 1.0))
    return text if after == before else f"{'−' if after < before else '+'}{text}"


def _saved(savings: SavingsRecord | None, words: Mapping[str, str]) -> str:
    if savings is None:
        return words["saved_unknown"]
    asked_j, acted_j = units.energies(savings.asked_j, savings.acted_j)
    asked_jct, acted_jct = units.durations(savings.asked_jct_s, savings.acted_jct_s)
    return words["saved_how"].format(
        jobs=savings.jobs,
        days=savings.days,
        asked_j=asked_j,
        acted_j=acted_j,
        asked_jct=asked_jct,
        acted_jct=acted_jct,
        when=moment(savings.time_s),
    )
