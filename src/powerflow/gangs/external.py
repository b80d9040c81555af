"""Hold the GPUs of a job that another scheduler runs, so that they are metered for the job and may have a clock.

Such a gang has one external rank on each node (`powerflow.agent.external`): no process is started, watched or ended.
When the job begins and ends, and on which GPUs it runs, the controller hears from the other scheduler.
"""

from __future__ import annotations

from powerflow.gangs.base import Gang
from powerflow.gangs.layout import StartPlan
from powerflow.gangs.machine import GangState, Trigger


class External(Gang):
    """Hold the GPUs of one job of another scheduler.

    A rank may end by itself, because the job's node was told of the job's end, or was booted. Then its GPUs are free at
    once, and the controller hears later how the job has ended.
    """

    def look(self) -> None:
        """Do nothing: the ranks report nothing."""

    def find(self) -> Trigger | None:
        """Return the next reason to change the gang; None if there is no reason."""
        seen, members = self.seen, self.record.members
        if self.state is GangState.STOPPING:
            return None
        if any(map(seen.is_stale, self.record.ranks)) or set(seen.slots(members)) != set(seen.wanted):
            return Trigger.MISPLACED
        if self.state is GangState.FORMING and all(seen.alive(name) or seen.has_ended(name) for name in members):
            return Trigger.WHOLE
        return None

    def plans(self) -> list[StartPlan]:
        """Return the ranks that hold the job's GPUs; none of them sees a GPU or has variables."""
        return [StartPlan(name, (), {}) for name in self.record.members]

    # Actions of the table.

    def _name(self) -> None:
        self.record.generation += 1
        self.record.members = self.name_ranks(self.desired.placement)
        self.changed()

    def _regroup(self) -> None:
        self.record.leaving = self.record.drop_unlaunched(list(self.record.ranks))
        self.changed()

    def _drop(self) -> None:
        self.clear()

    def _tell_whole(self) -> None:
        self.tell_started()
