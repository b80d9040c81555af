"""``powerflow top``: show the present state of the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from powerflow.api import operations as ops
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Watch, asks
from powerflow.cli.options import Json
from powerflow.cli.show import show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from powerflow.api.records import Top


@asks
def top(controller: ControllerClient, json: Json = False, watch: Watch = None) -> None:
    """Show the cluster now: GPUs, power, energy, and the jobs that run and wait."""
    show("top", lambda: controller.ask(ops.TOP), draw, lambda found: found, json=json, every_s=watch)


def draw(found: Top, width: int) -> RenderableType:
    """Draw the state of the cluster for a terminal of ``width`` characters."""
    from rich.console import Group
    from rich.text import Text

    from powerflow.cli.cluster.job_table import bar, job_table, noted, side_by_side, watts
    from powerflow.units import power, significant

    busy = found.gpus_busy / found.gpus if found.gpus else 0.0
    idle_w = found.power_w - found.jobs_power_w
    of_jobs = found.jobs_energy_j / found.energy_j if found.energy_j else 0.0
    used = found.energy_j, found.jobs_energy_j, found.idle_energy_j
    all_j, jobs_j, idle_j = side_by_side(used, found.emulated)
    price = f" · λ_E {significant(found.energy_price, 2)} s/J" if found.energy_price else ""
    cap = "" if found.cap_w is None else f" · cap {power(found.cap_w)}"
    until_s = None if found.next_decision_s is None else max(0.0, found.next_decision_s - found.time_s)
    soon = f" · next decision in {until_s:.0f} s" if found.queued and until_s is not None else ""
    lines = [
        Text.assemble(("GPUs    ", "bold"), bar(busy, 16), f"   {found.gpus_busy} of {found.gpus} busy"),
        Text.assemble(
            ("power   ", "bold"),
            watts(found.power_w, found.emulated),
            f" · jobs {watts(found.jobs_power_w, found.emulated)}, idle {watts(idle_w, found.emulated)}{cap}",
        ),
        Text.assemble(
            ("energy  ", "bold"),
            f"{all_j} · jobs {jobs_j} ({of_jobs:.0%}), idle {idle_j}",
        ),
        Text.assemble(("jobs    ", "bold"), f"{_counts(found)}{soon}"),
        Text.assemble(("policy  ", "bold"), f"{found.policy}{price} · budget: {found.budget}"),
        *(Text(f"! {notice}", style="yellow") for notice in found.notices),
    ]
    if not found.jobs:
        return noted(Group(*lines), found.emulated)
    return Group(*lines, Text(), job_table(found.jobs, width, found.time_s))


def _counts(found: Top) -> str:
    """Return in words how many jobs are in each state."""
    ending = f", {found.completing} completing" if found.completing else ""
    return f"{found.running} running{ending}, {found.queued} queued, {found.held} held"
