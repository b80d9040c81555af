"""Draw jobs and nodes as tables that fit the width of the terminal."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from powerflow.cli.cluster.state_word import state_word
from powerflow.cli.columns import Column, fitted_table
from powerflow.cli.sanitize import line
from powerflow.units import NOTHING, duration, duration_column, elapsed, energy, energy_column, power, power_column

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.style import StyleType

    from powerflow.api.records import JobRecord

#: Line under every table that shows watts or joules of emulated GPUs.
EMULATED = "ᵉ emulated: from a model, not from a meter"
STYLES = {
    "queued": "yellow",
    "running": "green",
    "held": "magenta",
    "completing": "yellow",
    "completed": "cyan",
    "failed": "red",
    "cancelled": "dim",
    "up": "green",
    "draining": "yellow",
    "drained": "yellow",
    "asleep": "dim",
}
_BLOCKS = " ▏▎▍▌▋▊▉█"


class OneLineTable(Table):
    """A table whose texts are one line each, unless their column may wrap: a name must not look like a row."""

    def add_row(self, *cells: RenderableType | None, style: StyleType | None = None, end_section: bool = False) -> None:
        """Add a row; line breaks and tabs of its texts become visible."""
        whole = [
            line(cell) if isinstance(cell, str) and column.no_wrap else cell
            for cell, column in zip(cells, self.columns, strict=True)
        ]
        super().add_row(*whole, style=style, end_section=end_section)


def plain(*heads: str, left: Collection[str] = (), wraps: Collection[str] = ()) -> Table:
    """Return an empty table with the columns ``heads``.

    Columns in ``left`` are aligned left, the others right. Text may wrap only in the columns in ``wraps``.
    """
    table = OneLineTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for head in heads:
        table.add_column(head, justify="left" if head in left else "right", no_wrap=head not in wraps)
    return table


def job_table(jobs: Sequence[JobRecord], width: int, now_s: float) -> RenderableType:
    """Draw one line per job, in the given order.

    Args:
        jobs: The jobs to draw.
        width: Width of the terminal in characters. If it is narrow, less important columns are left out.
        now_s: Present time in Unix seconds, from which the time until a job's end is computed.
    """
    table = fitted_table(jobs, job_columns(now_s), width, style=lambda job: "dim" if job.ended_s is not None else "")
    return noted(table, any(job.emulated and job.power_w is not None for job in jobs))


def noted(table: RenderableType, emulated: bool) -> RenderableType:
    """Add a line under a table that explains the mark ᵉ, if the table has emulated values."""
    return Group(table, Text(EMULATED, style="dim italic")) if emulated else table


def watts(value: float | None, emulated: bool) -> str:
    """Format watts, with the mark ᵉ if the GPUs are emulated."""
    return NOTHING if value is None else power(value) + mark(emulated)


def watts_column(values: Sequence[tuple[float | None, bool]]) -> list[str]:
    """Format watts for a column of a table, each with True if its GPUs are emulated."""
    texts = power_column([value for value, _ in values])
    return [text + mark(emulated and value is not None) for text, (value, emulated) in zip(texts, values, strict=True)]


def joules(value: float, emulated: bool) -> str:
    """Format an energy, with the mark ᵉ if it is emulated."""
    return energy(value) + mark(emulated)


def side_by_side(values: Sequence[float], emulated: bool) -> list[str]:
    """Format several energies in one unit and with one precision, so that they can be compared."""
    return [text + mark(emulated) for text in energy_column(values)]


def mark(emulated: bool) -> str:
    """Return the mark ᵉ for an emulated value, "" for a measured one."""
    return "ᵉ" if emulated else ""


def bar(share: float | None, cells: int = 8) -> Text:
    """Draw a share as a bar and a number; draw a dash if it is None."""
    if share is None or not math.isfinite(share):
        return Text(NOTHING, style="dim")
    eighths = round(min(max(share, 0.0), 1.0) * cells * 8)
    full, part = divmod(eighths, 8)
    drawn = "█" * full + (_BLOCKS[part] if part else "")
    return Text.assemble((drawn.ljust(cells), "cyan on grey15"), f"{share:4.0%}")


def state(word: str) -> Text:
    """Return the name of a state in the state's colour."""
    return Text(word, style=STYLES.get(word, "red"))


def seconds(value: float | None) -> str:
    """Format a duration; return a dash if it is None."""
    return NOTHING if value is None else duration(value)


def job_columns(now_s: float) -> list[Column[JobRecord]]:
    """Return the columns of a table of jobs, at a time in Unix seconds."""
    return [
        Column("id", lambda job: job.id, right=True),
        Column("name", lambda job: job.name, least=12),
        Column("user", lambda job: job.user, spare=3, least=8),
        Column("state", state_word, lambda job: state(state_word(job))),
        Column("GPUs", _gpus, right=True),
        Column("MHz", _clock, right=True, spare=4),
        Column("power", lambda job: job.power_w, right=True, spare=2, alike=_powers),
        Column("progress", lambda job: job.progress, lambda job: bar(job.progress)),
        Column("step", lambda job: job.step_time_s, right=True, spare=5, alike=_steps),
        Column("ends in", lambda job: _left(job, now_s), right=True),
        Column("why", lambda job: job.exit or job.reason, spare=1, least=20),
    ]


def _powers(jobs: Sequence[JobRecord]) -> list[str]:
    return watts_column([(job.power_w, job.emulated) for job in jobs])


def _steps(jobs: Sequence[JobRecord]) -> list[str]:
    return duration_column([job.step_time_s for job in jobs])


def _gpus(job: JobRecord) -> str:
    asked = job.gpus_asked.rpartition(":")[2]
    if not job.gpus:
        return job.gpus_asked
    return asked if asked == str(job.gpus) else f"{job.gpus} of {asked}"


def _clock(job: JobRecord) -> str | None:
    read = job.clock_read_mhz or job.clock_mhz
    return None if read is None else f"{read:.0f}"


def _left(job: JobRecord, now_s: float) -> str | None:
    return None if job.eta_s is None or job.state.ended else elapsed(max(job.eta_s - now_s, 0.0))
