"""Which ranks hang: they do one thing for too long while all others wait for them.

Time is this process's own, from when a rank was first seen at what it does, so a wall clock that jumps kills nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from powerflow.elastic.mailbox import Phase, RankReport
from powerflow.live.gang_facts import Limits

#: Phases in which a rank waits for others, or for us.
_WAITING = (Phase.READY, Phase.SYNCING, Phase.BROKEN, Phase.RELEASED, Phase.DONE)


@dataclass(slots=True)
class Watch:
    """Remembers since when each rank does what it does."""

    limits: Limits
    _since: dict[str, tuple[tuple[object, ...], float]] = field(default_factory=dict)

    def hung(self, members: Mapping[str, RankReport | None], now_s: float) -> list[str]:
        """Those of a gang's living members that hang; a member without a report has not said anything yet."""
        doing: dict[str, tuple[object, ...]] = {
            name: () if report is None else (report.generation, report.phase, report.phase_s, report.step)
            for name, report in members.items()
        }
        self._since = {
            name: self._since[name] if self._since.get(name, (None, 0.0))[0] == what else (what, now_s)
            for name, what in doing.items()
        }
        busy = [name for name, report in members.items() if report is None or report.phase not in _WAITING]
        if not busy and any(report is not None and report.phase is Phase.BROKEN for report in members.values()):
            # whoever still waits in an all-reduce has not noticed that a peer is gone
            busy = [n for n, report in members.items() if report is not None and report.phase is Phase.SYNCING]
        alone = len(busy) == len(members)  # nobody waits: perhaps a long evaluation between two steps
        late = [
            name
            for name in busy
            if now_s - self._since[name][1]
            > max(_patience_s(members[name], self.limits), self.limits.start_s if alone else 0)
        ]
        return late if len(late) == len(busy) else []


def _patience_s(report: RankReport | None, limits: Limits) -> float:
    if report is None or report.phase in (Phase.STARTING, Phase.SAVING):
        return limits.start_s
    if report.phase is Phase.REGROUPING:
        return limits.hang_s
    if report.timed_steps == 0:  # its first step may compile
        return limits.start_s
    return max(limits.hang_s, limits.hang_steps * report.timed_s / report.timed_steps)
