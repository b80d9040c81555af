"""Send the requests of commands to the REST API, and turn each failure into an error of one line."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from powerflow.api import operations as ops
from powerflow.api.decode import decode
from powerflow.api.operations import PREFIX, Operation
from powerflow.api.pages import NumberedPage, Page
from powerflow.api.records import JobRecord, JobState, NodeAway, NotSure
from powerflow.cli.cluster.http import HttpSender, KeptSender, Lost, NotConnected, Reply
from powerflow.cli.output import plain
from powerflow.errors import InputError
from powerflow.units import duration

if TYPE_CHECKING:
    from powerflow.api.accounts import EndedJob
    from powerflow.api.decisions import DecisionRecord
    from powerflow.api.governance import AuditRecord
    from powerflow.api.job_spec import JobSpec
    from powerflow.api.records import EventRecord

Answer = TypeVar("Answer")
Item = TypeVar("Item")
Numbered = TypeVar("Numbered", "AuditRecord", "DecisionRecord", "EventRecord")

#: How long a request that is safe to repeat is repeated after its connection was lost: a controller restarts in 5 s.
PATIENCE_S = 30.0
#: The same for a command that follows something, perhaps all night: an upgrade or a reboot takes minutes.
FOLLOWING_S = 300.0
#: Longest wait of such a command for an answer, in seconds: no request waits longer than 20 s for news.
_FOLLOWING_READ_S = 30.0
_AGAIN_S = 0.2
_PAGE = 1000
#: Jobs that are named when several have the same name.
_NAMED = 8
_LISTED = "powerflow queue lists the jobs"
#: What tables show as the name of a job without one.
_UNNAMED = re.compile(r"job-([0-9]+)")
_EXIT_CODES = {400: 2, 401: 4, 403: 4, 404: 3, 409: 4, 413: 2, 422: 2, 428: 4, 429: 5, 503: 5, 504: 5}


class ControllerClient:
    """Client of the controller at a URL.

    Every method raises `InputError` if its request fails. The error's exit code tells the kind of failure.

    Args:
        url: Address of the controller.
        token: The caller's token.
        find: Returns address and token again, after the connection was lost: a controller that was started again may
            have another port. None if the address cannot change.
    """

    def __init__(self, url: str, token: str | None, find: Callable[[], tuple[str, str | None]] | None = None) -> None:
        self.url, self._token, self._find = url, token, find
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http, self._patience_s = HttpSender(f"{url}{PREFIX}", self._headers), PATIENCE_S
        self._answered = False  # a controller that has answered before may be starting again
        self._note: Callable[[str], None] | None = None

    def following(self, note: Callable[[str], None]) -> ControllerClient:
        """Return a client for a command that goes on for a long time, also while a controller is started again.

        Args:
            note: Called with one line when the controller does not answer any more, and when it answers again.
        """
        other = ControllerClient(self.url, self._token, self._find)
        other._http = HttpSender(f"{self.url}{PREFIX}", self._headers, _FOLLOWING_READ_S)
        other._patience_s, other._answered, other._note = FOLLOWING_S, self._answered, note
        return other

    def lasting(self, patience_s: float, read_s: float) -> ControllerClient:
        """Return a client for many requests of one thread, which keeps its connection open.

        Args:
            patience_s: How long a request that is safe to repeat is repeated.
            read_s: Longest wait for an answer.
        """
        other = ControllerClient(self.url, self._token)
        other._http, other._patience_s = KeptSender(f"{self.url}{PREFIX}", self._headers, read_s), patience_s
        other._answered = self._answered
        return other

    def close(self) -> None:
        """Close the connection that a client from `lasting` has kept open."""
        self._http.close()

    def submit(self, spec: JobSpec) -> JobRecord:
        """Submit a job exactly once. If the connection is lost, the request is repeated with the same key."""
        from secrets import token_hex

        return self.ask(ops.SUBMIT, spec, key=token_hex(16))

    def jobs(
        self,
        *,
        states: Sequence[JobState] = (),
        completing: bool = False,
        limit: int | None = None,
        **filters: str | None,
    ) -> list[JobRecord]:
        """Return jobs, newest first; all of them if ``limit`` is None. See `JobFilter`."""
        more = {"completing": "true"} if completing else {}
        return self._pages(ops.JOBS, limit, state=[str(state) for state in states], **filters, **more)

    def number_of(self, job: str) -> str:
        """Return the number of a job, from a number or from the job's name.

        A number is always taken as a number. A name is that of the one active job with this name; if there is none, of
        the one job that has ended. A task of an array is named as tables show it: ``sweep[3]``.

        Raises:
            InputError: No job has this name, or several have it.
        """
        return self._number(job, "job", lambda record: record.id)

    def number_of_array(self, array: str) -> str:
        """Return the number of an array, from a number or from the name of its jobs; see `number_of`.

        Raises:
            InputError: No array has this name, or several have it.
        """
        return self._number(array, "array", lambda record: record.array_id)

    def number_to_wait_for(self, job: str) -> str:
        """Return the number of a job or an array that another job is to wait for, from a number or a name.

        Raises:
            InputError: No job or array has this name, or several have it.
        """
        return self._number(job, "job", lambda record: record.array_id or record.id)

    def _number(self, name: str, what: str, number_in: Callable[[JobRecord], str | None]) -> str:
        """Return the only number that ``number_in`` finds in the jobs with a name, or the name if it is a number."""
        if not name or (name.isascii() and name.isdigit()):
            return job_number(name)
        found = [job for job in self._named(name) if number_in(job) is not None]
        alike = [job for job in found if not job.state.ended] or found
        numbers = list(dict.fromkeys(number for job in alike if (number := number_in(job)) is not None))
        if not numbers and (unnamed := _UNNAMED.fullmatch(name)):
            return job_number(unnamed[1])
        if not numbers:
            raise InputError(f"no {what} has the number or the name {name!r}", fix=_LISTED, exit_code=3)
        if len(numbers) > 1:
            some = ", ".join(numbers[:_NAMED]) + (" and others" if len(numbers) > _NAMED else "")
            arrays = {job.array_id for job in alike}
            whole = ""
            if what == "job" and len(arrays) == 1 and None not in arrays:
                whole = f"; cancel, hold and release take all of them by --array {arrays.pop()}"
            fix = f"give the number of one: {some}{whole}"
            raise InputError(f"{len(numbers)} {what}s have the name {name!r}", fix=fix)
        return numbers[0]

    def _named(self, name: str) -> list[JobRecord]:
        """Return the jobs with a name, newest first; the name of an array is that of all its jobs."""
        if found := self.jobs(name=name):
            return found
        array, bracket, _ = name.rpartition("[")
        return [job for job in self.jobs(name=array) if job.name == name] if array and bracket else []

    def history(
        self, *, states: Sequence[JobState] = (), limit: int | None = None, **filters: str | float | None
    ) -> list[EndedJob]:
        """Return jobs that have ended, the last one first; all of them if ``limit`` is None."""
        return self._pages(ops.HISTORY, limit, state=[str(state) for state in states], **filters)

    def _pages(self, operation: Operation[Page[Item]], limit: int | None, **given: Any) -> list[Item]:
        found: list[Item] = []
        after: str | None = None
        while True:
            size = _PAGE if limit is None else min(_PAGE, limit - len(found))
            page = self.ask(operation, after=after, limit=size, **given)
            found += page.items
            after = page.next
            if after is None or len(found) == limit:
                return found

    def every(self, operation: Operation[NumberedPage[Numbered]], after: int = 0, **given: Any) -> list[Numbered]:
        """Return all items with a number above ``after``, oldest first, by reading all pages."""
        found: list[Numbered] = []
        while True:
            page = self.ask(operation, after=after, limit=_PAGE, **given)
            found += page.items
            after = page.after
            if len(page.items) < _PAGE:
                return found

    def newest(
        self, operation: Operation[NumberedPage[Numbered]], after: int, limit: int, **given: Any
    ) -> list[Numbered]:
        """Return the last ``limit`` items with a number above ``after``, oldest first; all of them if it is 0."""
        if not limit:
            return self.every(operation, after, **given)
        return list(self.ask(operation, after=after, limit=limit, latest=True, **given).items)

    def ask(
        self,
        operation: Operation[Answer],
        body: Any = None,
        *,
        key: str | None = None,
        repeatable: bool = False,
        **given: Any,
    ) -> Answer:
        """Send one request and return its answer.

        If the connection is lost or the store is locked, a request is sent again if it only reads or is repeatable.

        Args:
            operation: The operation to request.
            body: A request of `powerflow.api.governance`, or a job.
            key: Text by which the controller recognises a repeated request.
            repeatable: True if the controller recognises a repeated request in another way.
            given: Values for the parameters in the path and the query. Parameters with the value None are left out.
        """
        return self.ask_as(operation.answer, operation, body, key=key, repeatable=repeatable, **given)

    def ask_as(
        self,
        kind: type[Answer],
        operation: Operation[Any],
        body: Any = None,
        /,
        *,
        key: str | None = None,
        repeatable: bool = False,
        **given: Any,
    ) -> Answer:
        """Send one request as `ask` does, and read its answer as another type."""
        path = operation.path.format(**{name: _segment(name, value) for name, value in given.items()})
        query = {
            name: value for name, value in given.items() if value is not None and f"{{{name}}}" not in operation.path
        }
        headers = {} if key is None else {"Idempotency-Key": key}
        repeat = operation.method == "GET" or key is not None or repeatable
        until = time.monotonic() + self._patience_s
        lost = noted = False
        while True:
            try:
                answer = self._http.send(operation.method, path, query, _encoded(body), headers)
                self._answered = True
                if noted and self._note is not None:
                    self._note(f"the controller answers again, at {self.url}")
                # with 429 nothing was done, so any request may be repeated
                again = answer.status == 429 or (answer.status == 503 and repeat)
                if not again or time.monotonic() > until:
                    return _decoded(kind, _read(answer, self.url), self.url)
                noted = False
            except NotConnected:  # no controller, unless one was there before
                if not (lost or self._answered) or time.monotonic() > until:
                    if self._answered:
                        raise InputError(f"the controller at {self.url} has gone", exit_code=5) from None
                    what = f"no controller at {self.url}"
                    raise InputError(what, fix="start one with powerflow serve", exit_code=5) from None
            except Lost as error:
                if not repeat or time.monotonic() > until:
                    what = f"lost the controller at {self.url} ({error})"
                    raise InputError(
                        what, fix="the request may have been carried out: check this before you repeat it", exit_code=5
                    ) from None
                if not lost and self._note is not None:  # the request may have waited for news before
                    until = time.monotonic() + self._patience_s
                lost = True
            else:
                time.sleep(_AGAIN_S)
                continue
            if self._note is not None and not noted:
                self._note(f"lost the controller at {self.url}; trying for {duration(self._patience_s)} to find it")
                noted = True
            time.sleep(_AGAIN_S)
            self._look_again()

    def _look_again(self) -> None:
        """Find the controller where it is now, if it has another address than before."""
        try:
            url, token = (self.url, self._token) if self._find is None else self._find()
        except InputError:  # it is just being started
            return
        if (url, token) != (self.url, self._token):
            self.url, self._token = url, token
            self._headers = {"Authorization": f"Bearer {token}"} if token else {}
            self._http = self._http.to(f"{url}{PREFIX}", self._headers)


def job_number(job_id: str) -> str:
    """Return a job's id as the API has it, from the text that the user typed.

    Raises:
        InputError: The text is not a job number.
    """
    if not (job_id.isascii() and job_id.isdigit() and len(job_id) <= 18):
        raise InputError(f"{job_id!r} is not the number of a job", fix=_LISTED)
    return job_id


def _segment(name: str, value: Any) -> str:
    """Return the value of a parameter in a form that can be part of a path."""
    if name in ("job", "job_id") and value is not None:
        return job_number(value)
    if name == "name" and value in ("", ".", ".."):
        raise InputError(f"{value!r} is not the name of a node", fix="powerflow node list shows the nodes")
    return quote(str(value), safe="")


def _encoded(body: Any) -> Any:
    """Return a request's body as JSON data: a job, a dataclass of `powerflow.api.governance`, or None."""
    if body is None:
        return None
    if hasattr(body, "model_dump"):  # a key of a change that is not set stays as it is
        return body.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return plain(body)


def _decoded(kind: type[Answer], found: Any, url: str) -> Answer:
    try:
        return decode(kind, found)
    except ValueError:
        raise _stranger(url) from None


def _read(answer: Reply, url: str) -> Any:
    """Return the JSON data of an answer.

    Raises:
        InputError: The answer is an error, or not JSON data.
    """
    good = 200 <= answer.status < 300
    if not (good or answer.media_type.startswith("application/problem+json")):
        raise _stranger(url)
    try:
        said = json.loads(answer.content)
    except ValueError:
        raise _stranger(url) from None
    if good:
        return said
    code = _EXIT_CODES.get(answer.status, 1)
    if answer.status == 428:
        raise NotSure(str(said.get("detail", "")))
    where = str(said.get("where") or "").removeprefix("body.").removeprefix("query.").removeprefix("path.")
    fix = str(said.get("fix") or "")
    if answer.status == 504:
        raise NodeAway(str(said.get("detail", "")), fix=fix)
    if answer.status == 401:
        fix = "give a token with --token-file or POWERFLOW_TOKEN"
    raise InputError(str(said.get("detail", "")), where=where, fix=fix, exit_code=code)


def _stranger(url: str) -> InputError:
    what = f"{url} does not answer like a PowerFlow controller of this version"
    return InputError(what, fix="check the URL, and the versions of both programs", exit_code=5)
