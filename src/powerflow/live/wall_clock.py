"""Keep two times apart: the machine's time of day, which can be set, and a time that is never set.

The machine's clock can be set while we run: late at boot when the network answers, by an administrator, after a sleep.
Stamps, budgets, caps and leases go by it and follow at once, forward and back. What takes a while (intervals, patience,
GPU-seconds) must not: so when the clock has been set by so many seconds, moments that were noted before are moved by as
much (`moved`), and the scheduler gets a time that was never set (`SchedulerTime`).
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time

from powerflow.scheduler.events import ClockSet, Event, PowerCapSet, Submitted

#: A clock that is off by more was set; less is what any two clocks do, and is caught up with.
SET_S = 1.0
#: How much slower than real our clock may go for that: it never goes back but where it was set.
SLOWER = 0.1


class WallClock:
    """The wall clock in Unix seconds, corrected at once when the machine's clock is set. For any thread.

    Attributes:
        set_s: By how much the machine's clock has been set since this one was made.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at_s = time.monotonic()
        self._offset_s = time.time() - self._at_s
        self.set_s = 0.0

    def __call__(self) -> float:
        """Return the present."""
        return self.both()[0]

    def both(self) -> tuple[float, float]:
        """Return the present, and by how much the clock has been set until now."""
        with self._lock:
            at_s = time.monotonic()
            by_s = time.time() - at_s - self._offset_s
            if abs(by_s) > SET_S:
                self.set_s += by_s
                self._offset_s += by_s
            else:
                self._offset_s += max(by_s, -SLOWER * (at_s - self._at_s))
            self._at_s = at_s
            return self._offset_s + at_s, self.set_s


class SchedulerTime:
    """The scheduler's time: the wall clock's at the start, and never set since.

    Attributes:
        set_s: By how much the wall clock has been set, as far as the scheduler knows.
    """

    def __init__(self) -> None:
        self.set_s = 0.0

    def scheduler(self, wall_s: float) -> float:
        """Convert a moment of the wall clock to the scheduler's time."""
        return wall_s - self.set_s

    def wall(self, scheduler_s: float) -> float:
        """Convert a moment of the scheduler's time to the wall clock."""
        return scheduler_s + self.set_s

    def follow(self, set_s: float) -> ClockSet:
        """Take in by how much the clock has been set in all; return the event that tells the scheduler."""
        by_s, self.set_s = set_s - self.set_s, set_s
        return ClockSet(by_s)

    def told(self, event: Event) -> Event:
        """Return an event with its times as the scheduler counts them."""
        if not self.set_s:
            return event
        match event:
            case PowerCapSet(cap=cap):
                return PowerCapSet(cap.later(-self.set_s))
            case Submitted(job=job):
                return dataclasses.replace(event, job=dataclasses.replace(job, submit_s=self.scheduler(job.submit_s)))
            case _:
                return event


def moved(moment_s: float, by_s: float) -> float:
    """Return a moment noted before the clock was set, moved by as much; ±∞ and nan stay."""
    return moment_s + by_s if math.isfinite(moment_s) else moment_s
