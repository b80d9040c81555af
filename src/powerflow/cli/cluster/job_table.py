"""Draw jobs and nodes as tables that fit the width of the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from powerflow.units import NOTHING, duration, energies, energy, power

if TYPE_CHECKING:
    from rich.console import RenderableType

    from powerflow.api.records import JobRecord

#: Line under every table that shows watts or joules of emulated GPUs.
EMULATED = "ᵉ emulated: from a model, not from a meter"
STYLES = {
    "queued": "yellow",
    "running": "green",
    "held": "magenta",
    "completed": "cyan",
    "failed": "red",
    "cancelled": "dim",
    "up": "green",
    "drained": "yellow",
    "asleep": "dim",
}
_BLOCKS = " ▏▎▍▌▋▊▉█"


def plain(*heads: str, left: Collection[str] = (), wraps: Collection[str] = ()) -> Table:
    """Return an empty table with the columns ``heads``.

    Columns in ``left`` are aligned left, the others right. Text may wrap only in the columns in ``wraps``.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for head in heads:
        table.add_column(head, justify="left" if head in left else "right", no_wrap=head not in wraps)
    return table


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of the table of jobs.

    Attributes:
        cell: Function from a job and the present time (Unix seconds) to the text in this column.
        spare: Order in which columns are left out on a narrow terminal, the highest number first; a column with 0 is
            always shown.
        least: Number of characters to which the text may be shortened; None if it must not be shortened.
    """

    head: str
    cell: Callable[[JobRecord, float], str | Text]
    right: bool = False
    spare: int = 0
    least: int | None = None


def job_table(jobs: Sequence[JobRecord], width: int, now_s: float) -> RenderableType:
    """Draw one line per job, in the given order.

    Args:
        jobs: The jobs to draw.
        width: Width of the terminal in characters. If it is narrow, less important columns are left out.
        now_s: Present time in Unix seconds, from which the time until a job's end is computed.
    """
    cells = {column: [_text(column.cell(job, now_s)) for job in jobs] for column in _COLUMNS}
    widths = {c: max(cell_len(c.head), *(text.cell_len for text in cells[c])) for c in _COLUMNS}
    shown = _fitting(widths, width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for column, cut in shown.items():
        justify: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(column.head, justify=justify, no_wrap=True, overflow="ellipsis", width=cut)
    for i, job in enumerate(jobs):
        table.add_row(*(cells[column][i] for column in shown), style="dim" if job.state.ended else "")
    return noted(table, any(job.emulated and job.power_w is not None for job in jobs))


def _fitting(widths: Mapping[_Column, int], width: int) -> Mapping[_Column, int]:
    """Return the columns that fit side by side, with two blanks between them, and the width of each."""
    cut = {column: min(full, column.least or full) for column, full in widths.items()}
    while sum(cut.values()) + 2 * len(cut) - 2 > width:
        least_needed = max(cut, key=lambda column: column.spare)
        if least_needed.spare == 0:
            break
        del cut[least_needed]
    left = max(width - sum(cut.values()) - 2 * len(cut) + 2, 0)
    for column, least in cut.items():
        cut[column] = min(widths[column], least + left)
        left -= cut[column] - least
    return cut


def noted(table: RenderableType, emulated: bool) -> RenderableType:
    """Add a line under a table that explains the mark ᵉ, if the table has emulated values."""
    return Group(table, Text(EMULATED, style="dim italic")) if emulated else table


def watts(value: float | None, emulated: bool) -> str:
    """Format watts, with the mark ᵉ if the GPUs are emulated."""
    return NOTHING if value is None else power(value) + mark(emulated)


def joules(value: float, emulated: bool) -> str:
    """Format an energy, with the mark ᵉ if it is emulated."""
    return energy(value) + mark(emulated)


def side_by_side(values: Sequence[float], emulated: bool) -> list[str]:
    """Format several energies in the same unit, so that they can be compared."""
    return [text + mark(emulated) for text in energies(*values)]


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


def _text(cell: str | Text) -> Text:
    return cell if isinstance(cell, Text) else Text(cell)


def _gpus(job: JobRecord, now_s: float) -> str:
    asked = job.gpus_asked.rpartition(":")[2]
    if not job.gpus:
        return job.gpus_asked
    return asked if asked == str(job.gpus) else f"{job.gpus} of {asked}"


def _clock(job: JobRecord, now_s: float) -> str:
    read = job.clock_read_mhz or job.clock_mhz
    return NOTHING if read is None else f"{read:.0f}"


def _left(job: JobRecord, now_s: float) -> str:
    return NOTHING if job.eta_s is None or job.state.ended else duration(max(job.eta_s - now_s, 0.0))


_COLUMNS = (
    _Column("id", lambda job, now_s: job.id, right=True),
    _Column("name", lambda job, now_s: job.name or NOTHING, least=12),
    _Column("user", lambda job, now_s: job.user, spare=2, least=8),
    _Column("state", lambda job, now_s: state(str(job.state))),
    _Column("GPUs", _gpus, right=True),
    _Column("MHz", _clock, right=True, spare=3),
    _Column("power", lambda job, now_s: watts(job.power_w, job.emulated), right=True, spare=1),
    _Column("progress", lambda job, now_s: bar(job.progress)),
    _Column("step", lambda job, now_s: seconds(job.step_time_s), right=True, spare=4),
    _Column("ends in", _left, right=True),
    _Column("why", lambda job, now_s: job.exit or job.reason, spare=5, least=24),
)
