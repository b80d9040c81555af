"""Read from the mailbox how far the other ranks of a job are: whether they wait, train, or have trained all epochs.

Reports of ranks on other nodes may be seconds old, and clocks of nodes differ. So a rank counts as silent only if this
rank has seen no new report of it for a while, by its own clock. A report says what has happened, never what has not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from powerflow.elastic.mailbox import Mailbox, Phase, RankReport, Target

#: Phases in which a rank waits for a new generation, or for the members of one.
WAITING = (Phase.READY, Phase.BROKEN, Phase.DONE, Phase.REGROUPING)
#: A rank that has not reported for this long is gone.
SILENT_S = 10.0


class Peers:
    """The ranks of a job, as their last reports in the mailbox show them. Ranks are given by their names."""

    def __init__(self, mailbox: Mailbox, clock: Callable[[], float] = time.monotonic) -> None:
        self._mailbox = mailbox
        self._clock = clock
        self._asked: dict[int, float] = {}  # when this rank first asked who must leave before a generation
        self._beats: dict[str, tuple[int, float]] = {}  # last beat of a rank, and when this rank first saw it

    def all_wait(self, names: Sequence[str]) -> bool:
        """Return True if all these ranks wait for a new generation.

        A rank that forms a group with others, who may never come, gives up when it sees the newest target.
        """
        reports = self._mailbox.reports(names)
        return len(reports) == len(names) and all(report.phase in WAITING for report in reports)

    def any_trained(self, names: Sequence[str]) -> bool:
        """Return True if one of these ranks has been in a generation, and so has the state of the run."""
        return any(report.generation for report in self._mailbox.reports(names))

    def have_state(self, target: Target, current: Target | None) -> bool:
        """Return True if a member of a target has the state of the run.

        Args:
            target: The target.
            current: Target of the generation in which this rank is, so that it need not wait for reports.
        """
        mine = () if current is None else current.members
        names = [member.name for member in target.members]
        return any(member in mine for member in target.members) or self.any_trained(names)

    def others_train(self, target: Target) -> bool:
        """Return True if the members of a target are all new, and other ranks still have to save the state and leave.

        In this case the new ranks must wait.
        """
        names = [member.name for member in target.members]
        if self.any_trained(names):
            return False
        reports = {report.name: report for report in self._mailbox.all_reports()}
        leaving = self._mailbox.leaving(target)
        if leaving is not None:  # the report of such a rank may not have come yet
            others = list(leaving)
        elif (
            target.generation > 1
            and self._clock() <= self._asked.setdefault(target.generation, self._clock()) + SILENT_S
        ):
            return True  # nobody has said who they are, yet
        else:
            others = [name for name, report in reports.items() if report.generation]
        return any(
            self._speaks(name, reports.get(name)) for name in others if name not in names and name not in target.lost
        )

    def _speaks(self, name: str, report: RankReport | None) -> bool:
        """Return True if a rank has not said that it has left, and this rank has heard from it not long ago."""
        if report is not None and report.phase in (Phase.RELEASED, Phase.DONE):
            return False
        beat, now_s = -1 if report is None else report.beat, self._clock()
        if name not in self._beats or self._beats[name][0] != beat:
            self._beats[name] = (beat, now_s)
        return now_s - self._beats[name][1] <= SILENT_S

    def all_done(self, target: Target | None, *, formed: bool = False) -> bool:
        """Return True if all ranks of a target have trained all training epochs. Once True, it stays True.

        Args:
            target: The target.
            formed: True if all members of the target have formed a group, so that a missing report is only late. If
                False, ranks that have not reported a generation do not count.
        """
        members = () if target is None else target.members
        reports = [report for report in self._mailbox.reports([member.name for member in members]) if report.generation]
        if formed and len(reports) < len(members):
            return False
        return bool(reports) and all(
            report.steps_total is not None and report.step >= report.steps_total for report in reports
        )
