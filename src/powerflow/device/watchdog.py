"""The device watchdog: gives clocks back when the lease has ended, and lets go on what a dead throttle stopped.

``python -m powerflow.device.watchdog DIRECTORY`` runs in the foreground. `lease.ensure_watchdog` starts it as a daemon
and hands it its lock as an open file. It imports little, sleeps nearly always, and ends when there has been nothing
to watch over, or nothing that it could give back, for a minute.
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

#: How often it looks.
POLL_S = 1.0

#: How long it stays with nothing to do.
LINGER_S = 60.0


def watch(directory: Path, lock: int) -> None:
    """Watch over a device directory until there is nothing left to do, or the directory is gone."""
    useful_s = boottime_s()
    while directory.is_dir():
        left_s = lease_left_s(directory)
        if continue_leftovers(directory) or restore_if_ended(directory) or (left_s > 0 and borrowed(directory)):
            useful_s = boottime_s()
        elif boottime_s() - useful_s > LINGER_S and _may_go(directory, lock):
            return
        time.sleep(min(POLL_S, max(0.01, left_s)) if left_s > 0 else POLL_S)


def _may_go(directory: Path, lock: int) -> bool:
    """Let go of the watchdog's lock, unless something came up; who wants one from then on starts another."""
    with locked(directory / "lock"):
        if (lease_left_s(directory) > 0 and borrowed(directory)) or continue_leftovers(directory):
            return False
        os.close(lock)
        return True


def _detach() -> None:
    """Go on as a child of nobody, in a session of its own: whoever started us neither waits for us nor ends us."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")


def main(arguments: list[str]) -> int:
    """Run it; see the module."""
    directory = Path(arguments[0]).resolve()
    if len(arguments) > 1:
        lock = int(arguments[1])
        os.set_inheritable(lock, False)
        _detach()
    else:
        taken = try_lock(directory / "watchdog.lock")
        if taken is None:
            print(f"{directory}: a watchdog is there already", file=sys.stderr)
            return 1
        lock = taken
    os.truncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)  # for people who wonder who holds it
    try:
        watch(directory, lock)
    except FileNotFoundError:
        if directory.is_dir():
            raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
