"""List the operations of the REST API: their paths, the roles that may use them, and the types of their answers.

The service makes its routes, and clients make their requests, from this table. Only `powerflow.service.routes` checks
roles. The cluster itself checks that users change only their own jobs.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

from powerflow.api.accounts import Accounts, EndedJob
from powerflow.api.bulk_answer import JobsChanged
from powerflow.api.decisions import DecisionRecord, Explanation
from powerflow.api.logs import JobLogs, LogChunk
from powerflow.api.pages import Items, NumberedPage, Page
from powerflow.api.records import EventRecord, Identity, JobRecord, NodeRecord, Role, Top

if TYPE_CHECKING:
    from powerflow.api.governance import AuditRecord, BudgetRecord, CapCsv, CapRecord, ShareRecord, SignalRecord
    from powerflow.api.job_detail import JobDetail
    from powerflow.api.predictions import PredictionsRecord
    from powerflow.api.recent import ClusterSample
    from powerflow.api.shells import ShellPiece, ShellRecord, ShellTaken
    from powerflow.api.stages import StageList

#: All paths of the API begin with this.
PREFIX = "/api/v1"

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Operation(Generic[Answer]):
    """One operation of the REST API.

    Attributes:
        name: The ``operationId`` in the OpenAPI document.
        method, path: HTTP method and path; the path is relative to `PREFIX`.
        kind: Type of the answer, or of each item of a list; "module:name" is imported only when it is needed.
        pages: Type of the list, if the answer is a list of items of a type that is imported later.
        least: The lowest role that may use the operation.
        status: HTTP status of a successful answer.
    """

    name: str
    method: Literal["GET", "POST"]
    path: str
    kind: type[Answer] | str
    least: Role = Role.VIEWER
    status: int = 200
    pages: type | None = None

    @property
    def answer(self) -> type[Answer]:
        """Type of the answer."""
        if not isinstance(self.kind, str):
            return self.kind
        module, _, name = self.kind.partition(":")
        item: Any = getattr(import_module(f"powerflow.api.{module}"), name)
        return cast("type[Answer]", item if self.pages is None else self.pages[item])  # type: ignore[index]


SUBMIT = Operation("submit", "POST", "/jobs", JobRecord, Role.USER, 201)
JOBS = Operation("jobs", "GET", "/jobs", Page[JobRecord])
HISTORY = Operation("history", "GET", "/history", Page[EndedJob])
JOB: Operation[JobDetail] = Operation("job", "GET", "/jobs/{job_id}", "job_detail:JobDetail")
CANCEL = Operation("cancel", "POST", "/jobs/{job_id}/cancel", JobRecord, Role.USER)
CHANGE_JOBS = Operation("change_jobs", "POST", "/job-changes", JobsChanged, Role.USER)
UPDATE = Operation("update", "POST", "/jobs/{job_id}/update", JobRecord, Role.USER)
HOLD = Operation("hold", "POST", "/jobs/{job_id}/hold", JobRecord, Role.USER)
RELEASE = Operation("release", "POST", "/jobs/{job_id}/release", JobRecord, Role.USER)
EXPLAIN = Operation("explain", "GET", "/jobs/{job_id}/explain", Explanation)
DECISIONS = Operation("decisions", "GET", "/jobs/{job_id}/decisions", NumberedPage[DecisionRecord])
LOGS = Operation("logs", "GET", "/jobs/{job_id}/logs", JobLogs)
LOG = Operation("log", "GET", "/jobs/{job_id}/log", LogChunk)

_SHELL = "/jobs/{job_id}/shells/{shell}"
OPEN_SHELL: Operation[ShellRecord] = Operation(
    "open_shell", "POST", "/jobs/{job_id}/shells", "shells:ShellRecord", Role.USER, 201
)
SHELL_OUTPUT: Operation[ShellPiece] = Operation(
    "shell_output", "GET", f"{_SHELL}/output", "shells:ShellPiece", Role.USER
)
SHELL_INPUT: Operation[ShellTaken] = Operation("shell_input", "POST", f"{_SHELL}/input", "shells:ShellTaken", Role.USER)
RESIZE_SHELL: Operation[ShellRecord] = Operation(
    "resize_shell", "POST", f"{_SHELL}/resize", "shells:ShellRecord", Role.USER
)
CLOSE_SHELL: Operation[ShellRecord] = Operation(
    "close_shell", "POST", f"{_SHELL}/close", "shells:ShellRecord", Role.USER
)

ME = Operation("me", "GET", "/me", Identity)
TOP = Operation("top", "GET", "/top", Top)
NODES = Operation("nodes", "GET", "/nodes", Items[NodeRecord])
DRAIN = Operation("drain", "POST", "/nodes/{name}/drain", NodeRecord, Role.OPERATOR)
RESUME = Operation("resume", "POST", "/nodes/{name}/resume", NodeRecord, Role.OPERATOR)
DECLARE_OFF = Operation("declare_off", "POST", "/nodes/{name}/declare-off", NodeRecord, Role.OPERATOR)
EVENTS = Operation("events", "GET", "/events", NumberedPage[EventRecord])
RECENT: Operation[Items[ClusterSample]] = Operation("recent", "GET", "/recent", "recent:ClusterSample", pages=Items)
ACCOUNTS = Operation("accounts", "GET", "/accounts", Accounts)
PREDICTIONS: Operation[PredictionsRecord] = Operation(
    "predictions", "GET", "/predictions", "predictions:PredictionsRecord"
)

STAGES: Operation[StageList] = Operation("modes", "GET", "/modes", "stages:StageList")
SET_STAGE: Operation[StageList] = Operation("set_mode", "POST", "/modes", "stages:StageList", Role.OPERATOR)
BUDGETS: Operation[Items[BudgetRecord]] = Operation(
    "budgets", "GET", "/budgets", "governance:BudgetRecord", pages=Items
)
SET_BUDGET: Operation[BudgetRecord] = Operation(
    "set_budget", "POST", "/budgets", "governance:BudgetRecord", Role.OPERATOR, 201
)
DROP_BUDGET: Operation[BudgetRecord] = Operation(
    "drop_budget", "POST", "/budgets/drop", "governance:BudgetRecord", Role.OPERATOR
)
SHARES: Operation[Items[ShareRecord]] = Operation("shares", "GET", "/shares", "governance:ShareRecord", pages=Items)
SET_SHARE: Operation[ShareRecord] = Operation(
    "set_share", "POST", "/shares", "governance:ShareRecord", Role.OPERATOR, 201
)
SIGNALS: Operation[Items[SignalRecord]] = Operation(
    "signals", "GET", "/signals", "governance:SignalRecord", pages=Items
)
SET_SIGNAL: Operation[SignalRecord] = Operation(
    "set_signal", "POST", "/signals", "governance:SignalRecord", Role.OPERATOR, 201
)
DROP_SIGNAL: Operation[SignalRecord] = Operation(
    "drop_signal", "POST", "/signals/drop", "governance:SignalRecord", Role.OPERATOR
)
CAPS: Operation[Items[CapRecord]] = Operation("caps", "GET", "/caps", "governance:CapRecord", pages=Items)
SET_CAP: Operation[CapRecord] = Operation("set_cap", "POST", "/caps", "governance:CapRecord", Role.OPERATOR, 201)
LIFT_CAP: Operation[Items[CapRecord]] = Operation(
    "lift_cap", "POST", "/caps/lift", "governance:CapRecord", Role.OPERATOR, pages=Items
)
CAP_RECORD: Operation[CapCsv] = Operation("cap_record", "GET", "/caps/{number}/record", "governance:CapCsv")
AUDIT: Operation[NumberedPage[AuditRecord]] = Operation(
    "audit", "GET", "/audit", "governance:AuditRecord", Role.OPERATOR, pages=NumberedPage
)
