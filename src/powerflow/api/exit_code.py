"""Read the exit code of a process."""

from __future__ import annotations

import signal

#: A shell ends with this much more than the number of the signal that ended its command.
_BY_SHELL = 128


def signal_name(code: int | None) -> str:
    """Return the name of the signal that an exit code stands for: SIGKILL for −9 and for 137; "" if there is none.

    A process that was ended by signal N has the code −N. A shell whose command was ended by signal N has the code
    128 + N.
    """
    if code is None or 0 <= code <= _BY_SHELL:
        return ""
    try:
        return signal.Signals(-code if code < 0 else code - _BY_SHELL).name
    except ValueError:
        return ""
