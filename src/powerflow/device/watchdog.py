"""Run the device watchdog: restore clocks when the lease has ended, and continue jobs that a killed throttle stopped.

``python -m powerflow.device.watchdog DIRECTORY`` runs in the foreground. `lease.ensure_watchdog` starts it as a daemon
and passes it its lock as an open file. It imports little, sleeps nearly always, and ends after a minute in which it had
nothing to watch or could restore nothing.
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

#: How long it stays without work.
LINGER_S = 60.0


def watch(directory: Path, lock: int) -> None:
    """Watch a device directory until there is no more work, or the directory is gone."""
    useful_s = boottime_s()
    while directory.is_dir():
        left_s = lease_left_s(directory)
        if continue_leftovers(directory) or restore_if_ended(directory) or (left_s > 0 and borrowed(directory)):
            useful_s = boottime_s()
        elif boottime_s() - useful_s > LINGER_S and _may_go(directory, lock):
            return
        time.sleep(min(POLL_S, max(0.01, left_s)) if left_s > 0 else POLL_S)


def _may_go(directory: Path, lock: int) -> bool:
    """Release the watchdog's lock and return True, unless there is new work; then another one can be started."""
    with locked(directory / "lock"):
        if (lease_left_s(directory) > 0 and borrowed(directory)) or continue_leftovers(directory):
            return False
        os.close(lock)
        return True


def _detach() -> None:
    """Go on as a daemon in a session of its own, independent of the process that started it."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")


def main(arguments: list[str]) -> int:
    """Run the watchdog; see the module."""
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
