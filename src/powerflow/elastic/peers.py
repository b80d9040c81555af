"""Read from the mailbox how far the other ranks of a job are: whether they wait, train, or have trained all epochs."""

from __future__ import annotations

from collections.abc import Sequence

from powerflow.elastic.mailbox import Mailbox, Phase, Target

#: Phases in which a rank waits for a new generation.
WAITING = (Phase.READY, Phase.BROKEN, Phase.DONE)
#: A rank that has not reported for this long is gone.
SILENT_S = 10.0


class Peers:
    """The ranks of a job, as their last reports in the mailbox show them. Ranks are given by their names."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def all_wait(self, names: Sequence[str]) -> bool:
        """Return True if all these ranks wait for a new generation."""
        reports = self._mailbox.reports(names)
        return len(reports) == len(names) and all(report.phase in WAITING for report in reports)

    def any_trained(self, names: Sequence[str]) -> bool:
        """Return True if one of these ranks has been in a generation, and so has the state of the run."""
        return any(report.generation for report in self._mailbox.reports(names))

    def others_train(self, names: Sequence[str]) -> bool:
        """Return True if the ranks ``names`` are all new, and other ranks still have to save the state and leave.

        In this case the new ranks must wait.
        """
        if self.any_trained(names):
            return False
        return any(
            report.generation and report.phase not in (Phase.RELEASED, Phase.DONE)
            for report in self._mailbox.living(SILENT_S)
            if report.name not in names
        )

    def all_done(self, target: Target | None) -> bool:
        """Return True if all ranks of a target have trained all training epochs. Ranks that never trained do not count.

        Once the result is True, it stays True.
        """
        members = () if target is None else target.members
        reports = [report for report in self._mailbox.reports([member.name for member in members]) if report.generation]
        return bool(reports) and all(
            report.steps_total is not None and report.step >= report.steps_total for report in reports
        )
