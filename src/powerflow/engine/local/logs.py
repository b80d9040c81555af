"""Write and read the log of a rank.

Only the newest part is kept on disk. Offsets count all bytes that were ever written.

The log is a series of files. The name of each file is the offset of its first byte. A new file begins after
`SEGMENT_BYTES`. The oldest file is deleted when the others hold that many bytes. So at least `SEGMENT_BYTES` of the
newest output are kept, and at most twice as many.

Beside each file is an index with times: at most one entry a second, which says at which offset the output of this
moment begins. A log that was begun by an earlier version has no index.
"""

from __future__ import annotations

import math
import os
import struct
import time
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

from powerflow.engine.protocol import EngineError

SEGMENT_BYTES = 8 << 20
_PREFIX, _TIMES = "log-", "times-"
#: An entry of an index: an offset, and when the byte at this offset was written, Unix seconds.
_ENTRY = struct.Struct("<Qd")
#: Seconds of output that one entry stands for.
_ENTRY_S = 1.0


def _segments(directory: Path) -> list[tuple[int, str]]:
    """Return offset and path of each file of a log, by ascending offset."""
    with os.scandir(directory) as entries:
        return sorted(
            (int(entry.name[len(_PREFIX) :]), entry.path) for entry in entries if entry.name.startswith(_PREFIX)
        )


def _index_of(segment: str) -> str:
    """Return the path of the index of a file."""
    folder, name = os.path.split(segment)
    return os.path.join(folder, _TIMES + name[len(_PREFIX) :])


class LogWriter:
    """Writer of a rank's log.

    If the disk is full, output is lost, but its bytes still count, and the rank continues to run.
    """

    def __init__(
        self, directory: Path, segment_bytes: int = SEGMENT_BYTES, clock: Callable[[], float] = time.time
    ) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._clock = clock
        self._offset = 0  # of the next byte
        self._file: int | None = None
        self._room = 0  # bytes left in the file
        self._index: int | None = None
        self._entries = 0  # in the index
        self._entry_s = -math.inf  # time of the last entry, of any index

    def write(self, data: bytes) -> None:
        """Append bytes to the log."""
        view, now_s = memoryview(data), max(self._clock(), self._entry_s)  # a clock that was set back stands still
        while view:
            try:
                if self._room == 0:
                    self._begin_segment()
                assert self._file is not None
                self._note(now_s)
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
        for file in (self._file, self._index):
            if file is not None:
                os.close(file)
        self._file, self._index, self._room = None, None, 0

    def _note(self, now_s: float) -> None:
        """Write into the index that the next byte is written now, unless the last entry is of this second."""
        if self._entries and now_s < self._entry_s + _ENTRY_S:
            return
        assert self._index is not None
        # at its place, not appended: a part of an entry that was written to a full disk is replaced
        os.pwrite(self._index, _ENTRY.pack(self._offset, now_s), self._entries * _ENTRY.size)
        self._entries += 1
        self._entry_s = now_s

    def _begin_segment(self) -> None:
        self.close()
        path, flags = f"{self._directory}/{_PREFIX}{self._offset:020d}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        self._index = os.open(_index_of(path), flags, 0o600)  # first, so that each file has one
        self._entries = 0
        self._file = os.open(path, flags | os.O_APPEND, 0o600)
        self._room = self._segment_bytes
        sizes = [(os.path.getsize(path), path) for _, path in _segments(self._directory)]
        held = sum(size for size, _ in sizes)
        for size, oldest in sizes:
            held -= size
            if held < self._segment_bytes:
                break
            os.unlink(oldest)
            os.unlink(_index_of(oldest))


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


def offset_since(directory: Path, since_s: float) -> int:
    """Return the offset at which the output since a time begins. See `Engine.log_offset`.

    Raises:
        FileNotFoundError: The directory of the log does not exist.
        EngineError: The log was begun by an earlier version, which did not note times.
    """
    while True:
        segments = _segments(directory)
        try:
            return _offset_since(segments, since_s)
        except FileNotFoundError:  # deleted by rotation since it was listed
            continue


def _offset_since(segments: list[tuple[int, str]], since_s: float) -> int:
    end = 0
    for start, path in segments:
        status = os.stat(path)
        end = start + status.st_size
        if status.st_mtime + _ENTRY_S <= since_s:  # its last byte is older
            continue
        try:
            index = os.open(_index_of(path), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            os.stat(path)  # or else it was deleted by rotation
            raise EngineError("the log has no times, because an earlier version of PowerFlow began it") from None
        try:
            found = _search(index, since_s)
        finally:
            os.close(index)
        if found is not None:
            return found
    return end


def _search(index: int, since_s: float) -> int | None:
    """Return the offset of the first entry whose second ends after a time; None if there is none."""
    entries = range(os.fstat(index).st_size // _ENTRY.size)

    def entry(i: int) -> tuple[int, float]:
        offset, time_s = _ENTRY.unpack(os.pread(index, _ENTRY.size, i * _ENTRY.size))
        return offset, time_s

    i = bisect_right(entries, since_s - _ENTRY_S, key=lambda i: entry(i)[1])
    return entry(i)[0] if i < len(entries) else None
