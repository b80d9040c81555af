"""Write to a job's mailbox, and read it as untrusted data, because the job's user may put anything there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from powerflow.api.job_spec import JobSpec
from powerflow.elastic.mailbox import CHECKPOINT, Mailbox, Member, RankReport, Target
from powerflow.gangs.context import open_folder, prepare, spoiling
from powerflow.gangs.rank_reports import Nonsense, read_report
from powerflow.gangs.report_bounds import MOST_BATCH
from powerflow.gangs.state_file import GangRecord
from powerflow.gangs.types import Progressed
from powerflow.osutil.files import MOST_BYTES
from powerflow.osutil.folders import read_text

#: Files of a target, in the order in which they are written.
TARGET_FILES = ("patience.json", "target.json")
#: Most files of one job that are looked through; if there are more, the others are not from its ranks.
MOST_FILES = 20_000
#: Most ranks that have ended which a target names: more than end at once with a machine or two.
MOST_ENDED = 200


class ReportReader:
    """Read the reports of one job's ranks, and post targets to these ranks.

    Args:
        mailbox: The controller's copy of the job's mailbox.
        send: Called with the name and the text of each file that was written ("": deleted) in this copy, so that other
            machines get it.

    Attributes:
        nonsense: Ranks whose file was no report at the last `read`, each with the reason.
    """

    def __init__(self, mailbox: Mailbox, send: Callable[[str, str], None] = lambda file, text: None) -> None:
        self._mailbox, self._send = mailbox, send
        self.nonsense: dict[str, str] = {}

    def post(self, target: Target, user: str) -> None:
        """Post a target in the job's mailbox: the message that names the ranks which shall train together.

        Raises:
            OSError: The target cannot be written.
            EngineError: There is no login with the name ``user``, or this user has damaged the mailbox.
        """
        with spoiling():
            prepare(self._mailbox, user)
            self._mailbox.post_target(target)
        for file in TARGET_FILES:
            with contextlib.suppress(OSError), open_folder(self._mailbox.directory) as folder:
                if text := read_text(folder, file, MOST_BYTES):
                    self._send(file, text)

    def generation(self) -> int:
        """Return the generation (group of ranks) that trains now or is being formed; 0 before the first."""
        try:
            switch = self._mailbox.switch()
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return 0
        if switch is None or not _is_count(switch.target.generation):
            return 0
        return switch.target.generation

    def sweep(self) -> None:
        """Delete the reports of earlier launches, so that new ranks do not believe that those ranks are alive."""
        with (
            contextlib.suppress(OSError),
            open_folder(self._mailbox.directory / "ranks") as folder,
            os.scandir(folder) as entries,  # no list of them all: a job may have made a million
        ):
            for entry in islice(entries, MOST_FILES):
                if entry.name.endswith(".json") and not entry.name.startswith("."):
                    with contextlib.suppress(OSError):  # a folder of that name
                        os.unlink(entry.name, dir_fd=folder)
                        self._send(f"ranks/{entry.name}", "")

    def drop_checkpoint(self) -> None:
        """Delete the checkpoint in the job's own folder.

        The job has ended, so nobody will read this checkpoint.
        """
        beside = [Path(CHECKPOINT).with_suffix(suffix).name for suffix in (".lock", ".fence")]
        names = (CHECKPOINT, f".{CHECKPOINT}.new", *beside)
        for name in names:
            self._send(name, "")
        with contextlib.suppress(OSError), open_folder(self._mailbox.directory) as folder:
            for name in names:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)

    def read(self, names: list[str]) -> dict[str, RankReport]:
        """Return the reports of these ranks, by rank name. Set `nonsense` to the ranks whose file is no report."""
        found = {name: read_report(self._mailbox.directory / "ranks", name) for name in names}
        self.nonsense = {name: said.why for name, said in found.items() if isinstance(said, Nonsense)}
        return {name: said for name, said in found.items() if isinstance(said, RankReport)}


def target_of(record: GangRecord, spec: JobSpec, outside_s: float) -> Target:
    """Return the message that names the members of a gang's newest generation.

    Args:
        record: The gang record.
        spec: The job's specification.
        outside_s: Seconds that a rank may do something other than steps while others wait for it.
    """
    members = tuple(Member(name, record.ranks[name].node) for name in record.members)
    return Target(
        generation=record.generation,
        members=members,
        local_batch_max=(spec.batch.local_max if spec.batch else None) or 0,
        nodes=max(len({member.node for member in members}), 1),
        checkpoint_s=spec.checkpoint.every,
        outside_s=outside_s,
        # those that have ended, too: a machine that crashed and is back has closed none of their connections
        lost=(*record.cut, *record.ended[-MOST_ENDED:]),
        leaving=tuple(record.leaving),
    )


def progressed(job_id: str, leader: RankReport, gpus: int, nodes: int) -> Progressed:
    """Return the event that reports the progress of a gang, from the report of the rank with the most steps."""
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


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MOST_BATCH
