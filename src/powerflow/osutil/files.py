"""Replace small files as a whole, read them, and lock files.

Ranks of jobs and the device watchdog import this module, so it imports little.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

#: Largest file that `read_untrusted_json` takes.
MOST_BYTES = 1 << 20


@contextlib.contextmanager
def replaced(
    path: Path, *, durable: bool = False, mode: int = 0o666, temporary: Path | None = None
) -> Iterator[BinaryIO]:
    """Write a file so that a reader sees the old content or the new, never a part.

    Yields a new file in the same folder. It takes the place of ``path`` when the block ends; after an exception it is
    deleted, and ``path`` stays as it was.

    Args:
        path: The file to replace.
        durable: Also wait until the disk has content and name, so that both outlast a power cut.
        mode: Permissions of the new file, less the umask; it has them from its first byte on.
        temporary: Name of the new file, where nothing may exist; None: a random one.
    """
    temporary = temporary or path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    # "x": never write through a link or into a file that somebody else has put there
    new = open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115
    try:
        with new as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def replace_json(path: Path, content: Mapping[str, Any], *, durable: bool = False, mode: int = 0o666) -> None:
    """Replace a file by a JSON object; arguments as for `replaced`.

    Raises:
        OSError: The file cannot be written; it stays as it was.
    """
    text = json.dumps(content, allow_nan=False)
    with replaced(path, durable=durable, mode=mode) as file:
        file.write(text.encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if the file is missing or holds something else, as a power cut may leave."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def read_untrusted_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object from a folder in which another user may put anything.

    Returns:
        None if the file is missing, or is a link, a pipe or a socket.

    Raises:
        ValueError: It holds no JSON object, or more than `MOST_BYTES`.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket
            return None
        raise
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        text = os.read(file, MOST_BYTES + 1)
    finally:
        os.close(file)
    if len(text) > MOST_BYTES:
        raise ValueError(f"{path.name} is larger than {MOST_BYTES} bytes")
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content


@contextlib.contextmanager
def locked(path: Path, *, mode: int = 0o600) -> Iterator[None]:
    """Hold the lock of a file, created with ``mode`` if missing; wait for other threads and processes.

    The kernel releases the lock when its holder ends, however that ends.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def try_lock(path: Path, *, wait_s: float = 0.0, pause_s: float = 0.01, create: bool = True) -> int | None:
    """Take the lock of a file; return its descriptor, or None if another holds it.

    Closing the descriptor releases the lock; a process that inherits the descriptor holds the lock too.

    Args:
        path: The file. A link is refused where the file may be created.
        wait_s: Seconds to wait for another holder, asking every ``pause_s``.
        pause_s: Seconds between two attempts.
        create: Create the file if it is missing, readable by its owner only.

    Raises:
        OSError: The file cannot be opened.
    """
    end_s = time.monotonic() + wait_s
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_NOFOLLOW if create else 0)
    while True:
        file = os.open(path, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file), os.stat(path)):  # the lock of a deleted file locks nothing
                return file
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        if time.monotonic() >= end_s:
            return None
        time.sleep(pause_s)
