"""A rank that trains nothing, but speaks with its mailbox as a real one does; needs nothing but the mailbox.

`FakeRank.advance` does the next little thing and returns; tests call it by a clock of their own. As a process::

    python tests/gangs/fake_rank.py --steps 100 --step-s 0.02
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from powerflow.elastic.mailbox import JOB_DIR, PROTOCOL, RANK_NAME, Mailbox, Phase, RankReport, Switch, Target


@dataclass
class Habits:
    """How a rank behaves, in turns of `FakeRank.advance`.

    Attributes:
        builds: Turns until it is ready.
        lingers: Turns that it stays after it was told to leave; None: for ever.
        crashes_at, hangs_at: Steps before whose all-reduce it exits with code 1, or stops.
        refuses_at: Step before which its script is refused.
        stops_at: Step at which its script leaves the loop, and ends with code 0 without another word.
        evaluates: Turns that its script goes on after all is trained.
        quarrels: Times that it cannot form a group, though nobody is lost.
        crashes_building: Exits with code 1 instead of being ready.
    """

    builds: int = 1
    lingers: int | None = 0
    crashes_at: int | None = None
    hangs_at: int | None = None
    refuses_at: int | None = None
    stops_at: int | None = None
    evaluates: int = 0
    quarrels: int = 0
    crashes_building: bool = False


class FakeRank:
    """One rank. ``alive`` says whether a peer's process is; ``now`` is the wall clock."""

    def __init__(
        self,
        mailbox: Mailbox,
        name: str,
        steps_total: int,
        alive: Callable[[RankReport], bool],
        now: Callable[[], float] = time.time,
        habits: Habits | None = None,
        pid: int = 0,
        step_s: float = 1.0,
    ) -> None:
        self.mailbox = mailbox
        self.name = name
        self.steps_total = steps_total
        self.alive = alive
        self.now = now
        self.habits = habits or Habits()
        self.pid = pid
        self.step_s = step_s
        self.phase = Phase.STARTING
        self.phase_s = now()
        self.target: Target | None = None  # of the generation it belongs to
        self.generation = 0
        self.step = 0
        self.timed_steps = 0
        self.saved_step = 0
        self.refusal = ""
        self.protocol = PROTOCOL
        self.turns = 0
        self.report()

    def report(self, phase: Phase | None = None) -> None:
        """Say where it stands."""
        if phase is not None and phase is not self.phase:
            self.phase, self.phase_s = phase, self.now()
        ranks = len(self.target.members) if self.target else 1
        self.mailbox.report(
            RankReport(
                name=self.name,
                pid=self.pid,
                generation=self.generation,
                phase=self.phase,
                phase_s=self.phase_s,
                step=self.step,
                steps_total=self.steps_total,
                timed_steps=self.timed_steps,
                timed_s=self.timed_steps * self.step_s,
                samples=self.step * 64,
                local_batch=64 // ranks,
                global_batch=64,
                pause_s=0.1,
                saved_step=self.saved_step,
                refusal=self.refusal,
                protocol=self.protocol,
            )
        )

    def advance(self) -> int | None:
        """Do the next thing; the exit code once it ends."""
        self.turns += 1
        if self._is_replaced():
            self.report(Phase.RELEASED)
        elif self._is_cut():
            self.report(Phase.BROKEN)
            return None
        match self.phase:
            case Phase.STARTING:
                if self.turns > self.habits.builds:
                    if self.habits.crashes_building:
                        return 1
                    self.report(Phase.READY)
            case Phase.READY | Phase.BROKEN:
                return self._wait()
            case Phase.REGROUPING:
                self._regroup()
            case Phase.COMPUTING:
                return self._compute()
            case Phase.SYNCING:
                self._sync()
            case Phase.RELEASED:
                return self._leave()
            case Phase.DONE:
                self.habits.evaluates -= 1
                return 0 if self.habits.evaluates < 0 else None
        return None

    def _is_replaced(self) -> bool:
        """The others go on without this rank: its connections are shut, so no step of its group can end."""
        target = self.mailbox.target()
        ends = self.phase in (Phase.RELEASED, Phase.DONE)
        return target is not None and not ends and target.generation > self.generation and self.name in target.lost

    def _is_cut(self) -> bool:
        """A newer target names a peer that does not answer: whoever waits for it is woken."""
        target = self.mailbox.target()
        if target is None or self.target is None or target.generation <= self.generation:
            return False
        peers = {member.name for member in self.target.members}
        waits = self.phase in (Phase.SYNCING, Phase.REGROUPING)
        return waits and bool(peers.intersection(target.lost)) and self.name not in target.lost

    def _wait(self) -> int | None:
        switch, target = self.mailbox.switch(), self.mailbox.target()
        if switch is not None and switch.target.generation > self.generation and self._in(switch.target):
            self._go_over(switch)
        elif target is not None and target.generation > self.generation:
            if not self._in(target):
                self._save_for_all(target)
                self.report(Phase.RELEASED)
            elif target.members[0].name == self.name:
                reports = self.mailbox.reports([member.name for member in target.members])
                if len(reports) == len(target.members) and all(r.phase in (Phase.READY, Phase.BROKEN) for r in reports):
                    self.mailbox.post_switch(Switch(target, max(r.step for r in reports)))
        return None

    def _save_for_all(self, target: Target) -> None:
        """The gang is broken, and all shall leave: whoever is furthest saves."""
        if self.phase is Phase.BROKEN and not target.members:
            self._save()

    def _save(self) -> None:
        if self.step > self._saved():
            self.mailbox.checkpoint.write_text(json.dumps(self.step), "utf-8")
        self.saved_step = self._saved()

    def _saved(self) -> int:
        return int(json.loads(self.mailbox.checkpoint.read_text("utf-8"))) if self.mailbox.checkpoint.exists() else 0

    def _in(self, target: Target) -> bool:
        return any(member.name == self.name for member in target.members)

    def _go_over(self, switch: Switch) -> None:
        if not self._in(switch.target):
            if not switch.target.members and self.target is not None and self.target.members[0].name == self.name:
                self._save()
            self.report(Phase.RELEASED)
            return
        self.generation = switch.target.generation
        self.target = switch.target
        self.timed_steps = 0
        self.report(Phase.REGROUPING)

    def _regroup(self) -> None:
        assert self.target is not None
        if self.habits.quarrels:
            self.habits.quarrels -= 1
            self.report(Phase.BROKEN)
            return
        reports = self.mailbox.reports([member.name for member in self.target.members])
        broken = any(r.generation == self.generation and r.phase is Phase.BROKEN for r in reports)
        if broken or any(not self.alive(report) for report in reports if report.generation <= self.generation):
            self.report(Phase.BROKEN)
        elif all(report.generation >= self.generation for report in reports):
            self.step = max(self._saved(), *(report.step for report in reports), self.step)
            self.report(Phase.COMPUTING)

    def _compute(self) -> int | None:
        if self.step == self.habits.crashes_at:
            return 1
        if self.step == self.habits.refuses_at:
            self.refusal = "train.py:7: use rescale: restart"
            self.report()
            return 1
        if self.step == self.habits.stops_at:
            return 0
        if self.step == self.habits.hangs_at:
            return None
        assert self.target is not None
        target, switch = self.mailbox.target(), self.mailbox.switch()
        newest = max(self.generation, switch.target.generation if switch else 0)
        if self.target.members[0].name == self.name and target is not None and target.generation > newest:
            mine = {member.name for member in self.target.members}
            newcomers = [member.name for member in target.members if member.name not in mine]
            reports = self.mailbox.reports(newcomers)
            if len(reports) == len(newcomers) and all(report.phase is Phase.READY for report in reports):
                self.mailbox.post_switch(Switch(target, self.step + 1))
        self.report(Phase.SYNCING)
        return None

    def _sync(self) -> None:
        assert self.target is not None
        reports = self.mailbox.reports([member.name for member in self.target.members])
        if len(reports) < len(self.target.members):
            return  # a node has not heard of its peers before it was cut off
        if any(report.phase is Phase.BROKEN and report.step == self.step for report in reports):
            self.report(Phase.BROKEN)
            return
        behind = [
            report
            for report in reports
            if report.step < self.step
            or (report.step == self.step and (report.phase is not Phase.SYNCING or not self.alive(report)))
        ]
        if any(not self.alive(report) for report in behind):
            self.report(Phase.BROKEN)
        elif not behind:
            self._step_done()

    def _step_done(self) -> None:
        self.step += 1
        self.timed_steps += 1
        switch = self.mailbox.switch()
        if switch is not None and switch.target.generation > self.generation and switch.step <= self.step:
            self._go_over(switch)
        else:
            self.report(Phase.DONE if self.step >= self.steps_total else Phase.COMPUTING)

    def _leave(self) -> int | None:
        if self.habits.lingers is None:
            return None
        self.habits.lingers -= 1
        return 0 if self.habits.lingers < 0 else None


def main() -> int:
    """Run as a process of its own, as an engine starts it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--step-s", type=float, default=0.02)
    options = parser.parse_args()

    def alive(report: RankReport) -> bool:
        try:
            os.kill(report.pid, 0)
        except ProcessLookupError:
            return False
        return True

    rank = FakeRank(
        Mailbox(os.environ[JOB_DIR]),
        os.environ[RANK_NAME],
        options.steps,
        alive,
        pid=os.getpid(),
        step_s=options.step_s,
    )
    while True:
        code = rank.advance()
        if code is not None:
            return code
        time.sleep(options.step_s / 3)


if __name__ == "__main__":
    sys.exit(main())
