"""The controller as commands see it: records in, records out, and one clear line for what goes wrong."""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from powerflow.api.governance import (
    AuditRecord,
    BudgetOrder,
    BudgetRecord,
    CapOrder,
    CapRecord,
    ModeOrder,
    Modes,
    SignalOrder,
    SignalRecord,
)
from powerflow.api.records import (
    Accounts,
    DecisionRecord,
    EventRecord,
    Explanation,
    Items,
    JobDetail,
    JobRecord,
    JobState,
    LogChunk,
    NodeRecord,
    NumberedPage,
    Page,
    Top,
)
from powerflow.errors import InputError

if TYPE_CHECKING:
    import httpx

    from powerflow.api.job_spec import JobSpec

Shape = TypeVar("Shape")

#: How long a request that is safe to repeat is repeated after its connection was lost: a controller restarts in 5 s.
PATIENCE_S = 30.0
_AGAIN_S = 0.2
_PAGE = 1000
_EXIT_CODES = {400: 2, 401: 4, 403: 4, 404: 3, 409: 4, 413: 2, 422: 2, 429: 5, 503: 5}


class ControllerClient:
    """A controller at a URL. Every method raises `InputError` with the exit code that fits what went wrong."""

    def __init__(self, url: str, token: str | None) -> None:
        import httpx

        self.url = url
        self._http = httpx.Client(
            base_url=f"{url}/api/v1",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(10.0, read=60.0),
            trust_env=not _on_loopback(url),  # nobody's proxy reaches this machine's loopback
        )

    def __enter__(self) -> ControllerClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    # --- jobs -----------------------------------------------------------------------------------------------------

    def submit(self, spec: JobSpec) -> JobRecord:
        """Submit a job, once: where the connection is lost it is repeated under the same key."""
        body = spec.model_dump(mode="json", by_alias=True)
        key = {"Idempotency-Key": secrets.token_hex(16)}
        return self._ask(JobRecord, "POST", "/jobs", body=body, headers=key, repeat=True)

    def jobs(
        self, *, states: Sequence[JobState] = (), limit: int | None = None, **filters: str | None
    ) -> list[JobRecord]:
        """Jobs, newest first; all of them where no limit is given."""
        found: list[JobRecord] = []
        after: str | None = None
        while True:
            size = _PAGE if limit is None else min(_PAGE, limit - len(found))
            query = {"state": [str(state) for state in states], "after": after, "limit": size, **filters}
            page = self._get(Page[JobRecord], "/jobs", **query)
            found += page.items
            after = page.next
            if after is None or len(found) == limit:
                return found

    def job(self, job_id: str) -> JobDetail:
        """One job."""
        return self._get(JobDetail, f"/jobs/{number(job_id)}")

    def change(self, job_id: str, action: str) -> JobRecord:
        """``cancel``, ``hold`` or ``release`` a job."""
        return self._ask(JobRecord, "POST", f"/jobs/{number(job_id)}/{action}")

    def explain(self, job_id: str) -> Explanation:
        """Why a job has what it has."""
        return self._get(Explanation, f"/jobs/{number(job_id)}/explain")

    def log(self, job_id: str, rank: str | None, offset: int) -> LogChunk:
        """The part of a log that begins at an offset."""
        return self._get(LogChunk, f"/jobs/{number(job_id)}/log", rank=rank, offset=offset, limit=1 << 20)

    def events(self, *, after: int = 0, job_id: str | None = None, wait_s: float = 0.0) -> Sequence[EventRecord]:
        """What happened after an event, oldest first; waits for something to happen if so asked."""
        job = None if job_id is None else number(job_id)
        return self._get(NumberedPage[EventRecord], "/events", after=after, job=job, limit=_PAGE, wait_s=wait_s).items

    # --- the cluster ----------------------------------------------------------------------------------------------

    def top(self) -> Top:
        """The cluster now."""
        return self._get(Top, "/top")

    def nodes(self) -> Sequence[NodeRecord]:
        """Nodes and their GPUs."""
        return self._get(Items[NodeRecord], "/nodes").items

    def drain(self, node: str, reason: str) -> NodeRecord:
        """Take a node out of use."""
        return self._ask(NodeRecord, "POST", f"/nodes/{_segment(node)}/drain", body={"reason": reason})

    def resume(self, node: str) -> NodeRecord:
        """Take a node into use again."""
        return self._ask(NodeRecord, "POST", f"/nodes/{_segment(node)}/resume")

    def modes(self) -> Modes:
        """How far PowerFlow is let in."""
        return self._get(Modes, "/modes")

    def set_mode(self, order: ModeOrder) -> Modes:
        """Set a stage."""
        return self._ask(Modes, "POST", "/modes", body=asdict(order))

    def decisions(self, job_id: str) -> Sequence[DecisionRecord]:
        """What was decided for a job, oldest first; all of it."""
        found: list[DecisionRecord] = []
        while True:
            after = found[-1].number if found else 0
            page = self._get(
                NumberedPage[DecisionRecord], f"/jobs/{number(job_id)}/decisions", after=after, limit=_PAGE
            ).items
            found += page
            if len(page) < _PAGE:
                return found

    def budgets(self) -> Sequence[BudgetRecord]:
        """Energy budgets."""
        return self._get(Items[BudgetRecord], "/budgets").items

    def set_budget(self, order: BudgetOrder) -> BudgetRecord:
        """Set an energy budget."""
        return self._ask(BudgetRecord, "POST", "/budgets", body=asdict(order))

    def drop_budget(self, project: str) -> BudgetRecord:
        """Forget an energy budget."""
        return self._ask(BudgetRecord, "POST", "/budgets/drop", body={"project": project})

    def signals(self) -> Sequence[SignalRecord]:
        """What a joule costs and emits."""
        return self._get(Items[SignalRecord], "/signals").items

    def set_signal(self, order: SignalOrder) -> SignalRecord:
        """Set a signal."""
        return self._ask(SignalRecord, "POST", "/signals", body=asdict(order))

    def drop_signal(self, kind: str) -> SignalRecord:
        """Forget a signal."""
        return self._ask(SignalRecord, "POST", "/signals/drop", body={"kind": kind})

    def caps(self) -> Sequence[CapRecord]:
        """Power caps."""
        return self._get(Items[CapRecord], "/caps").items

    def set_cap(self, order: CapOrder) -> CapRecord:
        """Set a power cap."""
        return self._ask(CapRecord, "POST", "/caps", body=asdict(order))

    def lift_cap(self, scope: str) -> Sequence[CapRecord]:
        """End the caps of a scope."""
        return self._ask(Items[CapRecord], "POST", "/caps/lift", body={"scope": scope}).items

    def cap_csv(self, number: int) -> str:
        """What was drawn and allowed under a cap."""
        return str(self._get(dict[str, Any], f"/caps/{number}/record")["csv"])

    def audit(self, after: int = 0) -> Sequence[AuditRecord]:
        """Who set what after an entry, oldest first; all of it."""
        found: list[AuditRecord] = []
        while True:
            page = self._get(NumberedPage[AuditRecord], "/audit", after=after, limit=_PAGE).items
            found += page
            if len(page) < _PAGE:
                return found
            after = page[-1].number

    def accounts(self, *, since_s: float, until_s: float, by: str) -> Accounts:
        """Who was charged what."""
        return self._get(Accounts, "/accounts", since_s=since_s, until_s=until_s, by=by)

    # --- how it is asked ------------------------------------------------------------------------------------------

    def _get(self, shape: type[Shape], path: str, **query: Any) -> Shape:
        return self._ask(shape, "GET", path, query=query, repeat=True)

    def _ask(
        self,
        shape: type[Shape],
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: Any = None,
        headers: dict[str, str] | None = None,
        repeat: bool = False,
    ) -> Shape:
        """Ask and read the answer. ``repeat``: it does no harm to ask again when no answer came."""
        import httpx

        given = {key: value for key, value in (query or {}).items() if value is not None}
        until = time.monotonic() + PATIENCE_S
        lost = False
        while True:
            try:
                answer = self._http.request(method, path, params=given, json=body, headers=headers)
                # with 429 nothing was done: that may be asked again whatever it is
                again = answer.status_code == 429 or (answer.status_code == 503 and repeat)
                if not again or time.monotonic() > until:
                    return _read(shape, answer, self.url)
            except httpx.ConnectError:
                # nobody is there; unless somebody just was
                if not lost or time.monotonic() > until:
                    raise unreachable(self.url) from None
            except httpx.TransportError as error:
                lost = True
                if not repeat or time.monotonic() > until:
                    what = f"lost the controller at {self.url} ({type(error).__name__})"
                    raise InputError(what, fix="whether it was done is not known", exit_code=5) from None
            time.sleep(_AGAIN_S)


def unreachable(url: str) -> InputError:
    """Nobody answers there."""
    return InputError(f"no controller at {url}", fix="start one with powerflow serve", exit_code=5)


def number(job_id: str) -> str:
    """``job_id``, which is safe to be part of a path.

    Raises:
        InputError: It is not one.
    """
    if not (job_id.isascii() and job_id.isdigit() and len(job_id) <= 18):
        raise InputError(f"{job_id!r} is no number of a job", fix="powerflow queue lists them")
    return job_id


def _segment(node: str) -> str:
    from urllib.parse import quote

    if not node or node in (".", ".."):
        raise InputError(f"{node!r} is no name of a node", fix="powerflow node list lists them")
    return quote(node, safe="")


def _read(shape: type[Shape], answer: httpx.Response, url: str) -> Shape:
    if answer.is_success:
        try:
            return _adapter(shape).validate_json(answer.content)  # type: ignore[no-any-return, arg-type]
        except ValueError:
            raise _stranger(url) from None
    if not answer.headers.get("content-type", "").startswith("application/problem+json"):
        raise _stranger(url)
    said = answer.json()
    code = _EXIT_CODES.get(answer.status_code, 1)
    where = str(said.get("where") or "").removeprefix("body.").removeprefix("query.").removeprefix("path.")
    fix = str(said.get("fix") or "")
    if answer.status_code == 401:
        fix = "give one with --token-file or POWERFLOW_TOKEN"
    raise InputError(str(said.get("detail", "")), where=where, fix=fix, exit_code=code)


def _stranger(url: str) -> InputError:
    what = f"what answers at {url} is no PowerFlow controller that this version can talk to"
    return InputError(what, fix="check the URL, and the versions of both", exit_code=5)


@cache
def _adapter(shape: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(shape)


def _on_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
