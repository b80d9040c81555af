"""Provide two times: the machine's time of day, which can be set, and a time that is never set.

The machine's clock can be set while the controller runs: by the network soon after a boot, by an administrator, or
after a sleep. Time stamps, budgets, caps and leases use the machine's clock and follow at once. Durations (intervals,
waits, GPU-seconds) must not change. So when the clock is set by some seconds, earlier moments are moved by the same
number of seconds (`moved`). The scheduler gets a time that is never set (`SchedulerTime`).
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time

from powerflow.scheduler.events import ClockSet, Event, PowerCapSet, Submitted

#: A clock that is off by more seconds was set; a smaller difference is normal, and is made up slowly.
SET_S = 1.0
#: Share by which our clock may run slower to do so; it goes back only if the machine's clock was set back.
SLOWER = 0.1


class WallClock:
    """Return the time of day in Unix seconds, corrected at once when the machine's clock is set. Safe in any thread.

    Attributes:
        set_s: Seconds by which the machine's clock has been set, in all, since this object was made.
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
        """Return the present in Unix seconds, and by how many seconds the clock has been set so far."""
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
    """Convert between the wall clock and the scheduler's time, which starts at the wall clock's time and is never set.

    Attributes:
        set_s: Seconds by which the wall clock has been set, as far as the scheduler knows.
    """

    def __init__(self) -> None:
        self.set_s = 0.0

    def scheduler(self, wall_s: float) -> float:
        """Convert a moment of the wall clock (Unix seconds) to the scheduler's time."""
        return wall_s - self.set_s

    def wall(self, scheduler_s: float) -> float:
        """Convert a moment of the scheduler's time to Unix seconds of the wall clock."""
        return scheduler_s + self.set_s

    def follow(self, set_s: float) -> ClockSet:
        """Record by how many seconds the wall clock has been set in all.

        Return the event that tells the scheduler the change.
        """
        by_s, self.set_s = set_s - self.set_s, set_s
        return ClockSet(by_s)

    def told(self, event: Event) -> Event:
        """Return an event with its times converted to the scheduler's time."""
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
    """Return a moment moved by ``by_s``, because the clock was set by this many seconds.

    Infinite values and nan stay.
    """
    return moment_s + by_s if math.isfinite(moment_s) else moment_s
