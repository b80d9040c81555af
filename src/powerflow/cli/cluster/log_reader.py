"""Read the logs of a job from the controller, piece by piece: those of all attempts, in order."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from powerflow.api import operations as ops
from powerflow.api.records import JobLogs, LogChunk, LogRecord
from powerflow.cli.cluster.client import ControllerClient
from powerflow.errors import InputError

#: Seconds between two reads of a log that grows.
_LOOK_S = 0.5
_PIECE_BYTES = 1 << 20


class LogPiece(NamedTuple):
    """A piece of a log, and the name of this log among the job's logs: "" if there is no other."""

    chunk: LogChunk
    heading: str


class LogReader:
    """Reader of the logs of one job.

    Args:
        controller: The controller.
        job: Number of the job.
        follow: True to wait for more output until the job ends.
        tail: Number of last lines to read; None for all.
        since_s: Read only output since this time, in Unix seconds; None for all.

    Attributes:
        left_out: Why a log could not be read, while others could; None if all were read.
    """

    def __init__(
        self, controller: ControllerClient, job: str, *, follow: bool, tail: int | None, since_s: float | None
    ) -> None:
        self._controller, self._job, self._follow = controller, job, follow
        self._tail, self._since_s = tail, since_s
        self.left_out: InputError | None = None

    def of_rank(self, rank: str) -> Iterator[LogPiece]:
        """Yield the log of one rank."""
        for chunk in self._read(rank, tail=self._tail, follow=self._follow):
            yield LogPiece(chunk, "")

    def of_previous(self) -> Iterator[LogPiece]:
        """Yield the logs of the attempt before the last one.

        Raises:
            InputError: There is no such attempt, or its log is not kept.
        """
        known = self._known()
        last = known.items[-1].attempt if known.items else 0
        chosen = [log for log in known.items if log.attempt == last - 1]
        if not chosen:
            raise InputError(f"job {self._job} has no log of an attempt before the last one", exit_code=3)
        yield from self._pieces(chosen, known, self._last_lines(chosen))

    def of_job(self) -> Iterator[LogPiece]:
        """Yield the logs of all attempts, the earliest first. With ``follow``, go on over attempts to come."""
        known, done = self._known(), set[str]()
        read = self._last_lines(known.items)
        while True:
            new = [log for log in known.items if log.rank not in done]
            yield from self._pieces(new, known, read)
            done.update(log.rank for log in new)
            if not self._follow or (known.ended and not new):
                return
            if not new:
                time.sleep(_LOOK_S)
            known = self._known()

    def _known(self) -> JobLogs:
        return self._controller.ask(ops.LOGS, job_id=self._job)

    def _last_lines(self, logs: Sequence[LogRecord]) -> dict[str, list[LogChunk]]:
        """Return the last lines of several logs, by rank: as many as are wanted of all together."""
        if self._tail is None:
            return {}
        found: dict[str, list[LogChunk]] = {log.rank: [] for log in logs}
        left = self._tail
        for log in reversed(logs):
            try:
                found[log.rank] = [*self._read(log.rank, tail=left)]
            except InputError as error:
                self._leave_out(log, error, last=log is logs[-1])
            texts = [chunk.text for chunk in found[log.rank] if chunk.text]
            left -= sum(text.count("\n") for text in texts) + bool(texts and not texts[-1].endswith("\n"))
            if left <= 0:
                break
        return found

    def _pieces(
        self, logs: Sequence[LogRecord], known: JobLogs, read: Mapping[str, Sequence[LogChunk]]
    ) -> Iterator[LogPiece]:
        """Yield logs one after another; of those in ``read`` these pieces, and with ``follow`` what comes later."""
        attempts = known.items[-1].attempt if known.items else 0
        for log in logs:
            heading = f"attempt {log.attempt} of {attempts}, rank {log.rank}"
            heading = heading if attempts > 1 or len(known.items) > 1 else ""
            try:
                for chunk in self._rest(log.rank, read.get(log.rank)):
                    yield LogPiece(chunk, heading)
            except InputError as error:
                self._leave_out(log, error, last=log is logs[-1])

    def _leave_out(self, log: LogRecord, error: InputError, *, last: bool) -> None:
        """Note that a log cannot be read now; raise the error if it is the last log."""
        if last:
            raise error
        what = f"the log of rank {log.rank} is left out: {error.what}"
        self.left_out = self.left_out or InputError(what, fix=error.fix, exit_code=error.exit_code)

    def _rest(self, rank: str, read: Sequence[LogChunk] | None) -> Iterator[LogChunk]:
        """Yield a log, of which these pieces were read already; None: it is read from its beginning."""
        yield from read or ()
        if read is None:
            yield from self._read(rank, follow=self._follow)
        elif read and self._follow and not read[-1].ended:
            yield from self._read(rank, after=read[-1].offset, follow=True)

    def _read(
        self, rank: str, *, tail: int | None = None, after: int | None = None, follow: bool = False
    ) -> Iterator[LogChunk]:
        """Yield the pieces of one log after an offset; with ``follow``, until it does not grow any more."""
        offset, start = after or 0, {"tail": tail, "since_s": self._since_s} if after is None else {}
        while True:
            query: dict[str, Any] = {"offset": offset, "limit": _PIECE_BYTES, **start}
            chunk = self._controller.ask(ops.LOG, job_id=self._job, rank=rank, **query)
            yield chunk
            moved, offset, start = chunk.offset > offset, chunk.offset, {}
            if chunk.ended or not (moved or follow):
                return
            if not moved:
                time.sleep(_LOOK_S)
