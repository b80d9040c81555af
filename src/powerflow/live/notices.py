"""Keep the messages that operators should see now: those of the controller's loop and of its helpers."""

from __future__ import annotations

import threading


class Notices:
    """Messages to operators, one line each. A message is replaced and removed by its name. Thread-safe."""

    def __init__(self) -> None:
        self._lines: dict[str, str] = {}
        self._lock = threading.Lock()

    def show(self, name: str, line: str) -> bool:
        """Show a line under a name, or remove this name's line if ``line`` is ""; return whether anything changed."""
        with self._lock:
            if line == self._lines.get(name, ""):
                return False
            self._lines.pop(name, None)
            if line:
                self._lines[name] = line
            return True

    def shown(self) -> dict[str, str]:
        """Return all lines by name."""
        with self._lock:
            return self._lines.copy()
