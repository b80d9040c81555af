"""Answer questions about one gang in one turn, from its record, the engine's answer and the reports of its ranks.

A view decides nothing and changes nothing. Each answer is read from the gang record at that moment, so it is true even
after a change.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from powerflow.device.protocol import Place
from powerflow.elastic.mailbox import PROTOCOL, Phase, RankReport
from powerflow.engine.protocol import RankName, RankState, RankStatus
from powerflow.gangs.exit_text import how_it_ended
from powerflow.gangs.hang_detector import TRAINING
from powerflow.gangs.state_file import GangRecord


@dataclass(frozen=True, slots=True)
class Losses:
    """Count the losses of ranks since a step was last trained.

    Attributes:
        count: Number of losses.
        step: Number of trained steps at the last loss.
        mended: Number of the group that was formed without the lost ranks. Once it trains, the gang may grow again.
    """

    count: int = 0
    step: int = -1
    mended: int = 0

    def another(self, step: int) -> Losses:
        """Return the losses after one more loss at this step.

        The count begins again if a step was trained since the last loss.
        """
        return replace(self, count=self.count + 1) if step <= self.step else Losses(1, step)


class Regrouping(NamedTuple):
    """How a gang changes: members that stay, ranks that leave, and GPUs that need a new rank."""

    stay: list[str]
    leave: list[str]
    missing: list[Place]


@dataclass(frozen=True, slots=True)
class GangView:
    """Answer questions about the ranks of one gang.

    Attributes:
        record: The gang record.
        statuses: The engine's status of each rank, by rank name, even of ranks that the record does not have (strays).
        wanted: GPUs that the gang shall have.
        down: Names of the nodes that do not answer.
        unsteady: Names of the nodes that answer, but perhaps not for long (`GangContext.unsteady`).
    """

    record: GangRecord
    statuses: Mapping[str, RankStatus]
    wanted: Sequence[Place]
    down: Collection[str] = field(default=(), kw_only=True)
    unsteady: Collection[str] = field(default=(), kw_only=True)

    def state(self, name: str) -> RankState | None:
        """Return the state of a rank; None if the engine does not know the rank."""
        status = self.statuses.get(name)
        return None if status is None else status.state

    def alive(self, name: str) -> bool:
        """Return True if a rank runs, and its node answers."""
        return self.state(name) is RankState.RUNNING

    def may_run(self, name: str) -> bool:
        """Return True if a process of a rank may be alive, so that its GPUs are taken."""
        state = self.state(name)
        return state is not None and state.may_run

    def is_far(self, name: str) -> bool:
        """Return True if a rank's node does not answer, so that the rank may run, or cannot be launched."""
        if self.state(name) is RankState.UNREACHABLE:
            return True
        return not self.record.ranks[name].launched and self.record.ranks[name].node in self.down

    def has_ended(self, name: str) -> bool:
        """Return True if a rank was launched and does not run any more.

        A rank that could not be started counts as ended only if it shall leave; otherwise it is launched again.
        """
        if self.may_run(name) or not self.record.ranks[name].launched:
            return False
        return self.state(name) is not RankState.NOT_STARTED or name in self.record.leaving

    def code(self, name: str) -> int | None:
        """Return the exit code of a rank that has ended; None if nobody knows it."""
        status = self.statuses.get(name)
        return None if status is None else status.code

    def how_it_ended(self, name: str, *, asked: bool = False) -> str:
        """Describe in plain words how a rank has ended; ``asked``: True if PowerFlow has sent it signals."""
        status = self.statuses.get(name)
        return how_it_ended(self.code(name), None if status is None else status.out_of_memory, asked=asked)

    def rebooted(self, name: str) -> bool:
        """Return True if a rank was ended because its machine went down."""
        status = self.statuses.get(name)
        return status is not None and status.rebooted

    def excuse(self, name: str) -> str:
        """Return the reason why the end of a rank is not its job's fault.

        "" if it is the job's fault, or if the rank still runs.
        """
        if self.record.ranks[name].launched and name not in self.statuses:
            return "the engine does not know the rank any more"
        if self.state(name) is RankState.UNREACHABLE:
            return f"node {self.statuses[name].node} did not answer"
        return "the machine was restarted" if self.rebooted(name) else ""

    @property
    def running(self) -> list[str]:
        """All ranks of this job that run, even those that the gang record does not have (strays)."""
        return [name for name in self.statuses if self.alive(name)]

    @property
    def remaining(self) -> list[str]:
        """All ranks of this job that may run, without those that the gang goes on without (`GangRecord.cut`)."""
        return [name for name in self.statuses if self.may_run(name) and name not in self.record.cut]

    @property
    def far(self) -> list[str]:
        """Ranks in the gang record whose node does not answer."""
        return [name for name in self.record.ranks if self.is_far(name)]

    @property
    def on_its_way(self) -> bool:
        """True if the gang is between two placements: to reach the wanted GPUs, it needs further turns.

        It needs none more when all members on the wanted GPUs are launched and all others have ended. A gang that waits
        for a node that does not answer is not on its way.
        """
        record = self.record
        if not self.wanted or any(node in self.down for node, _ in self.wanted):
            return False
        launched = all(record.ranks[name].launched for name in record.members)
        arrived = launched and set(self.slots(record.members)) == set(self.wanted)
        return not arrived or bool(record.leaving)

    @property
    def taken(self) -> list[Place]:
        """GPUs on which a process of this job may be."""
        entries = [*self.record.ranks.items(), *self.record.cut.items()]
        return [(entry.node, gpu) for name, entry in entries if self.may_run(name) for gpu in entry.gpus]

    @property
    def living(self) -> list[str]:
        """Ranks in the gang record that run."""
        return [name for name in self.record.ranks if self.alive(name)]

    @property
    def ended(self) -> list[str]:
        """Ranks in the gang record that have ended, and to whose end the gang has not reacted yet."""
        return [name for name in self.record.ranks if self.has_ended(name)]

    @property
    def all_leave(self) -> bool:
        """True if all ranks in the gang record were told to leave."""
        return self.record.ranks.keys() <= set(self.record.leaving)

    def slots(self, names: Sequence[str]) -> list[Place]:
        """Return the GPUs that these ranks are on."""
        return [(entry.node, gpu) for entry in map(self.record.ranks.__getitem__, names) for gpu in entry.gpus]

    def is_stale(self, name: str) -> bool:
        """Return True if a rank can never be launched.

        Such a rank belongs to an earlier epoch (placement) of the job, whose launches the engine now refuses.
        """
        return not self.record.ranks[name].launched and RankName.parse(name).epoch < self.record.epoch


@dataclass(frozen=True, slots=True)
class InPlaceView(GangView):
    """Answer questions about the ranks of an in-place gang.

    Attributes:
        reports: Last report of each rank; ranks that have not reported are missing.
        nonsense: Ranks whose file is no report, each with the reason.
    """

    reports: Mapping[str, RankReport] = field(default_factory=dict)
    nonsense: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(seen: GangView, reports: Mapping[str, RankReport], nonsense: Mapping[str, str]) -> InPlaceView:
        """Return a view with the reports of ranks, and with files that are no reports."""
        known = seen.record, seen.statuses, seen.wanted
        return InPlaceView(*known, reports, nonsense, down=seen.down, unsteady=seen.unsteady)

    @property
    def members(self) -> list[RankReport]:
        """Latest report of each rank of the gang, in order of rank; ranks that have not reported are left out."""
        return [self.reports[name] for name in self.record.members if name in self.reports]

    @property
    def step(self) -> int:
        """Number of steps that the rank with the most steps has done."""
        return max((report.step for report in self.reports.values()), default=0)

    @property
    def whole(self) -> bool:
        """True if all members train in one group of the newest generation."""
        return 0 < len(self.record.members) == len(self.members) and all(
            report.generation == self.record.generation and report.phase in TRAINING and self.alive(report.name)
            for report in self.members
        )

    def joined(self, name: str) -> bool:
        """Return True if a rank has ever been part of a group that trains together."""
        return name in self.reports and self.reports[name].generation > 0

    def is_of_other_version(self, name: str) -> bool:
        """Return True if a rank's code works with others in another way than that of this PowerFlow."""
        return name in self.reports and self.reports[name].protocol != PROTOCOL

    @property
    def silent(self) -> bool:
        """True if ranks were launched, but no rank has ever reported.

        Perhaps their script does not use `powerflow.elastic`. Then each further rank would run the whole script again.
        """
        return not (self.record.joined or self.reports) and any(e.launched for e in self.record.ranks.values())

    def ended_badly(self, name: str) -> bool:
        """Return True if a rank ended with an error or too early, without having been told to leave.

        This includes a rank that got SIGTERM from somebody else: it ended with code 0, but has not finished training.
        """
        released = name in self.reports and self.reports[name].phase is Phase.RELEASED
        return self.code(name) != 0 or released or self.rebooted(name)

    @property
    def failed_after_the_end(self) -> str:
        """Name of the first rank that has trained all steps and then failed; "" if there is no such rank."""
        done = [name for name in self.ended if name in self.reports and self.reports[name].phase is Phase.DONE]
        return next((name for name in done if self.code(name) != 0), "")

    @property
    def trained_all(self) -> RankReport | None:
        """Report of the first rank that ended because no step is left to train; None if there is no such rank.

        A script may also leave its training loop early. Then its rank reports nothing more, and the other ranks leave
        the loop too or wait for ever.
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
        """True if all ranks that trained have finished all steps, and now run only the rest of their script."""
        phases = [report.phase for name, report in self.reports.items() if report.generation and self.alive(name)]
        return Phase.DONE in phases and all(phase in (Phase.DONE, Phase.RELEASED) for phase in phases)

    @property
    def late(self) -> list[str]:
        """New ranks that came after all steps were trained. They would wait for ever for a group."""
        return [name for name in self.record.ranks if not self.joined(name)] if self.all_trained else []

    @property
    def lost(self) -> list[str]:
        """Ranks that ended without having been told to leave."""
        return [name for name in self.ended if name not in self.record.leaving]

    @property
    def regrouping(self) -> Regrouping:
        """How the members have to change to reach the wanted GPUs."""
        record, wanted = self.record, set(self.wanted)
        at = {slot: name for name in record.members for slot in self.slots([name])}
        stay = [name for slot, name in at.items() if slot in wanted and not self.is_stale(name)]
        leave = [name for name in record.ranks if name not in stay and name not in record.leaving]
        missing = [slot for slot in self.wanted if at.get(slot) not in stay]
        if missing and any(map(self.is_of_other_version, stay)):  # new ranks could not join them
            stay, leave, missing = [], [name for name in record.ranks if name not in record.leaving], list(self.wanted)
        return Regrouping(stay, leave, [] if self.silent or self.all_trained else missing)

    @property
    def peers_know(self) -> bool:
        """True if the other ranks know that ranks were lost, or cannot know it because the lost ranks never trained."""
        trained = [self.reports[name] for name in self.living if self.joined(name)]
        noticed = all(report.phase in (Phase.BROKEN, Phase.DONE) for report in trained)
        return not self.living or (bool(trained) and (noticed or not any(map(self.joined, self.lost))))

    @property
    def cut_off(self) -> list[str]:
        """Ranks whose node does not answer, if the gang can go on without them.

        It can if members are left, or if all ranks shall leave and some can save. It cannot if the ranks that are left
        have never trained: then only the others have the state of the job. It waits while the nodes of the ranks that
        are left are unsteady: the others may be about to answer, too.
        """
        far = self.far
        near = self.living if not self.record.members else [name for name in self.record.members if self.alive(name)]
        if any(self.record.ranks[name].node in self.unsteady for name in near):
            return []
        if not far or not near or (self.record.trained_gpus and not any(map(self.joined, self.living))):
            return []
        return far

    @property
    def apart(self) -> bool:
        """True if all members live but do not train together: they wait to form a group."""
        waits = [report.phase in (Phase.BROKEN, Phase.READY) for report in self.members]
        return 0 < len(self.record.members) == len(waits) and all(waits) and all(map(self.alive, self.record.members))
