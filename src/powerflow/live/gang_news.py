"""What a job's mailbox says, read with suspicion: its user may write there whatever they like."""

from __future__ import annotations

import contextlib
import math
import os

from powerflow.elastic.mailbox import Mailbox, RankReport, Target
from powerflow.live.gang_facts import Progressed
from powerflow.live.gang_yard import open_folder, prepare

_COUNTS = ("generation", "step", "epoch", "timed_steps", "samples", "local_batch", "accumulation", "global_batch")


class News:
    """Both sides of one job's mailbox."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def post(self, target: Target, user: str) -> None:
        """Tell the ranks what the gang shall be.

        Raises:
            OSError: If that cannot be written.
            EngineError: If there is no such user.
        """
        prepare(self._mailbox, user)
        self._mailbox.post_target(target)

    def generation(self) -> int:
        """Generation that the gang has gone over to, or is about to; 0 before the first."""
        try:
            switch = self._mailbox.switch()
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return 0
        if switch is None or not _is_count(switch.target.generation):
            return 0
        return switch.target.generation

    def sweep(self) -> None:
        """Before a new life: drop what ranks said in the last one, lest the new ones take them for alive."""
        with contextlib.suppress(OSError):
            folder = open_folder(self._mailbox.directory / "ranks")
            try:
                for name in os.listdir(folder):
                    if name.endswith(".json") and not name.startswith("."):
                        os.unlink(name, dir_fd=folder)
            finally:
                os.close(folder)

    def read(self, names: list[str]) -> dict[str, RankReport]:
        """What these ranks say of themselves, by name; what makes no sense was not said."""
        found = {}
        for name in names:
            try:
                reports = self._mailbox.reports([name])
            except (OSError, ValueError, TypeError, KeyError, AttributeError):
                continue
            if reports and _makes_sense(reports[0], name):
                found[name] = reports[0]
        return found


def progressed(job_id: str, leader: RankReport, gpus: int, nodes: int) -> Progressed:
    """How far a gang is, as the rank says that is furthest."""
    return Progressed(
        job_id=job_id,
        step=leader.step,
        steps_total=leader.steps_total,
        samples=leader.samples,
        generation=leader.generation,
        gpus=gpus,
        nodes=nodes,
        local_batch=leader.local_batch,
        accumulation=leader.accumulation,
        global_batch=leader.global_batch,
        timed_steps=leader.timed_steps,
        timed_s=leader.timed_s,
    )


def _makes_sense(report: RankReport, name: str) -> bool:
    counts = [getattr(report, field) for field in (*_COUNTS, "saved_step")]
    seconds = (report.phase_s, report.timed_s, report.pause_s)
    return (
        report.name == name
        and all(map(_is_count, counts))
        and (report.steps_total is None or _is_count(report.steps_total))
        and all(isinstance(value, int | float) and math.isfinite(value) and value >= 0 for value in seconds)
        and isinstance(report.note, str)
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62
