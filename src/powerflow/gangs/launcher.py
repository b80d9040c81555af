"""Start the ranks of a gang through the engine. If a rank cannot be started now, try again later."""

from __future__ import annotations

from powerflow.engine.protocol import EngineError, Fenced
from powerflow.gangs.context import GangContext
from powerflow.gangs.layout import StartPlan
from powerflow.gangs.state_file import RankEntry
from powerflow.gangs.types import DesiredState, backoff_s


class CannotStart(Exception):
    """A rank cannot be started, now or later."""


class Launcher:
    """Start the ranks of one gang for one desired state. After a failed launch, wait before the next launch.

    Attributes:
        again_s: Earliest time of the next launch.
        trouble: Why the last launch failed; "" if it has not failed.
    """

    def __init__(self, context: GangContext) -> None:
        self._context = context
        self._failures = 0
        self.again_s = 0.0
        self.trouble = ""

    def launch(self, desired: DesiredState, plan: StartPlan, entry: RankEntry, *, retry: bool) -> bool:
        """Start a rank; return False if it could not be started now.

        Args:
            desired: Desired state of the gang.
            plan: How the rank is started.
            entry: Node and GPUs of the rank.
            retry: True to try again after an error that does not pass by itself.

        Raises:
            CannotStart: The rank cannot be started, and ``retry`` is False.
            Fenced: Another controller has launched a later placement of this job. This controller must not go on.
        """
        now = self._context.clock()
        if now < self.again_s:
            return False
        try:
            self._context.launch(desired, plan, entry.node, entry.gpus)
        except Fenced:
            raise
        except (EngineError, OSError) as error:
            if isinstance(error, EngineError) and not error.retry and not retry:
                raise CannotStart(str(error)) from error
            self._failures += 1
            self.again_s = now + backoff_s(self._failures)
            self.trouble = f"rank {plan.name} cannot be started now: {error}"
            return False
        self._failures = 0
        return True
