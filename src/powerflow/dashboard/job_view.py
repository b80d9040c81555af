"""Gather what the page of one job shows, as plain texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from powerflow import units
from powerflow.api.cluster_api import ClusterApi
from powerflow.api.decisions import DecisionRecord, Explanation, JobOption
from powerflow.api.job_detail import JobDetail
from powerflow.api.pages import RecordFilter
from powerflow.api.records import Caller, EventRecord, JobRecord, JobState, NodeAway, NotFound, Role
from powerflow.dashboard.cluster_map import colour_of
from powerflow.dashboard.job_rows import batch_of, gpus_of, owner_of, state_of
from powerflow.dashboard.shown import instant, joules, megahertz, moment, watts
from powerflow.look.key_figure import KeyFigure
from powerflow.scheduler.plan import Otherwise, gpus_said

#: Most decisions, events and lines of the log that are shown.
MOST_DECISIONS, MOST_EVENTS, MOST_LINES = 50, 50, 100
#: Most decisions that are read to find the last ones.
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Lines:
    """A table: heads of the columns, for each column True if it holds words, and the lines."""

    heads: Sequence[str]
    texts: Sequence[bool]
    lines: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class JobView:
    """What the page of one job shows.

    Attributes:
        explained: Why it has what it has, what is expected, and what binds, one sentence each.
        otherwise: What would change this, and what the job would have then.
        options, decisions, story: Tables.
        decisions_more: A sentence if there are more decisions; or "".
        acts: What its viewer may do with it now: cancel, hold or release.
        log, log_said: The last lines of its log, and what they are, or why there are none.
    """

    id: str
    name: str
    owner: str
    state: str
    state_said: str
    colour: int
    emulated: bool
    at: str
    keys: Sequence[KeyFigure]
    facts: Mapping[str, str]
    explained: Sequence[str]
    otherwise: Mapping[str, str]
    options: Lines
    decisions: Lines
    decisions_more: str
    story: Lines
    log: str
    log_said: str
    acts: Sequence[str]


def job_view(cluster: ClusterApi, job_id: str, now_s: float, caller: Caller, words: Mapping[str, str]) -> JobView:
    """Ask a cluster for everything about a job, and return what the page shows of it.

    Raises:
        NotFound: There is no such job.
    """
    detail, found = cluster.job(job_id), cluster.explain(job_id)
    job, state = detail.record, state_of(detail.record)
    decisions, count = _last_decisions(cluster, job_id)
    events = cluster.events(limit=MOST_EVENTS, only=RecordFilter(job_id=job_id), latest=True).items
    log, log_said = _log(cluster, job_id, words)
    return JobView(
        id=job.id,
        name=job.name,
        owner=owner_of(job),
        state=state,
        state_said=words[f"state_{state}"],
        colour=colour_of(job.id) if job.gpus else 0,
        emulated=job.emulated,
        at=moment(now_s),
        keys=_keys(detail, words),
        facts=_facts(detail, words),
        explained=[*_explained(found, words), *_binds(found, words)],
        otherwise={at.words: _would(at, found.now, words) for at in found.otherwise},
        options=_options(found, words),
        decisions=_decisions(decisions, words),
        decisions_more=words["only_last"].format(shown=len(decisions)) if count > len(decisions) else "",
        story=_story(events, words),
        log=log,
        log_said=log_said,
        acts=_acts(job, caller),
    )


def _acts(job: JobRecord, caller: Caller) -> list[str]:
    """Return what a caller may do with a job. The cluster checks this again when it is done."""
    if job.state.ended or not (
        caller.role is Role.OPERATOR or (caller.role.suffices(Role.USER) and caller.user == job.user)
    ):
        return []
    return ["release" if job.state is JobState.HELD else "hold", "cancel"]


def _keys(detail: JobDetail, words: Mapping[str, str]) -> list[KeyFigure]:
    job = detail.record
    keys = [KeyFigure(gpus_of(job, words), f"{words['head_gpus']} {job.gpu_type or ''}".rstrip())]
    if job.gpus:
        keys.append(KeyFigure(megahertz(job.clock_read_mhz or job.clock_mhz), words["head_clock"]))
        if job.local_batch is not None:
            keys.append(KeyFigure(batch_of(job), words["head_batch"]))
        keys.append(KeyFigure(watts(job.power_w, job.emulated), words["head_power"]))
    keys.append(KeyFigure(joules(job.energy_j, job.emulated), words["head_energy"]))
    if job.progress is not None:
        keys.append(KeyFigure(units.percent(job.progress), words["head_progress"]))
    if job.step_time_s is not None:
        keys.append(KeyFigure(units.duration(job.step_time_s), words["head_step"]))
    return keys


def _facts(detail: JobDetail, words: Mapping[str, str]) -> dict[str, str]:
    job = detail.record
    held = [f"{node}: {', '.join(map(str, gpus))}" for node, gpus in detail.gpus_held.items()]
    run = units.elapsed(job.run_s)
    if job.time_limit_s is not None:
        run = words["job_run_of"].format(run=run, limit=units.elapsed(job.time_limit_s))
    found = {
        "job_exit": job.exit,
        "job_where": "; ".join(held),
        "job_command": detail.spec.run,
        "job_submitted": moment(job.submitted_s),
        "job_started": "" if job.started_s is None else moment(job.started_s),
        "job_ended": "" if job.ended_s is None else moment(job.ended_s),
        "job_run": run if job.run_s else "",
        "job_step_energy": "" if job.energy_per_step_j is None else joules(job.energy_per_step_j, job.emulated),
        "job_model_error": ""
        if job.model_error is None
        else words["job_model_error_is"].format(error=units.percent(job.model_error)),
        "job_priority": job.priority,
        "job_rescale": job.rescale,
        "job_rescales": str(job.rescales),
        "job_failures": str(job.failures) if job.failures else "",
    }
    return {words[key]: text for key, text in found.items() if text}


def _explained(found: Explanation, words: Mapping[str, str]) -> list[str]:
    said = [found.sentence or found.why]
    if found.start_s is not None:
        said.append(words["starts_at"].format(time=moment(found.start_s)))
    if found.end_s is not None:
        low_s, high_s = found.end_low_s, found.end_high_s
        at = moment(found.end_s)
        if found.ends_by_limit:
            said.append(words["ends_by_limit"].format(time=at))
        elif low_s is not None and high_s is not None and low_s < high_s:
            said.append(words["ends_between"].format(time=at, low=moment(low_s), high=moment(high_s)))
        else:
            said.append(words["ends_at"].format(time=at))
    if found.energy_j is not None:
        if found.energy_low_j is not None and found.energy_high_j is not None:
            used, low, high = units.energies(found.energy_j, found.energy_low_j, found.energy_high_j)
            said.append(words["uses_between"].format(energy=used, low=low, high=high))
        else:
            said.append(words["uses"].format(energy=units.energy(found.energy_j)))
    return said


def _binds(found: Explanation, words: Mapping[str, str]) -> list[str]:
    if found.binds:
        return [words["binds"].format(limit=found.binds)]
    unknown = not found.limits_known and found.decided_s is not None
    return [words["limits_unknown"]] if unknown else []


def _would(at: Otherwise, now: JobOption | None, words: Mapping[str, str]) -> str:
    """Return in words which GPUs and clock a job would have."""
    if not at.gpus:
        return words["otherwise_wait"]
    if at.limit == "topology":
        return words["otherwise_topology"]
    if now is not None and (at.gpus, at.clock_mhz) == (now.gpus, now.clock_mhz):
        return words["otherwise_same"]
    return words["otherwise_gpus"].format(gpus=gpus_said(at.gpus), clock=f"{at.clock_mhz:.0f}")


def _options(found: Explanation, words: Mapping[str, str]) -> Lines:
    now = [found.now] if found.now is not None else []
    options = [*now, *found.options]
    columns = (
        [
            words["options_now"] if option is found.now else f"{number}"
            for number, option in enumerate(options, 0 if now else 1)
        ],
        [str(option.gpus) for option in options],
        [f"{option.clock_mhz:.0f}" for option in options],
        units.duration_column([option.step_time_s for option in options]),
        units.power_column([option.power_w for option in options]),
        units.number_column([option.energy_per_step_j for option in options], "J"),
        units.number_column([option.cost_s for option in options], "s"),
    )
    heads = [words["head_choice"], words["head_gpus"], "MHz"]
    heads += [words[key] for key in ("head_step_time", "head_power", "head_step_energy", "head_cost")]
    return Lines(heads, [True, *[False] * 6], [list(cells) for cells in zip(*columns, strict=True)])


def _last_decisions(cluster: ClusterApi, job_id: str) -> tuple[Sequence[DecisionRecord], int]:
    """Return the last decisions about a job, and how many there are in all."""
    last: list[DecisionRecord] = []
    count = after = 0
    while True:
        page = cluster.decisions(job_id, after=after, limit=_PAGE)
        count, last = count + len(page.items), [*last, *page.items][-MOST_DECISIONS:]
        if len(page.items) < _PAGE:
            return last, count
        after = page.after


def _decisions(decisions: Sequence[DecisionRecord], words: Mapping[str, str]) -> Lines:
    heads = ["head_when", "head_what", "head_gpus", "head_clock", "head_jct", "head_80", "head_used", "head_80"]
    return Lines(
        [words[key] for key in heads],
        [True, True, *[False] * 6],
        [_decision(at, words) for at in reversed(decisions)],
    )


def _decision(at: DecisionRecord, words: Mapping[str, str]) -> list[str]:
    low_j, high_j = at.energy_low_j, at.energy_high_j
    energies = [units.NOTHING, units.NOTHING]
    if at.energy_j is not None:
        energies[0] = units.energy(at.energy_j)
        if low_j is not None and high_j is not None:
            used, low, high = units.energies(at.energy_j, low_j, high_j)
            energies = [used, f"{low} – {high}"]
    between = units.NOTHING
    if at.jct_low_s is not None and at.jct_high_s is not None:
        between = f"{units.elapsed(at.jct_low_s)} – {units.elapsed(at.jct_high_s)}"
    return [
        instant(at.time_s),
        (words["would"] if at.would else "") + at.reason,
        str(at.gpus) if at.gpus else units.NOTHING,
        megahertz(at.clock_mhz) if at.gpus else units.NOTHING,
        units.NOTHING if at.jct_s is None else units.elapsed(at.jct_s),
        between,
        *energies,
    ]


def _story(events: Sequence[EventRecord], words: Mapping[str, str]) -> Lines:
    return Lines(
        [words["head_when"], words["head_what"]],
        [True, True],
        [[instant(event.time_s), event.text] for event in reversed(events)],
    )


def _log(cluster: ClusterApi, job_id: str, words: Mapping[str, str]) -> tuple[str, str]:
    """Return the last lines of a job's log, and a sentence about them."""
    try:
        chunk = cluster.log(job_id, tail=MOST_LINES)
    except NodeAway as error:
        return "", words["log_away"].format(why=error.what)
    except NotFound:
        return "", words["no_log"]
    return chunk.text, words["log_tail"].format(rank=chunk.rank) if chunk.text else words["no_log"]
