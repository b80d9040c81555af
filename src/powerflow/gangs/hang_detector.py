"""Find ranks that hang: ranks that do the same thing for too long while all other ranks wait for them.

Each rank says in its report what it does. There are three cases:

- The rank is **in a step**, or forms a group. The limit depends on how long steps take (`Limits.hang_s`,
  `Limits.hang_steps`).
- The rank is **outside a step**: it evaluates, saves, logs. PowerFlow cannot know how long this takes, so there is a
  separate limit (``limits.between_steps`` of the job). Each pass of an evaluation restarts the time for this limit.
- The rank **waits** for the other ranks. If all ranks wait inside the same all-reduce, no rank will ever go on.

A process that was stopped as a whole (SIGSTOP) reports nothing and uses no CPU time. So a rank without CPU time hangs,
even if its last report looks normal. CPU time shows nothing more: a rank that waits in an all-reduce of NCCL uses CPU
time, too.

A rank's time counts from when this process first saw what the rank does. So no rank is ended because the machine's
clock was set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from powerflow.elastic.mailbox import Phase, RankReport
from powerflow.gangs.types import Limits

#: Phases in which a rank waits for others, or for the controller.
WAITING = (Phase.READY, Phase.SYNCING, Phase.BROKEN, Phase.RELEASED, Phase.DONE)
#: Phases in which a rank trains, or does what belongs to training.
TRAINING = (Phase.COMPUTING, Phase.SYNCING, Phase.OUTSIDE, Phase.EVALUATING, Phase.SAVING, Phase.DONE)
#: Phases of unknown length.
_OUTSIDE = (Phase.OUTSIDE, Phase.EVALUATING, Phase.SAVING)
_DOES = {
    Phase.COMPUTING: "was in the same step",
    Phase.SYNCING: "waited in the same all-reduce, like all other ranks,",
    Phase.OUTSIDE: "was outside a step",
    Phase.EVALUATING: "was in the same pass of an evaluation",
    Phase.SAVING: "saved a checkpoint",
    Phase.REGROUPING: "formed a group",
    Phase.STARTING: "was starting",
}

Reports = Mapping[str, RankReport | None]


def cpu_ticks(pid: int) -> int | None:
    """Return the CPU time of all threads of a process, in clock ticks; None if there is no process ``pid``."""
    try:
        fields = Path("/proc", str(pid), "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    except (OSError, IndexError, ValueError):
        return None


class _Doing(NamedTuple):
    """What a rank does, and since when; its last heartbeat and CPU time, and since when these two have not changed."""

    what: tuple[object, ...]
    since_s: float
    beat: int
    cpu: int | None
    beat_s: float


@dataclass(slots=True)
class HangDetector:
    """Find ranks that hang. For this, remember for each rank how long it has done the same thing.

    Attributes:
        limits: How long a rank may do the same thing.
        is_local: Returns True if a rank is a process of this machine. The CPU time of other ranks is not known.
        cpu_ticks: Returns the CPU time that a process has used, in clock ticks; None if it is not known.
    """

    limits: Limits
    is_local: Callable[[str], bool] = lambda name: True
    cpu_ticks: Callable[[int], int | None] = cpu_ticks
    _doing: dict[str, _Doing] = field(default_factory=dict)

    def hung(self, members: Reports, now_s: float, between_s: float | None = None) -> dict[str, str]:
        """Return the members of a gang that hang, each with a text about its last activity.

        Args:
            members: Last report of each living member, in order; None for a member that has not reported yet.
            now_s: The present time.
            between_s: Most seconds outside a step; None for the value in ``limits``.
        """
        between_s = self.limits.between_s if between_s is None else between_s
        self._doing = {name: self._see(name, report, now_s) for name, report in members.items()}
        stopped = self._stopped(members, now_s)
        if stopped:
            silent_s = {name: now_s - self._doing[name].beat_s for name in stopped}
            return {name: f"reported nothing and used no CPU for {silent_s[name]:.0f} s" for name in stopped}
        busy = [name for name, report in members.items() if report is None or report.phase not in WAITING]
        if not busy:
            return self._deadlocked(members, now_s)
        alone = len(busy) == len(members)  # nobody waits: perhaps a long evaluation between two steps
        late = {}
        for name in busy:
            patience_s = max(_patience_s(members[name], self.limits, between_s), self.limits.start_s if alone else 0)
            spent_s = now_s - self._doing[name].since_s
            if spent_s > patience_s:
                late[name] = _said(members[name], spent_s)
        return late if len(late) == len(busy) else {}

    def reset(self) -> None:
        """Forget how long ranks have done the same thing, because they could not do anything else."""
        self._doing.clear()

    def _see(self, name: str, report: RankReport | None, now_s: float) -> _Doing:
        what = () if report is None else (report.generation, report.phase, report.phase_s, report.step)
        beat = 0 if report is None else report.beat
        before = self._doing.get(name)
        since_s = before.since_s if before is not None and before.what == what else now_s
        if before is not None and before.beat == beat:
            return _Doing(what, since_s, beat, before.cpu, before.beat_s)
        cpu = self.cpu_ticks(report.pid) if report is not None and beat and self.is_local(name) else None
        return _Doing(what, since_s, beat, cpu, now_s)

    def _stopped(self, members: Reports, now_s: float) -> list[str]:
        """Return members whose process does nothing, while at least one other member reports.

        If no member reports, none is returned, because the disk may be full.
        """
        silent = []
        for name, report in members.items():
            seen = self._doing[name]
            if report is None or seen.cpu is None or now_s - seen.beat_s <= self.limits.hang_s:
                continue
            cpu = self.cpu_ticks(report.pid)
            if cpu == seen.cpu:
                silent.append(name)
            elif cpu is not None:  # the process computes and holds Python's lock: start the time again
                self._doing[name] = seen._replace(cpu=cpu, beat_s=now_s)
        speaks = any(seen.beat and now_s - seen.beat_s <= self.limits.hang_s / 2 for seen in self._doing.values())
        return silent if speaks else []

    def _deadlocked(self, members: Reports, now_s: float) -> dict[str, str]:
        """Return one of the members that wait for each other in an all-reduce for ever; the others notice when it ends.

        If a member has noticed that a peer was lost, return all members that still wait: they have not noticed it.
        """
        syncing = {n: r for n, r in members.items() if r is not None and r.phase is Phase.SYNCING}
        spent_s = {name: now_s - self._doing[name].since_s for name in syncing}
        if not syncing or any(spent_s[n] <= _patience_s(r, self.limits, 0.0) for n, r in syncing.items()):
            return {}
        if any(report is not None and report.phase is Phase.BROKEN for report in members.values()):
            return {name: f"did not notice for {spent_s[name]:.0f} s that another rank was lost" for name in syncing}
        behind = min(reversed(list(syncing)), key=lambda name: syncing[name].step)
        return {behind: _said(syncing[behind], spent_s[behind])}


def _patience_s(report: RankReport | None, limits: Limits, between_s: float) -> float:
    if report is not None and report.phase in _OUTSIDE:
        return max(between_s, limits.start_s) if report.phase is Phase.SAVING else between_s
    if report is None or report.phase is Phase.STARTING:
        return limits.start_s
    if report.phase is Phase.REGROUPING:
        return limits.hang_s
    if report.timed_steps == 0:  # the first step may compile
        return limits.start_s
    return max(limits.hang_s, limits.hang_steps * report.timed_s / report.timed_steps)


def _said(report: RankReport | None, spent_s: float) -> str:
    if report is None:
        return f"reported nothing for {spent_s:.0f} s"
    limit = ", longer than limits.between_steps allows" if report.phase in _OUTSIDE else ""
    return f"{_DOES.get(report.phase, 'did nothing')} for {spent_s:.0f} s{limit}"
