"""Run the device watchdog, which repairs what a killed controller or throttle leaves behind.

It restores the clocks of GPUs when the lease (the time for which clocks stay set) has ended. It also continues jobs
that a throttle had stopped before the throttle was killed. (A throttle slows jobs on emulated GPUs.)

``python -m powerflow.device.watchdog DIRECTORY`` runs the watchdog in the foreground. `lease.ensure_watchdog` starts it
as a daemon, and passes the watchdog's lock to it as an open file. The watchdog imports little and sleeps most of the
time. It ends after a minute in which it had nothing to watch or could restore nothing.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from powerflow.device.emulated.throttle import continue_leftovers
from powerflow.device.lease import borrowed, lease_left_s, restore_if_ended
from powerflow.osutil.files import locked, try_lock
from powerflow.osutil.processes import boottime_s

#: Seconds between two checks of the device directory.
POLL_S = 1.0

#: Seconds after which a watchdog without work ends.
LINGER_S = 60.0


def watch(directory: Path, lock: int) -> None:
    """Watch a device directory until there is no more work, or the directory is deleted.

    Args:
        directory: The device directory, with the records of the lease and of borrowed clocks.
        lock: File descriptor of the watchdog's lock, which this process holds.
    """
    useful_s = boottime_s()
    while directory.is_dir():
        left_s = lease_left_s(directory)
        if continue_leftovers(directory) or restore_if_ended(directory) or (left_s > 0 and borrowed(directory)):
            useful_s = boottime_s()
        elif boottime_s() - useful_s > LINGER_S and _may_go(directory, lock):
            return
        time.sleep(min(POLL_S, max(0.01, left_s)) if left_s > 0 else POLL_S)


def _may_go(directory: Path, lock: int) -> bool:
    """Release the watchdog's lock and return True, so that another watchdog can start.

    If there is new work, return False.
    """
    with locked(directory / "lock"):
        if (lease_left_s(directory) > 0 and borrowed(directory)) or continue_leftovers(directory):
            return False
        os.close(lock)
        return True


def _detach() -> None:
    """Continue as a daemon in a new session, independent of the process that started the watchdog."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")


def main(arguments: list[str]) -> int:
    """Run the watchdog on the command line's arguments; return its exit code.

    Args:
        arguments: The device directory, and, for a daemon, the file descriptor of the watchdog's lock.
    """
    directory = Path(arguments[0]).resolve()
    if len(arguments) > 1:
        lock = int(arguments[1])
        os.set_inheritable(lock, False)
        _detach()
    else:
        taken = try_lock(directory / "watchdog.lock")
        if taken is None:
            print(f"{directory}: another watchdog runs already", file=sys.stderr)
            return 1
        lock = taken
    os.truncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)  # for people who look who holds it
    try:
        watch(directory, lock)
    except FileNotFoundError:
        if directory.is_dir():
            raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
