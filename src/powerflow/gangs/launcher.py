"""Start the ranks of a gang through the engine, in one batch. If a rank cannot be started now, try again later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from powerflow.engine.protocol import EngineError, Fenced, RankState, RankStatus
from powerflow.gangs.context import GangContext
from powerflow.gangs.layout import StartPlan
from powerflow.gangs.state_file import RankEntry
from powerflow.gangs.types import DesiredState, backoff_s


class CannotStart(Exception):
    """A rank cannot be started. ``final``: it would fail in the same way on every further try."""

    def __init__(self, why: str, *, final: bool) -> None:
        super().__init__(why)
        self.final = final


class Launcher:
    """Start the ranks of one gang for one desired state. After a failed launch, wait before the next launch.

    A launch does not wait for the nodes: a rank is accepted first, and its node may refuse it later.

    Attributes:
        again_s: Earliest time of the next launch.
        trouble: Why the last launch failed; "" if it has not failed.
    """

    def __init__(self, context: GangContext) -> None:
        self._context = context
        self._failures = 0
        self.again_s = 0.0
        self.trouble = ""

    def launch(
        self,
        desired: DesiredState,
        plans: Sequence[StartPlan],
        entries: Mapping[str, RankEntry],
        *,
        retry: bool,
    ) -> bool:
        """Launch the ranks that were not launched yet; return False if one of them could not be started now.

        ``launched`` of each entry is set to whether the engine has accepted the rank.

        Args:
            desired: Desired state of the gang.
            plans: How each rank is started, the first rank of the gang first.
            entries: Node and GPUs of each rank, by its name.
            retry: True to try again after an error that does not pass by itself.

        Raises:
            CannotStart: A rank cannot be started, and ``retry`` is False.
            Fenced: Another controller has launched a later placement of this job. This controller must not go on.
        """
        now = self._context.clock()
        known = self._context.statuses.get(desired.job_id, {})
        refused = [status for plan in plans if (status := self._refused(known, plan, entries)) is not None]
        if refused:
            for status in refused:
                entries[str(status.name)].launched = False
            return self._failed(refused, retry)
        first, plans = plans[:1], [plan for plan in plans if not entries[plan.name].launched]
        if not plans:
            if all(name in known and known[name].state is RankState.RUNNING for name in entries):
                self._failures = 0  # all run: the next failure is the first again
            return True
        if now < self.again_s:
            return False
        address = self._context.address(entries[first[0].name].node)
        try:
            statuses = self._context.launch(desired, [(plan, entries[plan.name]) for plan in plans], address)
        except Fenced:
            raise
        except (EngineError, OSError) as error:
            if isinstance(error, EngineError) and not error.retry and not retry:
                raise CannotStart(str(error), final=error.final) from error
            return self._wait(plans[0].name, str(error))
        for status in statuses:
            entries[str(status.name)].launched = status.state is not RankState.NOT_STARTED
        failed = [status for status in statuses if status.state is RankState.NOT_STARTED]
        return not failed or self._failed(failed, retry)

    @staticmethod
    def _refused(
        known: Mapping[str, RankStatus], plan: StartPlan, entries: Mapping[str, RankEntry]
    ) -> RankStatus | None:
        """Return the status of a rank that the engine had accepted, and that could not be started; otherwise None."""
        status = known.get(plan.name)
        if status is None or status.state is not RankState.NOT_STARTED or not entries[plan.name].launched:
            return None
        return status

    def _failed(self, statuses: Sequence[RankStatus], retry: bool) -> bool:
        status = min(statuses, key=lambda status: (not status.final, status.retry))  # one that does not pass by itself
        if not status.retry and not retry:
            raise CannotStart(status.why, final=status.final)
        return self._wait(str(status.name), status.why)

    def _wait(self, name: str, why: str) -> bool:
        """Wait before the next launch; return False."""
        self._failures += 1
        self.again_s = self._context.clock() + backoff_s(self._failures)
        self.trouble = f"rank {name} cannot be started now: {why}"
        return False
