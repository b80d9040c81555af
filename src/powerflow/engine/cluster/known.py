"""Keep what an engine must know after a restart of the controller, even while a machine does not answer.

For each machine: its nodes, its agent's key, and the ranks that may run there. For each gang: its fence. Without this,
a rank on a machine that is cut off would look as if it had never been launched, and its job would run twice.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol

from powerflow.osutil.files import read_json, replace_json

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}")


class KeptState(Protocol):
    """A small durable table of JSON objects by key. Keys are letters, digits, ``.``, ``_`` and ``-``."""

    def load(self) -> dict[str, dict[str, Any]]:
        """Return all objects."""
        ...

    def put(self, key: str, value: dict[str, Any] | None) -> None:
        """Replace an object; None deletes it."""
        ...


class FolderState:
    """A `KeptState` in a folder, one file for each key."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def load(self) -> dict[str, dict[str, Any]]:
        """Return all objects. A damaged file is left out."""
        found = {path.stem: read_json(path) for path in self._directory.glob("[!.]*.json")}
        return {key: value for key, value in found.items() if value is not None}

    def put(self, key: str, value: dict[str, Any] | None) -> None:
        """Replace an object; None deletes it.

        Raises:
            ValueError: The key cannot be the name of a file.
            OSError: The file cannot be written.
        """
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} cannot be a key")
        path = self._directory / f"{key}.json"
        if value is None:
            path.unlink(missing_ok=True)
        else:
            replace_json(path, value)
