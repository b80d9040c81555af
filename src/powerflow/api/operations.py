"""List the operations of the REST API: their paths, the roles that may use them, and the types of their answers.

The service makes its routes, and clients make their requests, from this table. Only `powerflow.service.routes` checks
roles. The cluster itself checks that users change only their own jobs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from powerflow.api.accounts import Accounts, EndedJob
from powerflow.api.governance import (
    AuditRecord,
    BudgetRecord,
    CapCsv,
    CapRecord,
    ShareRecord,
    SignalRecord,
    StageList,
)
from powerflow.api.pages import Items, NumberedPage, Page
from powerflow.api.records import (
    DecisionRecord,
    EventRecord,
    Explanation,
    JobDetail,
    JobRecord,
    LogChunk,
    NodeRecord,
    Role,
    Top,
)

#: All paths of the API begin with this.
PREFIX = "/api/v1"

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Operation(Generic[Answer]):
    """One operation of the REST API.

    Attributes:
        name: The ``operationId`` in the OpenAPI document.
        method, path: HTTP method and path; the path is relative to `PREFIX`.
        answer: Type of the answer.
        least: The lowest role that may use the operation.
        status: HTTP status of a successful answer.
    """

    name: str
    method: Literal["GET", "POST"]
    path: str
    answer: type[Answer]
    least: Role = Role.VIEWER
    status: int = 200


SUBMIT = Operation("submit", "POST", "/jobs", JobRecord, Role.USER, 201)
JOBS = Operation("jobs", "GET", "/jobs", Page[JobRecord])
HISTORY = Operation("history", "GET", "/history", Page[EndedJob])
JOB = Operation("job", "GET", "/jobs/{job_id}", JobDetail)
CANCEL = Operation("cancel", "POST", "/jobs/{job_id}/cancel", JobRecord, Role.USER)
HOLD = Operation("hold", "POST", "/jobs/{job_id}/hold", JobRecord, Role.USER)
RELEASE = Operation("release", "POST", "/jobs/{job_id}/release", JobRecord, Role.USER)
EXPLAIN = Operation("explain", "GET", "/jobs/{job_id}/explain", Explanation)
DECISIONS = Operation("decisions", "GET", "/jobs/{job_id}/decisions", NumberedPage[DecisionRecord])
LOG = Operation("log", "GET", "/jobs/{job_id}/log", LogChunk)

TOP = Operation("top", "GET", "/top", Top)
NODES = Operation("nodes", "GET", "/nodes", Items[NodeRecord])
DRAIN = Operation("drain", "POST", "/nodes/{name}/drain", NodeRecord, Role.OPERATOR)
RESUME = Operation("resume", "POST", "/nodes/{name}/resume", NodeRecord, Role.OPERATOR)
DECLARE_OFF = Operation("declare_off", "POST", "/nodes/{name}/declare-off", NodeRecord, Role.OPERATOR)
EVENTS = Operation("events", "GET", "/events", NumberedPage[EventRecord])
ACCOUNTS = Operation("accounts", "GET", "/accounts", Accounts)

STAGES = Operation("modes", "GET", "/modes", StageList)
SET_STAGE = Operation("set_mode", "POST", "/modes", StageList, Role.OPERATOR)
BUDGETS = Operation("budgets", "GET", "/budgets", Items[BudgetRecord])
SET_BUDGET = Operation("set_budget", "POST", "/budgets", BudgetRecord, Role.OPERATOR, 201)
DROP_BUDGET = Operation("drop_budget", "POST", "/budgets/drop", BudgetRecord, Role.OPERATOR)
SHARES = Operation("shares", "GET", "/shares", Items[ShareRecord])
SET_SHARE = Operation("set_share", "POST", "/shares", ShareRecord, Role.OPERATOR, 201)
SIGNALS = Operation("signals", "GET", "/signals", Items[SignalRecord])
SET_SIGNAL = Operation("set_signal", "POST", "/signals", SignalRecord, Role.OPERATOR, 201)
DROP_SIGNAL = Operation("drop_signal", "POST", "/signals/drop", SignalRecord, Role.OPERATOR)
CAPS = Operation("caps", "GET", "/caps", Items[CapRecord])
SET_CAP = Operation("set_cap", "POST", "/caps", CapRecord, Role.OPERATOR, 201)
LIFT_CAP = Operation("lift_cap", "POST", "/caps/lift", Items[CapRecord], Role.OPERATOR)
CAP_RECORD = Operation("cap_record", "GET", "/caps/{number}/record", CapCsv)
AUDIT = Operation("audit", "GET", "/audit", NumberedPage[AuditRecord], Role.OPERATOR)
