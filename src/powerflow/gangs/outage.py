"""Follow the nodes of a gang that do not answer: their ranks may run, and nobody can see or end them."""

from __future__ import annotations

import math

from powerflow.engine.protocol import RankName, RankState, RankStatus
from powerflow.gangs.context import GangContext
from powerflow.gangs.state_file import GangRecord
from powerflow.gangs.types import Noted
from powerflow.gangs.view import GangView


class Outage:
    """Tell the owner of one job which of the job's nodes do not answer, and which answer again.

    Attributes:
        trouble: What the gang waits for, in one line; "" if all nodes of its ranks answer.
    """

    def __init__(self, context: GangContext, job_id: str) -> None:
        self._context = context
        self._job_id = job_id
        self._told: frozenset[str] = frozenset()  # nodes of which the job's history says that they do not answer
        self.trouble = ""

    def complete(self, record: GangRecord, unsent: set[str]) -> None:
        """Count ranks as unreachable that the engine does not know while their node does not answer.

        A new engine object may not know the ranks of such a node.

        Args:
            record: The gang record.
            unsent: Ranks for which no launch was sent; they are left out.
        """
        known = self._context.statuses.setdefault(self._job_id, {})
        for name, entry in [*record.ranks.items(), *record.cut.items()]:
            if name in known or entry.node not in self._context.down or name in unsent:
                continue
            state = RankState.LOST if entry.node in self._context.off else RankState.UNREACHABLE
            known[name] = RankStatus(RankName.parse(name), entry.node, state, 0, None, math.nan, math.nan)

    def tell(self, seen: GangView) -> list[Noted]:
        """Return messages for the job's owner about nodes for which the gang waits now, or waits no more."""
        far = {name: seen.record.ranks[name].node for name in seen.far}
        down, answer = frozenset(far.values()), self._told - self._context.down
        events = []
        for node in sorted(down - self._told):
            names = ", ".join(name for name, at in far.items() if at == node)
            text = f"node {node} does not answer: the job waits for it; {names} may run on"
            events.append(Noted(self._job_id, "unreachable", text))
        events += [Noted(self._job_id, "reachable", f"node {node} answers again") for node in sorted(answer)]
        self._told = (self._told | down) - answer
        self.trouble = f"waits for node {', '.join(sorted(down))}, which does not answer" if down else ""
        return events


def note_ranks(record: GangRecord, seen: GangView) -> bool:
    """Note which ranks were started after all, and which ranks that the gang goes on without have ended.

    Return True if the record has changed.
    """
    started = [name for name, entry in record.ranks.items() if not entry.launched and seen.may_run(name)]
    for name in started:
        record.ranks[name].launched = True
    ended = [name for name in record.cut if not seen.may_run(name)]
    for name in ended:
        del record.cut[name]
        record.ended.append(name)
    return bool(started or ended)
