"""Show one job on a screen of its own: why it has what it has, what is known about it, and its last output."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from rich.console import Group, RenderableType
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static

from powerflow.api import operations as ops
from powerflow.api.decisions import Explanation
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.describe import Described, draw_job
from powerflow.cli.cluster.explain import draw_explanation
from powerflow.cli.cluster.live_top.repeated import RepeatedQuestion
from powerflow.cli.sanitize import LogText, harmless, line
from powerflow.errors import InputError

#: Last lines of the log that are shown, and seconds between two looks for news of the job.
_LINES, _LOOK_S = 40, 0.25


@dataclass(frozen=True, slots=True)
class JobLook:
    """One job: its record and definition, its explanation, and the last lines of its log."""

    job: Described
    explanation: Explanation
    log: str


def look_at_job(controller: ControllerClient, job_id: str) -> JobLook:
    """Return one job as it is now, with harmless texts.

    Raises:
        InputError: There is no such job, or no controller answers.
    """
    job = controller.ask_as(Described, ops.JOB, job_id=job_id)
    explanation = controller.ask(ops.EXPLAIN, job_id=job_id)
    try:
        log = controller.ask(ops.LOG, job_id=job_id, tail=_LINES).text
    except InputError as error:  # it has not started, or its node does not answer
        log = str(error)
    return JobLook(harmless(job), harmless(explanation), LogText().piece(log, last=True))


class JobScreen(Screen[None]):
    """Screen with one job. It asks for this job alone, and only while it is open."""

    CSS = "#trouble { color: $error; height: auto; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,backspace", "close", "back"),
        Binding("g", "top", "first line", show=False),
        Binding("G", "bottom", "last line", show=True),
    ]

    def __init__(self, question: RepeatedQuestion[JobLook]) -> None:
        super().__init__()
        self._question, self._drawn = question, 0
        self._trouble, self._text = Static(id="trouble"), Static("asks for the job …")
        self._scroll = VerticalScroll(self._text)

    def compose(self) -> ComposeResult:
        """Lay out the screen."""
        yield from (self._trouble, self._scroll, Footer())

    def on_mount(self) -> None:
        """Begin to ask for the job."""
        self._question.start()
        self._scroll.focus()
        self.set_interval(_LOOK_S, self._show)

    def on_unmount(self) -> None:
        """Ask no more."""
        self._question.end()

    def on_resize(self) -> None:
        """Draw for another width."""
        self._drawn = 0

    def action_close(self) -> None:
        """Go back to the cluster."""
        self.dismiss()

    def action_top(self) -> None:
        """Go to the first line."""
        self._scroll.scroll_home(animate=False)

    def action_bottom(self) -> None:
        """Go to the last line of the log."""
        self._scroll.scroll_end(animate=False)

    def _show(self) -> None:
        question = self._question
        trouble = str(question.failed) if question.failed else question.trouble
        self._trouble.update(Text(line(trouble)))
        self._trouble.display = bool(trouble)
        if question.answer is not None and question.answers != self._drawn:
            self._drawn = question.answers
            self._text.update(_drawing(question.answer, self.size.width - 2))


def _drawing(found: JobLook, width: int) -> RenderableType:
    log = Group(Text(f"\nlog, last lines ({time.strftime('%H:%M:%S')})", style="bold"), Text(found.log.rstrip("\n")))
    return Group(draw_explanation(found.explanation, width), Text(), draw_job(found.job, width), log)
