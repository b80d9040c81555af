"""Each operation takes the least role that the table names; roles are checked nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from powerflow.api import operations
from powerflow.api.governance import BudgetOrder, CapOrder, SignalOrder
from powerflow.api.job_spec import JobSpec
from powerflow.api.operations import PREFIX, Operation
from powerflow.api.records import Caller, JobState, Role
from powerflow.service.server import ApiServer
from tests.service.fake_cluster import FakeCluster
from tests.service.serving import TOKENS, bearer, service

OPERATIONS: list[Operation[Any]] = [value for value in vars(operations).values() if isinstance(value, Operation)]
ROLES = ("viewer", "user", "operator")
OPS = Caller("ops", Role.OPERATOR)
BODIES = {
    "submit": {"run": "true"},
    "update": {"retries": 1},
    "change_jobs": {"jobs": ["1"], "to": "held"},
    "drain": {"reason": "fan"},
    "declare_off": {"reason": "fire"},
    "set_mode": {"stage": "observe"},
    "set_budget": {"amount_j": 1e9, "period": "day"},
    "set_share": {"project": "vision", "share": 2.0},
    "set_cap": {"watts": 6e4},
    "set_signal": {"kind": "tariff", "constant": 0.3},
    "drop_budget": {},
    "lift_cap": {},
    "drop_signal": {"kind": "carbon"},
    "open_shell": {"command": ["true"]},
    "shell_input": {"offset": 0},
    "resize_shell": {"rows": 24, "columns": 80},
}
#: What takes more than a viewer, with the role it takes.
WRITERS = dict.fromkeys(
    [
        *("submit", "change_jobs", "update", "cancel", "hold", "release"),
        *("open_shell", "shell_output", "shell_input", "resize_shell", "close_shell"),
    ],
    Role.USER,
) | dict.fromkeys(
    [
        *("drain", "resume", "declare_off", "audit", "set_mode", "set_budget", "drop_budget", "set_share"),
        *("set_signal", "drop_signal", "set_cap", "lift_cap"),
    ],
    Role.OPERATOR,
)


def filled() -> FakeCluster:
    """A job of each caller, and one thing of each kind that can be dropped."""
    cluster = FakeCluster()
    for user, role in TOKENS.values():
        cluster.submit(JobSpec(run="true"), Caller(user, role))
    cluster.set_budget(BudgetOrder(1e9, "day"), OPS)
    cluster.set_cap(CapOrder(watts=6e4), OPS)
    cluster.set_signal(SignalOrder("carbon", constant=300.0), OPS)
    return cluster


def state_of(cluster: FakeCluster) -> Any:
    things = (cluster.budgets(), cluster.shares(), cluster.caps(), cluster.signals(), cluster.stages(), cluster.nodes())
    return things, cluster.jobs().items, cluster.events().items


@pytest.fixture
def ask() -> Iterator[Callable[[Operation[Any], str], httpx.Response]]:
    """Ask for an operation with a role; of a job, one's own."""
    clusters = [filled()]
    with ApiServer(service(clusters[0])) as server, httpx.Client(trust_env=False, verify=False, timeout=30) as http:

        def asked(operation: Operation[Any], role: str) -> httpx.Response:
            own = next(job.id for job in clusters[0].jobs().items if job.user == TOKENS[role][0])
            if operation.name == "release":
                clusters[0].change(own, state=JobState.HELD)
            if operation.name == "open_shell":
                clusters[0].change(own, state=JobState.RUNNING)
            path = operation.path.format(job_id=own, name="n1", number=1, shell="0" * 16)
            before = state_of(clusters[0])
            body = BODIES.get(operation.name)
            answer = http.request(operation.method, f"{server.url}{PREFIX}{path}", json=body, headers=bearer(role))
            if answer.status_code == 403:
                assert state_of(clusters[0]) == before, "refused, and done"
            return answer

        yield asked


def test_the_table_says_who_may() -> None:
    assert {at.name: at.least for at in OPERATIONS if at.least is not Role.VIEWER} == WRITERS


def test_every_operation_of_the_table_is_served_and_no_other() -> None:
    app = service(FakeCluster())
    paths = app.openapi()["paths"]
    served = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert served == {(at.method, PREFIX + at.path) for at in OPERATIONS} | {("GET", f"{PREFIX}/health")}
    assert {at.name for at in OPERATIONS} < {op["operationId"] for ops in paths.values() for op in ops.values()}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda at: at.name)
def test_lower_roles_are_refused_and_higher_ones_are_not(
    ask: Callable[[Operation[Any], str], httpx.Response], operation: Operation[Any]
) -> None:
    for role in ROLES:
        answer = ask(operation, role)
        if Role(role).suffices(operation.least):
            assert answer.status_code in (operation.status, 404), answer.text  # the one before may have dropped it
        else:
            assert answer.status_code == 403
            assert answer.json()["detail"] == f"{TOKENS[role][0]} has the role {role}"
            assert answer.json()["fix"] == f"this request needs the role {operation.least}"


def test_a_role_is_checked_before_what_is_sent(ask: Callable[[Operation[Any], str], httpx.Response]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BODIES, "set_cap", {"nonsense": True})
        assert ask(operations.SET_CAP, "user").status_code == 403
        assert ask(operations.SET_CAP, "operator").status_code == 422


@pytest.mark.parametrize(
    ("role", "least", "suffices"),
    [
        ("viewer", "viewer", 1),
        ("viewer", "user", 0),
        ("user", "user", 1),
        ("user", "operator", 0),
        ("operator", "user", 1),
    ],
)
def test_roles_are_ordered(role: str, least: str, suffices: bool) -> None:
    assert Role(role).suffices(Role(least)) == suffices
