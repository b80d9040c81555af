"""``powerflow describe``: show everything that is known about a job."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from powerflow.api import operations as ops
from powerflow.api.records import JobRecord
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Job, Watch, asks
from powerflow.cli.cluster.state_word import state_word
from powerflow.cli.options import Json
from powerflow.cli.show import show
from powerflow.cli.when import stamp

if TYPE_CHECKING:
    from rich.console import RenderableType


#: What is added to the reason of a job that is completing.
_ENDING = "; its processes are ending"
#: Key of a rank of which the kernel has killed a process for lack of memory.
_MEMORY = "out_of_memory"


@asks
def describe(controller: ControllerClient, job: Job, json: Json = False, watch: Watch = None) -> None:
    """Show everything that is known about a job: its GPUs and clock, its progress, and its definition."""
    show(
        "job", lambda: controller.ask_as(Described, ops.JOB, job_id=job), draw_job, _document, json=json, every_s=watch
    )


@dataclass(frozen=True, slots=True)
class Described:
    """A `JobDetail` whose spec is JSON data: to import the definition of jobs takes longer than all of this command."""

    record: JobRecord
    spec: Mapping[str, Any]
    gpus_held: Mapping[str, Sequence[int]]
    ranks: Sequence[Mapping[str, Any]]
    last_lines: Sequence[str]


def _document(detail: Described) -> dict[str, Any]:
    return {
        "job": detail.record,
        "spec": detail.spec,
        "gpus_held": detail.gpus_held,
        "ranks": detail.ranks,
        "last_lines": detail.last_lines,
    }


def draw_job(detail: Described, width: int) -> RenderableType:
    """Draw everything that is known about a job."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from powerflow.cli.cluster.job_request import request_facts
    from powerflow.cli.cluster.job_table import EMULATED

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in (*_facts(detail.record), *request_facts(detail.spec)):
        table.add_row(name, value)
    parts: list[RenderableType] = [table]
    if detail.ranks:
        parts += [Text("\nranks", style="bold"), _ranks(detail.ranks)]
    if detail.last_lines:
        parts += [Text("\nlast lines of the job's log", style="bold"), *(Text(line) for line in detail.last_lines)]
    if detail.record.emulated:
        parts.append(Text(f"\n{EMULATED}", style="italic dim"))
    return Group(*parts)


def _facts(job: JobRecord) -> list[tuple[str, Any]]:
    """Return what a job has now and how it progresses, one fact per line."""
    from powerflow.cli.cluster.job_table import bar, joules, mark, state, watts
    from powerflow.units import NOTHING, duration, percent, significant

    now_s = time.time()
    facts: list[tuple[str, Any]] = [
        ("job", f"{job.id}  {job.name}".rstrip()),
        ("owner", f"{job.user} · project {job.project}" if job.project else job.user),
        ("state", state(state_word(job))),
        ("why", (job.exit or job.reason or NOTHING) + (_ENDING if job.completing else "")),
        ("submitted", stamp(job.submitted_s)),
    ]
    if job.started_s is not None:
        waited = duration(job.started_s - job.submitted_s)
        facts.append(("started", f"{stamp(job.started_s)}, after {waited}"))
    if job.run_s:
        limit = "" if job.time_limit_s is None else f" of at most {duration(job.time_limit_s)}"
        facts.append(("has run", f"{duration(job.run_s)}{limit}"))
    if job.ended_s is not None:
        facts.append(("ended", f"{stamp(job.ended_s)}, {duration(job.ended_s - job.submitted_s)} after submission"))
    if job.output:
        facts.append(("output", job.output))
    if job.gpus:
        clock = "" if job.clock_mhz is None else f" at {job.clock_mhz:.0f} MHz"
        read = job.clock_read_mhz
        if job.clock_mhz is not None and read is not None and abs(read - job.clock_mhz) > 1:
            clock += f" (they say {read:.0f})"
        facts.append(("has", f"{job.gpus} × {job.gpu_type or 'GPU'}{clock} on {', '.join(job.nodes)}"))
        facts.append(("power", watts(job.power_w, job.emulated)))
    unknown = job.ended_s is not None and job.started_s is not None and not job.energy_j
    facts.append(("energy", "unknown" if unknown else joules(job.energy_j, job.emulated)))
    if job.rescale == "external":
        return [*facts, ("slowdown", _slowdown(job))]
    total = "" if job.steps_total is None else f" of {job.steps_total:,.0f}"
    facts.append(("steps", f"{job.steps:,.0f}{total}"))
    facts.append(("progress", "unknown" if job.progress is None else bar(job.progress, 20)))
    facts.append(("step time", "unknown" if job.step_time_s is None else duration(job.step_time_s)))
    if job.eta_s is not None and job.ended_s is None:
        facts.append(("ends", f"{stamp(job.eta_s)}, in {duration(max(job.eta_s - now_s, 0.0))}"))
    if job.model_error is not None:
        facts.append(("model error", f"{percent(job.model_error)} of its step time"))
    if job.slowdown is not None:
        facts.append(("slowdown", _slowdown(job)))
    facts.append(("rescales", f"{job.rescales}" + _failures(job.failures)))
    means = []
    if job.energy_per_step_now_j is not None:
        means.append(f"{significant(job.energy_per_step_now_j)} J{mark(job.emulated)} now")
    if job.energy_per_step_j is not None:
        several = job.steps and not math.isclose(job.energy_per_step_j, job.energy_j / job.steps, rel_tol=1e-3)
        of = " since its last start" if several else ""
        means.append(f"{significant(job.energy_per_step_j)} J{mark(job.emulated)} on average{of}")
    if means:
        facts.append(("per step", ", ".join(means)))
    return facts


def _slowdown(job: JobRecord) -> str:
    """Return how much slower a job is than at the highest clock, and how that was measured."""
    from powerflow.units import percent

    if job.slowdown is None:
        return "not measured yet" if job.ended_s is None else "not measured"
    words = f"{percent(max(0.0, job.slowdown))} against its own highest clock"
    if job.work_by == "cycles":
        return f"at most {words}: its GPUs count no work, so all of it is assumed to follow the clock"
    return f"{words}, measured by {job.work_by}" if job.work_by else f"{words}, measured"


def _failures(count: int) -> str:
    return f" · failed {'once' if count == 1 else f'{count} times'}" if count else ""


def _ranks(ranks: Sequence[Mapping[str, Any]]) -> RenderableType:
    from powerflow.cli.cluster.job_table import plain
    from powerflow.units import NOTHING

    rows = [{key: value for key, value in rank.items() if key != _MEMORY} | {"code": _code(rank)} for rank in ranks]
    heads = list(dict.fromkeys(key for row in rows for key in row))
    table = plain(*heads, left=heads, wraps=heads)
    for row in rows:
        table.add_row(*(NOTHING if row.get(head) is None else str(row[head]) for head in heads))
    return table


def _code(rank: Mapping[str, Any]) -> str | None:
    """Return the exit code of a rank, with the signal that it stands for."""
    from powerflow.api.exit_code import signal_name

    code = rank.get("code")
    words = [signal_name(code), "out of memory" if rank.get(_MEMORY) else ""]
    said = ", ".join(filter(None, words))
    return None if code is None else f"{code} ({said})" if said else str(code)
