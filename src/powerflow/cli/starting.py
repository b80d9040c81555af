"""Say on stderr what a controller does while it starts, and what its service manager will do to ranks."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from powerflow.units import duration

#: A phase that takes longer is said to have, with its time.
LONG_S = 1.0
#: Values of systemd's KillMode with which all processes of a unit end when the unit is stopped or restarted.
_ENDS_ALL = ("control-group", "mixed")


@contextmanager
def phase(what: str, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Print a line about what is done in the ``with`` block, and another line if it took longer than a second."""
    print(f"powerflow: {what}", file=sys.stderr, flush=True)
    begun_s = clock()
    yield
    took_s = clock() - begun_s
    if took_s > LONG_S:
        print(f"powerflow: {what}: took {duration(took_s)}", file=sys.stderr, flush=True)


def ends_ranks(cgroups: Path = Path("/proc/self/cgroup")) -> str:
    """Return a warning if systemd will end the ranks with this process; "" if not, or if that is not known."""
    unit = _unit(cgroups)
    if not unit:
        return ""
    ask = ["systemctl", "show", "--property=KillMode", "--value", unit]
    try:
        mode = subprocess.run(ask, capture_output=True, text=True, timeout=5.0, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if mode not in _ENDS_ALL:
        return ""
    return f"systemd ends all jobs when {unit} is stopped or restarted (KillMode={mode}): set KillMode=process in it"


def _unit(cgroups: Path) -> str:
    """Return the name of the systemd service that this process is the main part of; "" if there is none."""
    try:
        lines = cgroups.read_text().splitlines()
    except OSError:
        return ""
    names = {line.rpartition("/")[2] for line in lines}
    return next((name for name in sorted(names) if name.endswith(".service")), "")
