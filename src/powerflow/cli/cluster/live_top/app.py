"""Run the live view of the cluster."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType

from powerflow.cli.cluster.live_top.cluster_look import ClusterLook
from powerflow.cli.cluster.live_top.cluster_screen import ClusterScreen
from powerflow.cli.cluster.live_top.job_screen import JobLook
from powerflow.cli.cluster.live_top.repeated import RepeatedQuestion


class TopApp(App[None]):
    """Live view of the cluster. Any way in which it ends leaves the terminal as it was.

    Args:
        question: Asks for the cluster; it has an answer.
        every_s: Seconds between two answers.
        of_job: Returns the question for one job, by its id.
    """

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c", "quit", "quit", show=False, priority=True)]

    def __init__(
        self,
        question: RepeatedQuestion[ClusterLook],
        every_s: float,
        of_job: Callable[[str], RepeatedQuestion[JobLook]],
    ) -> None:
        super().__init__()
        self._question, self._every_s, self._of_job = question, every_s, of_job

    @property
    def failed(self) -> Exception | None:
        """Why the view has ended: an answer of the controller, or a defect; None if the user has ended it."""
        return self._question.failed or self._exception

    def on_mount(self) -> None:
        """Show the cluster."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._end, 128 + number)
        self.push_screen(ClusterScreen(self._question, self._every_s, self._of_job))

    def on_unmount(self) -> None:
        """Ask no more."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)
        self._question.end()

    def _end(self, code: int) -> None:
        self.exit(return_code=code)

    def _print_error_renderables(self) -> None:
        """Print no traceback with the values of variables, such as a token: the command says what is wrong."""
