"""``powerflow mode``: show or set the rollout stage, and show the results of the jobs in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.api import operations as ops
from powerflow.api.stages import Stage, StageOrder
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.controller_command import Watch, Yes, asks, confirmed, note_unheard
from powerflow.cli.options import Json
from powerflow.cli.show import show
from powerflow.cli.when import minute
from powerflow.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from powerflow.api.stages import SavingsRecord, StageList, StageRecord


@asks
def mode(
    controller: ControllerClient,
    stage: Annotated[
        Stage | None,
        typer.Argument(
            metavar="[STAGE]",
            help="observe: measure jobs; replay: also estimate savings from past days; shadow: also log what PowerFlow"
            " would decide; canary: decide, but stop if jobs get worse; enforce: decide. Default: show the stage.",
        ),
    ] = None,
    projects: Annotated[
        str | None,
        typer.Option(metavar="P,P", help="Names of projects. Default: all projects, also those with their own stage."),
    ] = None,
    yes: Yes = False,
    json: Json = False,
    watch: Watch = None,
) -> None:
    """Show or set the rollout stage: how much PowerFlow may do. Each change can be undone."""
    if stage is not None:
        names = None if projects is None else [name.strip() for name in projects.split(",") if name.strip()]
        if names is not None and not names:  # an empty variable in a script must not mean all projects
            raise InputError("no project is named", where="--projects", fix="name projects, or remove --projects")
        confirmed(lambda sure: controller.ask(ops.SET_STAGE, StageOrder(stage, names, sure)), yes)
        note_unheard(controller, names or ())
    elif projects is not None:
        raise InputError("no stage is given", where="STAGE", fix="give observe, replay, shadow, canary or enforce")
    show("modes", lambda: controller.ask(ops.STAGES), _draw, _plain, json=json, every_s=watch)


def _plain(found: StageList) -> dict[str, object]:
    return {"modes": found.items, "replayed": found.replayed}


def _draw(found: StageList, width: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from powerflow.cli.columns import Column, fitted_table

    modes = found.items
    others = "all" if len(modes) == 1 else "all others"
    columns: list[Column[StageRecord]] = [
        Column("projects", lambda at: at.project or others, least=10),
        Column("stage", lambda at: at.stage),
        Column("since", lambda at: minute(at.set_s) if at.set_s else "the first start"),
        Column("by", lambda at: at.by, spare=3, least=8),
        Column("jobs ended", lambda at: at.ended, right=True, spare=4),
        Column("JCT as said", lambda at: _share(at.within_time, at.judged), right=True, spare=2),
        Column("energy as said", lambda at: _share(at.within_energy, at.judged), right=True, spare=2),
        Column("energy would be", lambda at: _change(at.energy_change), right=True, spare=1),
        Column("JCT would be", lambda at: _change(at.jct_change), right=True, spare=1),
    ]
    table = fitted_table(modes, columns, width)
    notes = [Text(f"{at.project or 'all'}: back to {at.stage}: {at.why}", style="yellow") for at in modes if at.why]
    if any(at.judged for at in modes):
        notes.append(
            Text("as said: share of jobs inside the interval predicted at their start; it should be 80 %", style="dim")
        )
    if any(at.compared for at in modes):
        notes.append(
            Text("would be: predicted change if PowerFlow decided, instead of running jobs as asked", style="dim")
        )
    if found.replayed is not None:
        notes.append(Text(_replayed(found.replayed)))
    return Group(table, *notes)


def _replayed(found: SavingsRecord) -> str:
    days = "day" if found.days == 1 else f"{found.days} days"
    energy, jct = found.acted_j / found.asked_j - 1.0, found.acted_jct_s / found.asked_jct_s - 1.0
    what = f"{energy:+.1%} energy, {jct:+.1%} mean JCT"
    return f"the last {days}, simulated with and without PowerFlow ({found.jobs} jobs, learned costs): {what}"


def _share(share: float | None, of: int) -> str:
    from powerflow.units import NOTHING

    return NOTHING if share is None else f"{share:.0%} of {of}"


def _change(change: float | None) -> str:
    from powerflow.units import NOTHING

    return NOTHING if change is None else f"{change:+.1%}"
