"""Read and write text files in folders that belong to other users, who may put anything there at any moment.

No link is followed: a folder is opened first, and its files are opened, replaced and deleted below the open folder.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a folder, but refuse a link.

    Raises:
        OSError: The path does not exist, or is no folder.
    """
    folder = os.open(path, _FOLDER)
    try:
        yield folder
    finally:
        os.close(folder)


def read_text(folder: int, name: str, most: int) -> str | None:
    """Return a text file in an open folder; None if it is missing, no plain file, no text, or over ``most`` bytes."""
    try:
        file = os.open(name, _FILE, dir_fd=folder)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        text = os.read(file, most + 1)
        return None if len(text) > most else text.decode()
    except (OSError, UnicodeDecodeError):
        return None
    finally:
        os.close(file)


def replace_text(folder: int, name: str, text: str) -> None:
    """Replace a file in an open folder as a whole. Its reader needs no right but to read."""
    temporary = f".{name}.{secrets.token_hex(4)}"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder)
    try:
        with os.fdopen(file, "w") as opened_file:
            opened_file.write(text)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
