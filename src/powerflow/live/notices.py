"""Hold what operators should know: the notices of the controller's loop and of its helpers, by name."""

from __future__ import annotations

import threading


class Notices:
    """Messages to operators, one line each. Each has a name, under which it is replaced and removed. Thread-safe."""

    def __init__(self) -> None:
        self._lines: dict[str, str] = {}
        self._lock = threading.Lock()

    def show(self, name: str, line: str) -> bool:
        """Show a line, or remove the line of this name if ``line`` is ""; return whether this changes what is shown."""
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
