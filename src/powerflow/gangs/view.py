"""Answer questions about one gang in one turn, from its record, the engine's answer and the reports of its ranks.

Views decide nothing and change nothing. They read the record anew for each question, so they stay true when it changes.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from powerflow.device.protocol import Place
from powerflow.elastic.mailbox import Phase, RankReport
from powerflow.engine.protocol import RankName, RankState, RankStatus
from powerflow.gangs.hang_detector import TRAINING
from powerflow.gangs.state_file import GangRecord


@dataclass(frozen=True, slots=True)
class GangView:
    """What is known of the ranks of any gang.

    Attributes:
        record: Of the gang.
        statuses: What the engine says, by rank name; ranks that the record does not have (strays) included.
        wanted: GPUs that the gang shall have.
    """

    record: GangRecord
    statuses: Mapping[str, RankStatus]
    wanted: Sequence[Place]

    def alive(self, name: str) -> bool:
        """Return whether a rank runs."""
        status = self.statuses.get(name)
        return status is not None and status.state is RankState.RUNNING

    def has_ended(self, name: str) -> bool:
        """Return whether a rank ran, and does not any more."""
        return self.record.ranks[name].launched and not self.alive(name)

    def code(self, name: str) -> int | None:
        """Exit code of a rank that has ended; None if it was lost."""
        status = self.statuses.get(name)
        return None if status is None else status.code

    def rebooted(self, name: str) -> bool:
        """Return whether a rank was ended because its machine went down."""
        status = self.statuses.get(name)
        return status is not None and status.rebooted

    def excuse(self, name: str) -> str:
        """Why the end of a rank is no fault of the job's; "" where it is, or where the rank lives."""
        if self.record.ranks[name].launched and name not in self.statuses:
            return "its engine does not know it any more"
        return "its machine was booted" if self.rebooted(name) else ""

    @property
    def running(self) -> list[str]:
        """All ranks of this job that run, strays included."""
        return [name for name in self.statuses if self.alive(name)]

    @property
    def living(self) -> list[str]:
        """Ranks of the record that run."""
        return [name for name in self.record.ranks if self.alive(name)]

    @property
    def ended(self) -> list[str]:
        """Ranks of the record that have ended; their end has not been dealt with."""
        return [name for name in self.record.ranks if self.has_ended(name)]

    @property
    def all_leave(self) -> bool:
        """True if no rank shall stay."""
        return self.record.ranks.keys() <= set(self.record.leaving)

    def slots(self, names: Sequence[str]) -> list[Place]:
        """GPUs of these ranks."""
        return [(entry.node, gpu) for entry in map(self.record.ranks.__getitem__, names) for gpu in entry.gpus]

    def is_stale(self, name: str) -> bool:
        """Return whether a rank can never be launched: it was named in an earlier epoch, which is fenced now."""
        return not self.record.ranks[name].launched and RankName.parse(name).epoch < self.record.epoch


@dataclass(frozen=True, slots=True)
class InPlaceView(GangView):
    """What is known of the ranks of an in-place gang.

    Attributes:
        reports: Last reports of the ranks; those that have not reported are missing.
        nonsense: Ranks that wrote something else than a report, and why it is none.
    """

    reports: Mapping[str, RankReport] = field(default_factory=dict)
    nonsense: Mapping[str, str] = field(default_factory=dict)

    @property
    def members(self) -> list[RankReport]:
        """Last reports of the members, in order; members that have not reported are missing."""
        return [self.reports[name] for name in self.record.members if name in self.reports]

    @property
    def step(self) -> int:
        """Steps that the furthest rank has done."""
        return max((report.step for report in self.reports.values()), default=0)

    @property
    def whole(self) -> bool:
        """True if all members train in one group of the newest generation."""
        return 0 < len(self.record.members) == len(self.members) and all(
            report.generation == self.record.generation and report.phase in TRAINING and self.alive(report.name)
            for report in self.members
        )

    def joined(self, name: str) -> bool:
        """Return whether a rank has been part of a group."""
        return name in self.reports and self.reports[name].generation > 0

    @property
    def silent(self) -> bool:
        """True if no rank has reported.

        Its script may not use `powerflow.elastic`; another rank would run all of it again.
        """
        return not (self.record.joined or self.reports) and any(e.launched for e in self.record.ranks.values())

    def ended_badly(self, name: str) -> bool:
        """Return whether a rank that was not told to leave ended badly.

        One that got SIGTERM from somebody else saves and ends with code 0: that is no end of its training either.
        """
        released = name in self.reports and self.reports[name].phase is Phase.RELEASED
        return self.code(name) != 0 or released or self.rebooted(name)

    @property
    def failed_after_the_end(self) -> str:
        """First rank that has trained all there is, and then failed; "" for none."""
        done = [name for name in self.ended if name in self.reports and self.reports[name].phase is Phase.DONE]
        return next((name for name in done if self.code(name) != 0), "")

    @property
    def trained_all(self) -> RankReport | None:
        """Last report of the first rank that has ended because no step is left to train.

        If its script left the loop before, it reports nothing more; the others do the same, or wait for it in vain.
        """
        for name in self.ended:
            report = self.reports.get(name)
            if report is None:
                continue
            stopped = name not in self.record.leaving and report.generation > 0 and not self.ended_badly(name)
            if report.phase is Phase.DONE or stopped:
                return report
        return None

    @property
    def all_trained(self) -> bool:
        """True if the ranks that trained have come to the end, and only do what their script does after its loop."""
        phases = [report.phase for name, report in self.reports.items() if report.generation and self.alive(name)]
        return Phase.DONE in phases and all(phase in (Phase.DONE, Phase.RELEASED) for phase in phases)

    @property
    def late(self) -> list[str]:
        """Newcomers to a gang that has trained all there is: they would wait for ever, or have seen it and gone."""
        return [name for name in self.record.ranks if not self.joined(name)] if self.all_trained else []

    @property
    def lost(self) -> list[str]:
        """Ranks that ended unexpectedly."""
        return [name for name in self.ended if name not in self.record.leaving]

    @property
    def peers_know(self) -> bool:
        """True if nothing more is to be expected of the peers of the lost ranks."""
        trained = [self.reports[name] for name in self.living if self.joined(name)]
        noticed = all(report.phase in (Phase.BROKEN, Phase.DONE) for report in trained)
        return not self.living or (bool(trained) and (noticed or not any(map(self.joined, self.lost))))

    @property
    def apart(self) -> bool:
        """True if all members live and wait for a group, which they may have tried to form in vain."""
        waits = [report.phase in (Phase.BROKEN, Phase.READY) for report in self.members]
        return 0 < len(self.record.members) == len(waits) and all(waits)


def how_it_ended(code: int | None) -> str:
    """Say in plain words how a process ended."""
    if code is None:
        return "was lost: nobody knows how it ended (its node has gone, or the process that watched it)"
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was ended by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"was ended by signal {-code}"
