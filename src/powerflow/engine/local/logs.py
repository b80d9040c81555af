"""Write and read the log of a rank.

Only the newest part is kept on disk. Offsets count all bytes that were ever written.

The log is a series of files. The name of each file is the offset of its first byte. A new file begins after
`SEGMENT_BYTES`. The oldest file is deleted when the others hold that many bytes. So at least `SEGMENT_BYTES` of the
newest output are kept, and at most twice as many.
"""

from __future__ import annotations

import os
from pathlib import Path

SEGMENT_BYTES = 8 << 20
_PREFIX = "log-"


def _segments(directory: Path) -> list[tuple[int, str]]:
    """Return offset and path of each file of a log, by ascending offset."""
    with os.scandir(directory) as entries:
        return sorted(
            (int(entry.name[len(_PREFIX) :]), entry.path) for entry in entries if entry.name.startswith(_PREFIX)
        )


class LogWriter:
    """Writer of a rank's log.

    If the disk is full, output is lost, but its bytes still count, and the rank continues to run.
    """

    def __init__(self, directory: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._offset = 0  # of the next byte
        self._file: int | None = None
        self._room = 0  # bytes left in the file

    def write(self, data: bytes) -> None:
        """Append bytes to the log."""
        view = memoryview(data)
        while view:
            try:
                if self._room == 0:
                    self._begin_segment()
                assert self._file is not None
                written = os.write(self._file, view[: self._room])
            except OSError:
                self._room = 0
                self._offset += len(view)
                return
            view = view[written:]
            self._offset += written
            self._room -= written

    def close(self) -> None:
        """Close the log's current file."""
        if self._file is not None:
            os.close(self._file)
            self._file, self._room = None, 0

    def _begin_segment(self) -> None:
        self.close()
        path = self._directory / f"{_PREFIX}{self._offset:020d}"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._room = self._segment_bytes
        sizes = [(os.path.getsize(path), path) for _, path in _segments(self._directory)]
        held = sum(size for size, _ in sizes)
        for size, oldest in sizes:
            held -= size
            if held < self._segment_bytes:
                break
            os.unlink(oldest)


def read_log(directory: Path, offset: int, limit: int) -> tuple[bytes, int]:
    """Return at most ``limit`` bytes of a log from ``offset`` on, and the offset after these bytes. See `Engine.log`.

    Raises:
        FileNotFoundError: The directory of the log does not exist.
    """
    while True:
        segments = _segments(directory)
        try:
            return _read(segments, offset, limit)
        except FileNotFoundError:  # deleted by rotation since it was listed
            continue


def _read(segments: list[tuple[int, str]], offset: int, limit: int) -> tuple[bytes, int]:
    spans = [(start, start + os.path.getsize(path), path) for start, path in segments]
    end = spans[-1][1] if spans else 0
    if offset < 0:
        offset = max(0, end + offset)
    found = bytearray()
    for start, stop, path in spans:
        if stop <= offset or len(found) >= limit:
            continue
        if start > offset:  # skip what was dropped, but not in the middle of an answer
            if found:
                break
            offset = start
        with open(path, "rb") as file:
            file.seek(offset - start)
            part = file.read(min(stop - offset, limit - len(found)))
        found += part
        offset += len(part)
    return bytes(found), max(offset, 0)
