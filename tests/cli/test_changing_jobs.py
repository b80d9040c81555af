"""``cancel``, ``hold`` and ``release`` by name, user, state and array; ``update``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from powerflow.api import operations as ops
from powerflow.api.job_spec import JobSpec
from powerflow.api.records import Caller, JobState, Role
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.cluster.http import NotConnected
from powerflow.errors import InputError
from tests.cli.shell import Shell

GRACE = Caller("grace", Role.USER)


def states(shell: Shell) -> dict[str, str]:
    return {job.id: job.state.value for job in shell.cluster.jobs().items}


@pytest.fixture
def five(shell: Shell) -> Shell:
    """Jobs a-1, a-2 (held) and b of the caller, a-3 of grace, and c of the caller, which has ended."""
    for name in ("a-1", "a-2", "b"):
        shell("submit", "-J", name, "-A", "vision" if name == "b" else "speech", "--", "true")
    shell.cluster.submit(JobSpec(run="true", name="a-3"), GRACE)
    shell("submit", "-J", "c", "--", "true")
    shell.cluster.end("5")
    shell("hold", "2")
    return shell


@pytest.mark.parametrize(
    ("argv", "cancelled"),
    [
        (["--all"], {"1", "2", "3"}),
        (["--name", "a-*"], {"1", "2"}),
        (["--name", "b"], {"3"}),
        (["--state", "held"], {"2"}),
        (["--project", "vision"], {"3"}),
        (["--project", "speech", "-t", "queued", "-t", "running"], {"1"}),
        (["2", "3"], {"2", "3"}),
    ],
)
def test_jobs_are_chosen_as_by_scancel_and_only_ones_own(five: Shell, argv: list[str], cancelled: set[str]) -> None:
    said = five("cancel", *argv)
    assert {line.split()[1] for line in said.splitlines()} == cancelled
    assert {job for job, state in states(five).items() if state == "cancelled"} == cancelled


def test_all_tasks_of_an_array_are_cancelled_together(shell: Shell) -> None:
    shell("submit", "--array", "0-1", "-J", "x", "--", "true")
    shell("submit", "-J", "xyz", "--", "true")
    assert shell("hold", "--name", "x[1]") == "job 2 is held\n"
    assert shell("hold", "--name", "x") == "job 1 is held\njob 2 is held\n"
    shell("cancel", "--array", "1")
    assert states(shell) == {"1": "cancelled", "2": "cancelled", "3": "queued"}


def test_an_array_has_a_name_too(shell: Shell) -> None:
    """Arrays 1 (jobs 1 and 2) and 3 (jobs 3 and 4), and job 5."""
    shell("submit", "--array", "0-1", "-J", "x", "--", "true")
    shell("submit", "--array", "5,7", "-J", "x", "--", "true")
    shell("submit", "-J", "x", "--", "true")
    said = "2 arrays have the name 'x'; give the number of one: 3, 1"
    assert said in shell("cancel", "--array", "x", code=2)
    assert shell("cancel", "x[1]") == "job 2 is cancelled\n", "as tables show this job"
    shell("cancel", "1")
    assert shell("hold", "--array", "x") == "job 3 is held\njob 4 is held\n", "the other array has ended"


@pytest.mark.parametrize(
    ("array", "code", "said"),
    [
        ("9", 3, "no job 9"),
        ("y", 3, "no array has the number or the name 'y'"),
        ("3", 2, "--array: job 3 is not an array; name it without --array: 3"),
        ("2", 2, "--array: job 2 is a task of array 1; give --array 1 for all tasks"),
        ("4", 4, "--array: array 4 belongs to grace; --user grace selects it"),
    ],
)
def test_what_is_no_array_of_the_caller_is_an_error(shell: Shell, array: str, code: int, said: str) -> None:
    """Array 1 (jobs 1 and 2), job 3, and grace's array 4."""
    shell("submit", "--array", "0-1", "-J", "x", "--", "true")
    shell("submit", "-J", "y", "--", "true")
    shell.cluster.submit(JobSpec(run="true", array="0-1"), GRACE)
    assert said in shell("cancel", "--array", array, code=code)
    assert set(states(shell).values()) == {"queued"}


def test_an_array_that_has_ended_leaves_nothing_to_cancel(shell: Shell) -> None:
    shell("submit", "--array", "0-1", "--", "true")
    shell("cancel", "--array", "1")
    assert "no active job of ada matches" in shell("cancel", "--array", "1", code=3)


def test_a_name_that_an_array_has_is_refused_with_the_way_to_name_it(shell: Shell) -> None:
    shell("submit", "--array", "0-1", "-J", "sweep", "--", "true")
    said = shell("cancel", "sweep", code=2)
    assert "give the number of one: 2, 1; cancel, hold and release take all of them by --array 1" in said


def test_a_dependency_takes_names(shell: Shell) -> None:
    """The name of an array stands for the array; that of an active job comes before that of one that has ended."""
    shell("submit", "-J", "prepare", "--", "true")
    shell.cluster.end("1")
    shell("submit", "-J", "prepare", "--", "true")
    shell("submit", "--array", "0-1", "-J", "sweep", "--", "true")
    shell("submit", "-d", "afterok:prepare:sweep,afterany:1", "--", "true")
    assert shell.cluster.job("5").spec.dependency == "afterok:2:3,afterany:1"
    shell("update", "5", "-d", "after:sweep[1]")
    assert shell.cluster.job("5").spec.dependency == "after:3"
    shell("update", "5", "-d", "none")
    assert shell.cluster.job("5").spec.dependency is None


@pytest.mark.parametrize(
    ("dependency", "code", "said"),
    [
        ("afterok:x", 2, "2 jobs have the name 'x'; give the number of one: 2, 1"),
        ("afterok:y", 3, "no job has the number or the name 'y'"),
        ("afterok:", 2, "cannot read 'afterok:' as a dependency"),
        ("soon:x", 2, "cannot read 'soon:x' as a dependency"),
    ],
)
def test_a_dependency_on_what_is_not_one_job_is_refused(shell: Shell, dependency: str, code: int, said: str) -> None:
    shell("submit", "-J", "x", "--", "true")
    shell("submit", "-J", "x", "--", "true")
    assert said in shell("submit", "-d", dependency, "--", "true", code=code)
    assert set(states(shell)) == {"1", "2"}


def test_jobs_of_others_need_their_name_and_the_right(five: Shell) -> None:
    assert "job 4 belongs to grace" in five("cancel", "--user", "grace", code=4)
    assert states(five)["4"] == "queued"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "no job is named; give numbers of jobs, --name, --state or --all"),
        (["1", "--all"], "numbers and filters cannot be combined"),
    ],
)
def test_a_choice_that_can_be_meant_in_two_ways_changes_nothing(five: Shell, argv: list[str], said: str) -> None:
    before = states(five)
    assert said in five("cancel", *argv, code=2)
    assert states(five) == before


@pytest.mark.parametrize("verb", ["cancel", "hold", "release"])
@pytest.mark.parametrize("filters", [["--name", "nothing"], ["--project", "none", "--json"], ["--state", "running"]])
def test_that_no_job_matches_is_an_error(five: Shell, verb: str, filters: list[str]) -> None:
    said = five(verb, *filters, code=3)
    assert said == "powerflow: no active job of ada matches; powerflow queue lists active jobs\n"


def test_update_changes_what_is_named_and_nothing_else(shell: Shell) -> None:
    flags = (
        "--rescale",
        "restart",
        "--batch",
        "64",
        "--memory",
        "1GiB",
        "--cpus",
        "2",
        "-t",
        "1h",
        "--max-slowdown",
        "5%",
    )
    shell("submit", "-J", "x", "-G", "1..4", *flags, "--", "python", "t.py")
    before = shell.cluster.job("1").spec
    assert (
        shell("update", "1", "-G", "2..8", "--priority", "high", "--memory", "2GiB", "-t", "none")
        == "job 1 is changed\n"
    )
    spec = shell.cluster.job("1").spec
    assert (str(spec.gpus), spec.priority, spec.limits.memory, spec.time_limit) == ("2..8", "high", 2 << 30, None)
    assert (spec.name, spec.batch, spec.limits.cpus, spec.energy) == ("x", before.batch, 2.0, before.energy)
    assert shell.json("update", "1", "-J", "y")["jobs"][0]["name"] == "y"


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["1"], 2, "nothing to change"),
        (["1", "--priority", "urgent"], 2, "priority is 'urgent'; give protected, high, normal or low"),
        (["1", "--gpus", "1..4"], 2, "rescale is none, so gpus must be one number"),
        (["9", "--time", "1h"], 3, "no job 9"),
    ],
)
def test_what_cannot_be_changed_is_said_in_a_line(shell: Shell, argv: list[str], code: int, said: str) -> None:
    shell("submit", "--", "true")
    assert said in shell("update", *argv, code=code)


def test_a_running_job_keeps_what_its_processes_depend_on(shell: Shell) -> None:
    shell("submit", "--", "true")
    shell.cluster.run("1")
    assert "cannot be changed in this way" in shell("update", "1", "--gpus", "2", code=4)
    shell("update", "1", "--time", "2h")
    assert shell.cluster.job("1").record.time_limit_s == 7200.0
    assert shell.cluster.job("1").record.state is JobState.RUNNING


def test_a_controller_that_has_answered_may_be_starting_again(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else ``logs --follow`` would end with a restart of the controller."""
    shell("submit", "--", "true")
    client = ControllerClient(shell.url, "pf_user")
    send, refused = client._http.send, [NotConnected("ConnectionRefusedError")] * 2

    def flaky(*request: Any) -> Any:
        if refused:
            raise refused.pop()
        return send(*request)

    monkeypatch.setattr(client, "_http", SimpleNamespace(send=flaky))
    with pytest.raises(InputError, match="no controller at"):
        client.ask(ops.ME)
    refused.clear()
    assert client.ask(ops.ME).user
    refused.extend([NotConnected("ConnectionRefusedError")] * 2)
    assert client.ask(ops.ME).user
    assert refused == []
