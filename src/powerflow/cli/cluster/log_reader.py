"""Read the logs of a job from the controller, piece by piece: those of all starts of the job, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from powerflow.api import operations as ops
from powerflow.api.logs import JobLogs, LogChunk, LogRecord
from powerflow.api.records import NodeAway
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.main import UNREACHABLE
from powerflow.errors import InputError

#: Seconds between two reads of a log that grows, and of one whose node does not answer.
_LOOK_S, _AWAY_S = 0.5, 2.0
_PIECE_BYTES = 1 << 20
#: What a controller answers if it does not have the path of an operation.
_NO_PATH = "Not Found"


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
        note: Called with what the user should know, once for each thing.

    Attributes:
        left_out: Why a log could not be read, while others could; None if all were read.
    """

    def __init__(
        self,
        controller: ControllerClient,
        job: str,
        *,
        follow: bool,
        tail: int | None,
        since_s: float | None,
        note: Callable[[str], None],
    ) -> None:
        self._controller, self._job, self._follow = controller, job, follow
        self._tail, self._since_s, self._note = tail, since_s, note
        self._rank = ""  # the only one that is read
        self._awaited = ""  # rank whose node does not answer, which was noted
        self.left_out: InputError | None = None

    def of_rank(self, rank: str) -> Iterator[LogPiece]:
        """Yield the log of one rank."""
        self._rank = rank
        for chunk in self._read(rank, tail=self._tail, follow=self._follow):
            yield LogPiece(chunk, "")

    def of_previous(self) -> Iterator[LogPiece]:
        """Yield the logs of the start before the last one.

        Raises:
            InputError: There is no such start, or its log is not kept.
        """
        known = self._known()
        last = known.items[-1].start if known.items else 0
        chosen = [log for log in known.items if log.start == last - 1]
        if not chosen:
            raise InputError(f"job {self._job} has no log of a start before the last one", exit_code=3)
        yield from self._pieces(chosen, known, self._last_lines(chosen))

    def of_job(self) -> Iterator[LogPiece]:
        """Yield the logs of all starts, the earliest first. With ``follow``, go on over starts to come."""
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
        try:
            return self._controller.ask(ops.LOGS, job_id=self._job)
        except InputError as error:
            if error.what != _NO_PATH:
                raise
            what = "the controller is of an earlier version, which does not list the logs of a job"
            raise InputError(what, fix="use powerflow of that version", exit_code=5) from None

    def _last_lines(self, logs: Sequence[LogRecord]) -> dict[str, list[LogChunk]]:
        """Return the last lines of several logs, by rank: as many as are wanted of all together."""
        if self._tail is None:
            return {}
        found: dict[str, list[LogChunk]] = {log.rank: [] for log in logs}
        left = self._tail
        for log in reversed(logs):
            try:
                read = self._read(log.rank, tail=left, waits=self._follow and log is logs[-1])
                found[log.rank] = _shortened([*read], left)
            except InputError as error:
                self._leave_out(log, error, last=log is logs[-1])
            left -= _lines(found[log.rank])
            if left <= 0:
                break
        return found

    def _pieces(
        self, logs: Sequence[LogRecord], known: JobLogs, read: Mapping[str, Sequence[LogChunk]]
    ) -> Iterator[LogPiece]:
        """Yield logs one after another; of those in ``read`` these pieces, and with ``follow`` what comes later."""
        starts = known.items[-1].start if known.items else 0
        for log in logs:
            heading = f"start {log.start} of {starts}, rank {log.rank}"
            heading = heading if starts > 1 or len(known.items) > 1 else ""
            try:
                for chunk in self._rest(log.rank, read.get(log.rank)):
                    yield LogPiece(chunk, heading)
            except InputError as error:
                self._leave_out(log, error, last=log is logs[-1])

    def _leave_out(self, log: LogRecord, error: InputError, *, last: bool) -> None:
        """Note that a log cannot be read now; raise the error if it is the last log, and no later one may come.

        Without a controller, no log can be read.
        """
        no_controller = error.exit_code == UNREACHABLE and not isinstance(error, NodeAway)
        if no_controller or (last and not self._follow):
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
        self,
        rank: str,
        *,
        tail: int | None = None,
        after: int | None = None,
        follow: bool = False,
        waits: bool = False,
    ) -> Iterator[LogChunk]:
        """Yield the pieces of one log after an offset; with ``follow``, until it does not grow any more.

        With ``follow`` or ``waits``, wait while its node does not answer.
        """
        offset, start = after or 0, {"tail": tail, "since_s": self._since_s} if after is None else {}
        while True:
            query: dict[str, Any] = {"offset": offset, "limit": _PIECE_BYTES, **start}
            try:
                chunk = self._controller.ask(ops.LOG, job_id=self._job, rank=rank, **query)
            except NodeAway as error:
                if not (follow or waits) or self._is_over(rank):
                    raise
                self._await(rank, error)
                continue
            self._awaited = ""
            yield chunk
            offset, start = chunk.offset, {}
            if chunk.ended or not (chunk.text or follow):
                return
            if not chunk.text:
                time.sleep(_LOOK_S)

    def _is_over(self, rank: str) -> bool:
        """Return True if nobody needs to wait for a log: the job has ended, or a later log has followed."""
        known = self._known()
        return known.ended or (not self._rank and bool(known.items) and known.items[-1].rank != rank)

    def _await(self, rank: str, error: NodeAway) -> None:
        """Wait a moment for the node of a log; say so the first time."""
        if self._awaited != rank:
            self._note(f"{error.what}: waiting for the log of rank {rank}")
        self._awaited = rank
        time.sleep(_AWAY_S)


def _lines(chunks: Sequence[LogChunk]) -> int:
    """Return the number of lines in pieces of a log; a last line without a line break counts."""
    texts = [chunk.text for chunk in chunks if chunk.text]
    return sum(text.count("\n") for text in texts) + bool(texts and not texts[-1].endswith("\n"))


def _shortened(chunks: Sequence[LogChunk], lines: int) -> list[LogChunk]:
    """Return the last lines of pieces of a log, which may have more because the log grew while it was read."""
    excess, found = _lines(chunks) - lines, []
    for chunk in chunks:
        *left_out, rest = chunk.text.split("\n", max(excess, 0))
        if excess > 0:
            rest = rest if len(left_out) == excess else ""
        found.append(replace(chunk, text=rest, dropped=chunk.dropped and excess <= 0))
        excess -= len(left_out)
    return found
