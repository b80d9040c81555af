"""Small files that are replaced as a whole, and locks on them. Imports little: the watchdog lives on it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def replace_json(path: Path, content: Mapping[str, Any], *, durable: bool = False) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    ``durable`` also waits until the disk has it, so that it outlives a power cut.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, allow_nan=False)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_json(path: Path) -> dict[str, Any] | None:
    """Content of such a file; None if it is not there, or is no JSON object (what a damaged disk leaves)."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        content = json.loads(path.read_text("utf-8"))
        return content if isinstance(content, dict) else None
    return None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, made if need be; other threads and processes wait. It ends with its holder."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
