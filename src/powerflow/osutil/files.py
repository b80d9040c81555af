"""Replace small files as a whole, read small files, and lock files.

This module imports little, to save memory in the processes of jobs and in the device watchdog.
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
    """Replace a file so that a reader sees either the old content or the new content, never a part of it.

    Yields a new open file in the same folder. When the ``with`` block ends, the new file takes the place of ``path``.
    If the block raises an exception, the new file is deleted, and ``path`` stays as it was.

    Args:
        path: The file to replace.
        durable: True to wait until content and name are on disk, so that both survive a power cut.
        mode: Permissions of the new file, minus the umask. The file has them from its creation on.
        temporary: Name of the new file until it replaces ``path``; it must not exist. None for a random name.
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
    """Replace a file by a JSON object, so that a reader sees the old content or the new content, never a part of it.

    ``durable`` and ``mode`` are as in `replaced`.

    Raises:
        OSError: The file cannot be written; it stays as it was.
    """
    text = json.dumps(content, allow_nan=False)
    with replaced(path, durable=durable, mode=mode) as file:
        file.write(text.encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object from a file.

    Returns:
        The object. None if the file is missing or holds no JSON object (a power cut may damage a file in this way).
    """
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def read_untrusted_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object from a file in a folder where another user may put anything.

    Returns:
        The object. None if the file is missing, or if it is a link, a pipe or a socket.

    Raises:
        ValueError: The file holds no JSON object, or more than `MOST_BYTES` bytes.
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
    """Hold the lock of a file during a ``with`` block; wait while another thread or process holds the lock.

    A missing file is created with the permissions ``mode``. The kernel releases the lock when the process that holds it
    ends, even if that process is killed.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def try_lock(path: Path, *, wait_s: float = 0.0, pause_s: float = 0.01, create: bool = True) -> int | None:
    """Take the lock of a file, and return the open file descriptor.

    Closing the descriptor releases the lock. A process that inherits the descriptor holds the lock, too.

    Args:
        path: The file. If ``create`` is True, it must not be a symbolic link.
        wait_s: Seconds to wait until another holder releases the lock.
        pause_s: Seconds between two attempts to take the lock.
        create: True to create a missing file, which only its owner can read.

    Returns:
        The descriptor; None if another process or thread still holds the lock after ``wait_s``.

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
