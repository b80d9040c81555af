"""Read the logs of a job's ranks: all of a log, its last lines, or what was written since a time."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from powerflow.api.logs import JobLogs, LogChunk, LogRecord
from powerflow.api.records import NodeAway
from powerflow.engine.protocol import EngineError
from powerflow.errors import InputError
from powerflow.gangs.manager import Gangs

#: Bytes that are read at once to find the beginning of a line: in the first step, and in later ones.
_STEP, _LARGEST_STEP = 1 << 16, 1 << 20

#: Returns at most ``limit`` bytes of a log from ``offset`` on, and the offset after them, as `Engine.log` does.
Read = Callable[[int, int], tuple[bytes, int]]


@dataclass(frozen=True, slots=True)
class LogPart:
    """Which part of a log to read.

    Attributes:
        offset: First byte; a negative offset counts from the end.
        limit: Bytes at most.
        tail: If it is not None, the part begins so many lines before the end, and not at ``offset``.
        since_s: If it is not None, the part begins with the output since this time (Unix seconds), and not at
            ``offset``. With ``tail``, the part begins where the later of the two does.
    """

    offset: int = 0
    limit: int = 65536
    tail: int | None = None
    since_s: float | None = None


def job_logs(gangs: Gangs, job_id: str, *, ended: bool) -> JobLogs:
    """List the logs that together are the log of a job, oldest first.

    Args:
        gangs: The gangs of all jobs.
        job_id: Id of the job.
        ended: True if the job has ended.
    """
    found = []
    for start in gangs.starts(job_id):
        for name in start.ranks:
            if status := gangs.rank_of(job_id, name):
                found.append(LogRecord(name, start.number, status.node, status.started_s, not status.state.may_run))
    return JobLogs(found, ended)


def job_log(gangs: Gangs, job_id: str, rank: str | None, part: LogPart, *, ended: bool) -> LogChunk:
    """Return a part of the log of one of a job's ranks; of its first rank if ``rank`` is None.

    Raises:
        NodeAway: The rank's node does not answer.
        InputError: The times of the log are not known.
    """
    chosen = rank or next(iter(gangs.ranks(job_id)), "")
    if not chosen:
        return LogChunk("", "", max(part.offset, 0), ended, False)
    status = gangs.rank_of(job_id, chosen)  # before its log is read: what it wrote before its end is in the log
    complete = ended or (rank is not None and status is not None and not status.state.may_run)

    def read(offset: int, limit: int) -> tuple[bytes, int]:
        return gangs.log(job_id, chosen, offset, limit)

    def offset_since(since_s: float) -> int:
        try:
            return gangs.log_offset(chosen, since_s)
        except EngineError as error:
            if error.retry:
                raise
            raise InputError(f"the times of the output of rank {chosen} are not known: {error}") from error

    try:
        start, dropped = _start(read, offset_since, part)
        content, end = read(start, part.limit)
    except KeyError:  # named, but not launched yet
        gone = status is not None and not status.state.may_run  # its machine has lost it
        return LogChunk(chosen, "", max(part.offset, 0), complete, gone)
    except EngineError as error:
        what = str(error) if status is None else f"node {status.node} does not answer"
        raise NodeAway(what, fix=f"the log of rank {chosen} is there: try again when it answers") from error
    dropped = dropped or 0 <= start < end - len(content)
    complete = complete and len(content) < part.limit
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(content, final=complete)
    return LogChunk(chosen, text, end - len(decoder.getstate()[0]), complete, dropped)


def _start(read: Read, offset_since: Callable[[float], int], part: LogPart) -> tuple[int, bool]:
    """Return the offset at which a part of a log begins, and True if older output was asked for but is not kept.

    Raises:
        KeyError: The engine does not know the rank.
        EngineError: The node does not answer.
        InputError: The times of the log are not known.
    """
    found = []
    if part.since_s is not None:
        since = offset_since(part.since_s)
        # with the beginning of its first line, if there is any output
        start, _ = lines_before(read, since, 0) if read(since, 1)[0] else (since, False)
        found.append((start, start > 0 and _first(read, start - 1) >= start))
    if part.tail is not None:
        _, end = read(-1, 1)
        found.append(lines_before(read, end, part.tail) if part.tail else (end, False))
    return max(found) if found else (part.offset, False)


def lines_before(read: Read, end: int, lines: int) -> tuple[int, bool]:
    """Return where the last lines before an offset begin, and True if a part of them is not kept any more.

    Args:
        read: Reads the log.
        end: The offset. A line break directly before it ends the last line.
        lines: Number of lines; 0 for the rest of the line that contains the offset, which is nothing at its beginning.
    """
    at, step, breaks = end, _STEP, lines + (lines == 0)
    begin = end
    while at > 0:
        start = max(0, at - step)
        pieces = _pieces(read, start, at)
        if not pieces:
            return begin, True
        for first, content in reversed(pieces):
            begin = first
            stop = len(content) - (lines > 0 and first + len(content) == end)
            while (found := content.rfind(b"\n", 0, stop)) >= 0:
                breaks -= 1
                if breaks == 0:
                    return first + found + 1, False
                stop = found
        at, step = start, min(2 * step, _LARGEST_STEP)
    return begin, begin > 0


def _pieces(read: Read, start: int, end: int) -> Sequence[tuple[int, bytes]]:
    """Return what is kept of a log between two offsets: offset and content of each piece."""
    found = []
    while start < end:
        content, stop = read(start, end - start)
        first = stop - len(content)
        if not content or first >= end:
            break
        found.append((first, content[: end - first]))
        start = stop
    return found


def _first(read: Read, offset: int) -> int:
    """Return the offset of the first byte that is kept from an offset on."""
    content, stop = read(offset, 1)
    return stop - len(content)
