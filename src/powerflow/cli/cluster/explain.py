"""``powerflow explain``: show why a job has its GPUs and clock, and what would change them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.api import operations as ops
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Job, Watch, asks
from powerflow.cli.options import Json
from powerflow.cli.show import show
from powerflow.cli.when import stamp

if TYPE_CHECKING:
    from rich.console import RenderableType

    from powerflow.api.decisions import DecisionRecord, Explanation, JobOption
    from powerflow.scheduler.plan import Otherwise

#: Style of the configuration that a job has.
_NOW = "bold cyan"


@asks
def explain(
    controller: ControllerClient,
    job: Job,
    history: Annotated[bool, typer.Option("--history", help="List all decisions about the job.")] = False,
    json: Json = False,
    watch: Watch = None,
) -> None:
    """Explain why a job has its GPUs and clock, what keeps it from having more, and what other choices would cost."""
    if history:
        story = partial(controller.every, ops.DECISIONS, job_id=job)
        show("history", story, _tell, lambda found: {"decisions": found}, json=json, every_s=watch)
    else:
        explanation = partial(controller.ask, ops.EXPLAIN, job_id=job)
        show("explanation", explanation, draw_explanation, lambda found: found, json=json, every_s=watch)


def draw_explanation(found: Explanation, width: int) -> RenderableType:
    """Draw why a job has its GPUs and clock, and what else it could have."""
    from rich.console import Group
    from rich.text import Text

    from powerflow.cli.cluster.job_table import plain
    from powerflow.scheduler.plan import Why

    said = Text.assemble((f"job {found.job_id}: ", "bold"), found.sentence or found.why)
    if found.decided_s is not None:
        said.append(time.strftime(" · decided %H:%M:%S", time.localtime(found.decided_s)), style="dim")
    parts: list[RenderableType] = [said, *(Text(line) for line in _outlook(found)), *_prices(found)]
    if found.otherwise:
        has = (found.now.gpus, found.now.clock_mhz) if found.now else (0, 0.0)
        if found.binds:
            parts.append(Text.assemble("what binds: ", (found.binds, "bold")))
        parts += [Text(f"  {at.words}: {_would(at, has)}") for at in found.otherwise]
    elif not found.limits_known and found.decided_s is not None:
        parts.append(Text("which limit holds the job back is not known: the controller did not answer in time"))
    elif found.now is not None and found.why != Why.AS_ASKED:
        parts.append(Text("no limit holds the job back: at these prices this is best for all jobs", style="dim"))
    if found.now is None and not found.options:
        return Group(*parts)
    table = plain("", "GPUs", "MHz", "step", "power", "energy a step", "time", "energy", "cost a step")
    known = [option for option in (found.measured, found.now) if option is not None]
    others = [option for option in found.options if option != found.now]
    for option, cells in zip([*known, *others], _rows([*known, *others], found), strict=True):
        name = "measured" if option is found.measured else "now" if option is found.now else ""
        table.add_row(name, *cells, style=_NOW if option is found.now else "")
    note = "by the cost model" + ("; time and energy of a step, compared with now" if found.now else "")
    note += "; cost: weighted seconds, at the prices of a GPU and a joule now"
    if found.measured is not None:
        note += "; measured: of the latest steps, which describe shows too"
    return Group(*parts, Text(), table, Text(note, style="dim italic"))


def _outlook(found: Explanation) -> list[str]:
    """Return when a job is expected to start and to end, and what its project deserves, one line each."""
    from powerflow.scheduler.plan import gpus_said
    from powerflow.units import energies, prose

    lines = []
    if found.start_s is not None:
        lines.append(f"expected to start at {stamp(found.start_s)}, if no other job is submitted")
    if found.end_s is not None:
        between = ", by its time limit" if found.ends_by_limit else ""
        if found.end_low_s is not None and found.end_high_s is not None and found.end_low_s < found.end_high_s:
            between += f" (80 %: {stamp(found.end_low_s)} to {stamp(found.end_high_s)})"
        lines.append(f"expected to end at {stamp(found.end_s)}{between}")
    if found.energy_j is not None:
        low_j, high_j = found.energy_low_j, found.energy_high_j
        known = low_j is not None and high_j is not None
        used, *ends = energies(found.energy_j, *(end_j for end_j in (low_j, high_j) if end_j is not None))
        lines.append(f"and to have used {used} then" + (f" (80 %: {' to '.join(ends)})" if known else ""))
    if found.due_gpus is not None:
        share = f" by its share of {prose(found.fair_share, 6)}"
        lines.append(f"fair share: the job's project deserves {gpus_said(found.due_gpus)}{share}, while jobs wait")
    return lines


def _prices(found: Explanation) -> list[RenderableType]:
    from rich.text import Text

    from powerflow.units import significant

    worth = []
    if found.gpu_price:
        worth.append(f"a GPU is worth {significant(found.gpu_price)} now")
    if found.energy_price:
        worth.append(f"a joule {significant(found.energy_price)} s")
    return [Text(", ".join(worth), style="dim")] if worth else []


def _would(at: Otherwise, has: tuple[int, float]) -> str:
    """Return in words which GPUs and clock a job would have."""
    from powerflow.scheduler.plan import gpus_said

    if not at.gpus:
        return "it would wait"
    if at.limit == "topology":
        return "faster with the same GPUs and clock"
    if (at.gpus, at.clock_mhz) == has:
        return "it would keep its GPUs and clock"
    return f"{gpus_said(at.gpus)} at {at.clock_mhz:.0f} MHz"


def _tell(decisions: Sequence[DecisionRecord], width: int) -> RenderableType:
    """Draw a table of the decisions on a job."""
    from rich.text import Text

    from powerflow.cli.cluster.job_table import plain
    from powerflow.units import NOTHING, elapsed, energy_column

    if not decisions:
        return Text("there is no decision about the job yet")
    spans_j = [[at.energy_j, at.energy_low_j, at.energy_high_j] for at in decisions]
    said = iter(energy_column([value for span in spans_j for value in span]))
    heads = ("when", "what", "GPUs", "MHz", "JCT expected", "80 %", "energy expected", "80 %")
    table = plain(*heads, left=("when", "what"), wraps=("what",))
    for at in decisions:
        used, low, high = next(said), next(said), next(said)
        table.add_row(
            stamp(at.time_s),
            at.reason,
            str(at.gpus) if at.gpus else NOTHING,
            f"{at.clock_mhz:.0f}" if at.gpus else NOTHING,
            NOTHING if at.jct_s is None else elapsed(at.jct_s),
            NOTHING
            if at.jct_low_s is None or at.jct_high_s is None
            else f"{elapsed(at.jct_low_s)} to {elapsed(at.jct_high_s)}",
            used,
            NOTHING if at.energy_low_j is None or at.energy_high_j is None else f"{low} to {high}",
            style="dim" if at.would else "",
        )
    return table


def _rows(options: Sequence[JobOption], found: Explanation) -> list[list[str]]:
    """Return the cells of a line for each option. What was measured is not compared with what the model says."""
    from powerflow.units import NOTHING, duration_column, number_column, power_column

    def against(option: JobOption, of: Callable[[JobOption], float]) -> str:
        if found.now is None or option is found.measured:
            return NOTHING
        change = of(option) / of(found.now) - 1.0
        return f"{change:+.0%}" if abs(change) >= 0.005 else "="

    columns = (
        [str(option.gpus) for option in options],
        [f"{option.clock_mhz:.0f}" for option in options],
        duration_column([option.step_time_s for option in options]),
        power_column([option.power_w for option in options]),
        number_column([option.energy_per_step_j for option in options], "J"),
        [against(option, lambda of: of.step_time_s) for option in options],
        [against(option, lambda of: of.energy_per_step_j) for option in options],
        number_column([option.cost_s for option in options], "s"),
    )
    return [list(cells) for cells in zip(*columns, strict=True)]
