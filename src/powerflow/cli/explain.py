"""``powerflow explain``: why a job has what it has."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from powerflow.cli.asking import Job, Watch, asks
from powerflow.cli.client import Controller
from powerflow.cli.options import Json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from powerflow.live.records import Explanation, Option


@asks
def explain(controller: Controller, job: Job, json: Json = False, watch: Watch = None) -> None:
    """Say why a job has what it has, what else it could have, and what that would cost."""
    from powerflow.cli.watch import show

    show("explanation", lambda: controller.explain(job), _draw, lambda found: found, json=json, every_s=watch)


def _draw(found: Explanation, width: int) -> RenderableType:
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from powerflow.report.units import significant

    said = Text.assemble((f"job {found.job_id}: ", "bold"), found.sentence or found.why)
    if found.decided_s is not None:
        said.append(time.strftime(" · decided %H:%M:%S", time.localtime(found.decided_s)), style="dim")
    worth = []
    if found.gpu_price:
        worth.append(f"a GPU is worth {significant(found.gpu_price)} now")
    if found.energy_price:
        worth.append(f"a joule {significant(found.energy_price)} s")
    words = Group(said, *([Text(", ".join(worth), style="dim")] if worth else []))
    if found.now is None and not found.options:
        return words
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for head in ("", "GPUs", "MHz", "step", "power", "energy a step", "time", "energy"):
        table.add_column(head, justify="right", no_wrap=True)
    if found.now is not None:
        table.add_row("now", *_cells(found.now, found.now), style="bold cyan")
    for option in found.options:
        table.add_row("", *_cells(option, found.now))
    note = "as the model believes" + ("; time and energy of a step against what it has" if found.now else "")
    return Group(words, Text(), table, Text(note, style="dim italic"))


def _cells(option: Option, now: Option | None) -> list[str]:
    from powerflow.report.units import NOTHING, duration, power, significant

    def against(value: float, base: float) -> str:
        change = value / base - 1.0
        return f"{change:+.0%}" if abs(change) >= 0.005 else "="

    time_change = against(option.step_time_s, now.step_time_s) if now else NOTHING
    energy_change = against(option.energy_per_step_j, now.energy_per_step_j) if now else NOTHING
    return [
        str(option.gpus),
        f"{option.clock_mhz:.0f}",
        duration(option.step_time_s),
        power(option.power_w),
        f"{significant(option.energy_per_step_j)} J",
        time_change,
        energy_change,
    ]
