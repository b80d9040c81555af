"""Write and read the log of a rank.

Only the newest part is kept on disk. Offsets count all bytes that were ever written.

The log is a series of files. The name of each file is the offset of its first byte. A new file begins after
`SEGMENT_BYTES`. The oldest file is deleted when the others hold that many bytes. So at least `SEGMENT_BYTES` of the
newest output are kept, and at most twice as many.

Beside each file is an index with times. An entry says at which offset the output of a moment begins. It stands for all
output of the next second, however much that is, and for later output as long as both together have at most
`_ENTRY_BYTES`. So a log to which little is written has an index that is small beside it. A log that was begun by an
earlier version has no index.
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
#: Bytes of output for which one entry may stand, if they were not written within `_ENTRY_S`. Two entries (32 bytes)
#: stand for more than this, so that the index has at most a sixteenth of the bytes of its file.
_ENTRY_BYTES = 512


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
        self._entry_s, self._entry_offset = -math.inf, 0  # of the last entry, of any index
        self._written_s = -math.inf  # when the last byte was written

    def write(self, data: bytes) -> None:
        """Append bytes to the log."""
        view, now_s = memoryview(data), max(self._clock(), self._written_s)  # a clock that was set back stands still
        self._written_s = now_s
        while view:
            try:
                if self._room == 0:
                    self._begin_segment()
                assert self._file is not None
                part = view[: self._room]
                self._note(now_s, len(part))
                written = os.write(self._file, part)
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

    def _note(self, now_s: float, size: int) -> None:
        """Write into the index that the next ``size`` bytes are written now, unless the last entry stands for them."""
        covered = now_s < self._entry_s + _ENTRY_S or self._offset + size - self._entry_offset <= _ENTRY_BYTES
        if self._entries and covered:
            return
        assert self._index is not None
        # at its place, not appended: a part of an entry that was written to a full disk is replaced
        os.pwrite(self._index, _ENTRY.pack(self._offset, now_s), self._entries * _ENTRY.size)
        self._entries += 1
        self._entry_s, self._entry_offset = now_s, self._offset

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
    for at, (start, path) in enumerate(segments):
        after = segments[at + 1][1] if at + 1 < len(segments) else None
        status = os.stat(path)
        end = start + status.st_size
        if status.st_mtime + _ENTRY_S <= since_s or (after is not None and _begins_before(after, since_s)):
            continue  # its last byte is older
        try:
            index = os.open(_index_of(path), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            os.stat(path)  # or else it was deleted by rotation
            raise EngineError("the log has no times, because an earlier version of PowerFlow began it") from None
        try:
            found = _search(index, since_s, end)
        finally:
            os.close(index)
        if found < end:
            return found
    return end


def _begins_before(segment: str, since_s: float) -> bool:
    """Return True if the first byte of a file is older than a time; False if that is not known."""
    try:
        with open(_index_of(segment), "rb") as index:
            first = index.read(_ENTRY.size)
    except FileNotFoundError:
        return False
    return len(first) == _ENTRY.size and _ENTRY.unpack(first)[1] < since_s


def _search(index: int, since_s: float, end: int) -> int:
    """Return the offset at which the output since a time begins in a file of a log, according to its index.

    Args:
        index: Descriptor of the index.
        since_s: The time, Unix seconds.
        end: Offset of the end of the file.
    """
    entries = range(os.fstat(index).st_size // _ENTRY.size)

    def entry(i: int) -> tuple[int, float]:
        offset, time_s = _ENTRY.unpack(os.pread(index, _ENTRY.size, i * _ENTRY.size))
        return offset, time_s

    after = bisect_right(entries, since_s, key=lambda i: entry(i)[1])  # the first entry that is later
    next_offset = entry(after)[0] if after < len(entries) else end
    if after == 0:
        return next_offset
    offset, time_s = entry(after - 1)
    older = since_s >= time_s + _ENTRY_S and next_offset - offset > _ENTRY_BYTES  # all of it was written in its second
    return next_offset if older else offset
