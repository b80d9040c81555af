"""Show the cluster on a screen: head, jobs or GPUs, the reason of the selected job, and keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.console import Group
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Input, Static

from powerflow.api.records import JobRecord
from powerflow.cli.cluster.cluster_head import head_lines, notice_lines
from powerflow.cli.cluster.job_table import EMULATED
from powerflow.cli.cluster.live_top.cluster_look import ClusterLook
from powerflow.cli.cluster.live_top.columns import FALLING, GpuRow, gpu_columns, gpu_rows, live_job_columns
from powerflow.cli.cluster.live_top.fitted_rows import RowTable, fill, selected
from powerflow.cli.cluster.live_top.job_screen import JobLook, JobScreen
from powerflow.cli.cluster.live_top.repeated import RepeatedQuestion
from powerflow.cli.cluster.state_word import state_word
from powerflow.cli.sanitize import line
from powerflow.units import duration

#: Seconds between two looks for an answer, and after which an answer is called old, beyond the usual interval.
_LOOK_S, _LATE_S = 0.25, 3.0
#: Most budgets and notices that the head shows; on a terminal of few lines one of each, on a smaller one no notices
#: and two lines.
_MOST, _FEW_LINES, _LEAST_LINES = 3, 30, 18


class ClusterScreen(Screen[None]):
    """Screen with the cluster; `TopApp` describes the arguments."""

    CSS = """
    ClusterScreen { overflow: hidden; }
    ClusterScreen Static { height: auto; }
    #stale { color: $error; }
    #why { color: $text-muted; max-height: 2; }
    #rows { height: 1fr; }
    #filter { display: none; height: 1; border: none; padding: 0; }
    #filter.open { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "app.quit", "quit"),
        Binding("n", "turn", "nodes/jobs"),
        Binding("s", "sort", "sort"),
        Binding("r", "reverse", "reverse"),
        Binding("slash", "filter", "filter", key_display="/"),
        Binding("w", "warnings", "warnings"),
        Binding("escape", "clear", "clear", show=False),
        Binding("space", "again", "refresh", show=False),
    ]

    def __init__(
        self,
        question: RepeatedQuestion[ClusterLook],
        every_s: float,
        of_job: Callable[[str], RepeatedQuestion[JobLook]],
    ) -> None:
        super().__init__()
        self._question, self._every_s, self._of_job = question, every_s, of_job
        self._drawn = -1
        self._shows_gpus, self._shows_notices = False, False
        self._order: dict[bool, tuple[str, bool] | None] = {False: None, True: None}  # of jobs, and of GPUs
        self._words = ""
        self._head, self._stale, self._notices = Static(), Static(id="stale"), Static()
        self._rows, self._why = RowTable(id="rows"), Static(id="why")
        self._filter = Input(placeholder="show only what has this text; Esc shows all", id="filter", compact=True)

    def compose(self) -> ComposeResult:
        """Lay out the screen."""
        yield from (self._head, self._stale, self._notices, self._rows, self._why, self._filter, Footer())

    def on_mount(self) -> None:
        """Begin to ask."""
        self._question.start()
        self._rows.focus()
        self.set_interval(_LOOK_S, self._look)

    def on_resize(self) -> None:
        """Draw for another size."""
        self._draw()

    # --- keys -----------------------------------------------------------------------------------------------------

    def action_turn(self) -> None:
        """Show GPUs instead of jobs, or jobs again."""
        self._shows_gpus = not self._shows_gpus
        self._draw()

    def action_warnings(self) -> None:
        """Show all notices in full, or only some again."""
        self._shows_notices = not self._shows_notices
        self._draw()

    def action_sort(self) -> None:
        """Sort by the next column; after the last one, in the usual order."""
        names = [str(key.value) for key in self._rows.columns]
        now = self._order[self._shows_gpus]
        at = names.index(now[0]) + 1 if now is not None and now[0] in names else 0
        self._order[self._shows_gpus] = (names[at], names[at] in FALLING) if at < len(names) else None
        self._draw()

    def action_reverse(self) -> None:
        """Sort the other way round."""
        now = self._order[self._shows_gpus]
        first = "node" if self._shows_gpus else "id"
        self._order[self._shows_gpus] = (first, True) if now is None else (now[0], not now[1])
        self._draw()

    def action_filter(self) -> None:
        """Ask for a text that rows must have."""
        self._filter.add_class("open")
        self._filter.focus()

    def action_clear(self) -> None:
        """Show all rows again."""
        self._filter.value, self._words = "", ""
        self._filter.remove_class("open")
        self._rows.focus()
        self._draw()

    def action_again(self) -> None:
        """Ask at once."""
        self._question.again()

    @on(DataTable.RowSelected)
    def _opened(self) -> None:
        """Open the selected job, or the job of the selected GPU."""
        job = key = selected(self._rows)
        if self._shows_gpus:
            job = next((row.gpu.job_id for row in self._gpus() if _place(row) == key), None)
        if job is not None:
            self.app.push_screen(JobScreen(self._of_job(job)))

    @on(DataTable.HeaderSelected)
    def _sorted(self, event: DataTable.HeaderSelected) -> None:
        name, now = str(event.column_key.value), self._order[self._shows_gpus]
        falls = not now[1] if now is not None and now[0] == name else name in FALLING
        self._order[self._shows_gpus] = (name, falls)
        self._draw()

    @on(DataTable.RowHighlighted)
    def _moved(self) -> None:
        self._say_why()

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        self._words = event.value.strip().lower()
        self._draw()

    @on(Input.Submitted)
    def _chosen(self) -> None:
        if not self._words:
            self._filter.remove_class("open")
        self._rows.focus()

    # --- drawing --------------------------------------------------------------------------------------------------

    @property
    def _found(self) -> ClusterLook:
        assert self._question.answer is not None  # of the first question
        return self._question.answer

    def _look(self) -> None:
        if self._question.failed is not None:
            self.app.exit()
        if self._question.answers != self._drawn:
            self._draw()
        self._say_age()

    def _draw(self) -> None:
        self._drawn = self._question.answers
        self._draw_head()
        width = self.size.width - 2  # the scroll bar
        if self._shows_gpus:
            fill(self._rows, self._gpus(), gpu_columns(), _place, width, self._order[True])
        else:
            columns = live_job_columns(self._found.top.time_s)
            fill(self._rows, self._jobs(), columns, lambda job: job.id, width, self._order[False])
        self._say_age()
        self._say_why()

    def _draw_head(self) -> None:
        found, width = self._found, self.size.width
        most = 1 if self.size.height < _FEW_LINES else _MOST
        lines = head_lines(found.top, found.nodes, found.budgets[:most])
        if found.top.emulated:
            lines[-1].append(f" · {EMULATED}", style="dim italic")
        tiny = self.size.height < _LEAST_LINES
        lines = lines[:2] if tiny else lines
        self._head.update(Group(*(_short(each, width) for each in lines)))
        notices = notice_lines(found.top)
        if not self._shows_notices:
            if len(notices) > most:
                more = f"! {len(notices) - most + 1} notices, w shows them all; {notices[most - 1].plain[2:]}"
                notices = [*notices[: most - 1], Text(more, "yellow")]
            notices = [_short(each, width) for each in notices]
        self._notices.update(Group(*notices))
        self._notices.display = bool(notices) and (self._shows_notices or not tiny)

    def _jobs(self) -> Sequence[JobRecord]:
        def words(job: JobRecord) -> str:
            return " ".join((job.id, job.name, job.user, job.project, state_word(job), job.reason, *job.nodes))

        return [job for job in self._found.top.jobs if self._words in words(job).lower()]

    def _gpus(self) -> Sequence[GpuRow]:
        def words(row: GpuRow) -> str:
            job = "" if row.gpu.job_id is None else f"job {row.gpu.job_id}"
            return " ".join((row.node.name, row.node.gpu_type, row.node.state, job, row.gpu.out, row.node.reason))

        return [row for row in gpu_rows(self._found.nodes) if self._words in words(row).lower()]

    def _say_age(self) -> None:
        """Say since when the data are old, if they are."""
        question = self._question
        age_s = max(0.0, time.time() - question.answered_s)
        old = bool(question.trouble) or age_s > self._every_s + _LATE_S
        at = time.strftime("%H:%M:%S", time.localtime(question.answered_s))
        said = f"no answer for {duration(round(age_s))}: what you see is of {at}"
        trouble = f" ({line(question.trouble)})" if question.trouble else ""
        self._stale.update(Text(said + trouble if old else ""))
        self._stale.display = old

    def _say_why(self) -> None:
        """Say in full what the selected line may have no room for."""
        top = self._found.top
        key, parts = selected(self._rows), []
        if not self._rows.row_count:
            parts.append("nothing matches; Esc shows all" if self._words else "nothing to show")
        elif not self._shows_gpus:
            parts += [_of_job(job) for job in top.jobs if job.id == key]
        if (there := top.running + top.queued + top.held) > len(top.jobs):
            parts.append(f"the list has {len(top.jobs)} of {there} jobs")
        self._why.update(Text(" · ".join(parts)))


def _of_job(job: JobRecord) -> str:
    """Return in one sentence whose a job is and why it has what it has."""
    whose = f"{job.user} · project {job.project}" if job.project else job.user
    batch = "" if job.local_batch is None else f" · local batch {job.local_batch} × {job.accumulation or 1}"
    on = f" · on {', '.join(job.nodes)}" if job.nodes else ""
    return line(f"job {job.id} of {whose}: {job.exit or job.reason or state_word(job)}{batch}{on}")


def _place(row: GpuRow) -> str:
    return f"{row.node.name} {row.gpu.index}"


def _short(text: Text, width: int) -> Text:
    shown = text.copy()
    shown.truncate(width, overflow="ellipsis")
    shown.no_wrap = True
    return shown
