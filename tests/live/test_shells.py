"""Who may open a shell beside which rank, what is said where that cannot be, and what the audit tells of it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from powerflow.api.records import Caller, Forbidden, JobState, NodeAway, NotFound, Refused, Role
from powerflow.api.shells import ShellInput, ShellOrder, ShellPiece, ShellRecord, ShellTerminal, as_bytes, as_text
from powerflow.api.stages import Stage, StageOrder
from powerflow.engine.protocol import EngineError, RankState
from powerflow.engine.shells import Terminal
from powerflow.errors import InputError
from powerflow.live import shells
from tests.live.controller_bench import ADA, ROOT, Bench
from tests.live.kinds import script
from tests.service.fake_shells import EchoShells

BOB = Caller("bob", Role.USER, "192.0.2.9")


@pytest.fixture
def echoes(bench: Bench) -> EchoShells:
    bench.engine.shells = EchoShells()
    bench.restart()  # over an engine that has shells
    script(bench, lasts=10_000)
    return bench.engine.shells


def running(bench: Bench, **keys: Any) -> str:
    job = bench.submit(**({"rescale": "none", "gpus": 1} | keys))
    bench.until_state(job, JobState.RUNNING)
    bench.turn(2)
    return job


def opened(bench: Bench, job: str, *command: str, rank: str = "0", by: Caller = ADA) -> ShellRecord:
    return asyncio.run(bench.service.open_shell(job, ShellOrder(command, rank), by))


def output(bench: Bench, shell: ShellRecord, after: int = 0, by: Caller = ADA) -> ShellPiece:
    return asyncio.run(bench.service.shell_output(shell.job_id, shell.id, by, after=after))


def told(bench: Bench) -> Sequence[tuple[str, str, dict[str, Any]]]:
    return [
        (entry.user, entry.text, dict(entry.fields)) for entry in bench.service.audit().items if "shell" in entry.action
    ]


def test_an_engine_that_has_none_says_so(bench: Bench) -> None:
    script(bench, lasts=10_000)
    with pytest.raises(Refused, match="this cluster's engine cannot open shells"):
        opened(bench, running(bench))


def test_a_command_is_run_beside_the_rank_and_its_end_is_told(bench: Bench, echoes: EchoShells) -> None:
    job = running(bench)
    order = ShellOrder(("sh", "-c", "secret"), terminal=ShellTerminal("xterm", 30, 100))
    shell = asyncio.run(bench.service.open_shell(job, order, ADA))
    assert (shell.job_id, shell.rank, shell.node) == (job, f"{job}.1.0", "a100-0")
    assert echoes.echoes[shell.id].spec.terminal == Terminal("xterm", 30, 100)
    first = output(bench, shell)
    assert as_bytes(first.out) == f"{job}.1.0 on a100-0: sh -c secret\n".encode()
    given = ShellInput(0, as_text(b"hi"), end=True)
    assert asyncio.run(bench.service.shell_input(job, shell.id, given, ADA)).offset == 2
    echoes.code = 3
    last = output(bench, shell, first.number)
    assert (as_bytes(last.out), last.ended, last.code, last.why) == (b"hi", True, 3, "")
    bench.turn()
    asyncio.run(bench.service.close_shell(job, shell.id, ADA))
    bench.turn()
    assert echoes.closed == [shell.id]
    about, code = {"rank": shell.rank, "shell": shell.id}, "exit code 3"
    assert told(bench) == [
        ("ada", f"shell beside rank {shell.rank} opened by ada: sh", {**about, "owner": "ada", "command": "sh"}),
        ("ada", f"end of the shell beside rank {shell.rank}, opened by ada: {code}", {**about, "why": code}),
    ]
    events = [event for event in bench.store.events(limit=1000).items if event.kind.startswith("shell")]
    assert [(event.kind, event.job_id, event.user) for event in events] == [
        ("shell opened", job, "ada"),
        ("shell ended", job, "ada"),
    ]
    assert bench.store.get(shells.OPEN) == []


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ((), ""),
        (("/usr/bin/python", "--password", "x"), "/usr/bin/python"),
        (("TOKEN=secret", "python"), "TOKEN"),
        (("curl -H secret",), "curl"),
        (("",), ""),
        (("x" * 99,), "x" * 64),
    ],
)
def test_the_audit_has_the_first_word_of_a_command_and_no_secret(command: tuple[str, ...], word: str) -> None:
    assert shells._first_word(ShellOrder(command)) == word


def test_the_owner_and_operators_may_whatever_the_stage(bench: Bench, echoes: EchoShells) -> None:
    bench.service.set_stage(StageOrder(Stage.OBSERVE), ROOT)
    bench.turn()
    job = running(bench)
    with pytest.raises(Forbidden, match=f"job {job} belongs to ada; only its owner or an operator"):
        opened(bench, job, by=BOB)
    assert told(bench) == []
    opened(bench, job)
    shell = opened(bench, job, by=ROOT)
    for other in (ADA, BOB):  # not even the job's owner, because the shell is not theirs
        with pytest.raises(Forbidden, match=f"shell {shell.id} belongs to root"):
            output(bench, shell, by=other)
    assert [user for user, _, _ in told(bench)] == ["ada", "root"]


def test_a_rank_is_chosen_by_its_number_or_its_name(bench: Bench, echoes: EchoShells) -> None:
    job = running(bench, rescale="restart", gpus=2, run="python train.py")
    names = bench.gangs.members(job)
    assert len(names) == 2
    assert [opened(bench, job, rank=rank).rank for rank in ("0", "1", names[1])] == [*names, names[1]]
    with pytest.raises(NotFound, match=f"job {job} has no rank 2; its ranks are 0 to 1"):
        opened(bench, job, rank="2")
    with pytest.raises(NotFound, match=rf"no rank {job}\.9\.9 that runs; powerflow describe {job} lists its ranks"):
        opened(bench, job, rank=f"{job}.9.9")


def test_a_job_without_processes_says_what_to_do(bench: Bench, echoes: EchoShells) -> None:
    with pytest.raises(NotFound, match="no job 99"):
        opened(bench, "99")
    running(bench, gpus=4), running(bench, gpus=4)
    job = bench.submit(rescale="none", gpus=4)
    bench.turn()
    said = f"job {job} is queued, so it has no processes; powerflow explain {job} says when it starts"
    with pytest.raises(Refused, match=said):
        opened(bench, job)
    bench.service.hold(job, ADA)
    with pytest.raises(Refused, match=f"job {job} is held, so it has no processes; powerflow release {job} lets it"):
        opened(bench, job)
    bench.service.cancel(job, ADA)
    with pytest.raises(Refused, match=f"job {job} has ended, so it has no processes; powerflow logs {job} shows"):
        opened(bench, job)
    assert told(bench) == []


def test_a_job_between_two_placements_says_so(bench: Bench, echoes: EchoShells) -> None:
    job = running(bench)
    gang = bench.gangs._gangs[job]
    gang.record.leaving = list(gang.record.members)
    with pytest.raises(Refused, match=f"job {job} is between two placements, so it has no processes now; try again"):
        opened(bench, job)


@pytest.mark.parametrize(
    ("state", "error", "said"),
    [
        (RankState.STARTING, Refused, "job {0} is being started or moved: rank {0}.1.0 does not run now; try again"),
        (RankState.UNREACHABLE, NodeAway, "node a100-0, on which rank {0}.1.0 runs, does not answer; try again when"),
    ],
)
def test_a_rank_that_does_not_answer_says_so(
    bench: Bench, echoes: EchoShells, state: RankState, error: type[Exception], said: str
) -> None:
    job = running(bench)
    known = bench.gangs._context.statuses[job]
    known[f"{job}.1.0"] = replace(known[f"{job}.1.0"], state=state)
    with pytest.raises(error, match=said.format(job)):
        opened(bench, job)


def test_a_node_that_is_away_is_named(bench: Bench, echoes: EchoShells) -> None:
    job = running(bench)
    shell = opened(bench, job)
    echoes.refusal = EngineError("a100-0 does not answer", retry=True)
    with pytest.raises(NodeAway, match="a100-0 does not answer"):
        output(bench, shell)
    with pytest.raises(NodeAway, match="a100-0 does not answer"):
        opened(bench, job)
    bench.turn()
    assert told(bench)[-1][1].endswith("opened by ada: it could not be opened: a100-0 does not answer")
    echoes.refusal = None
    assert output(bench, shell).out, "the first one is still there"


def test_what_the_rank_refuses_is_said_and_told(bench: Bench, echoes: EchoShells) -> None:
    job = running(bench)
    echoes.refusal = EngineError("rank 1.1.0 does not run any more")
    with pytest.raises(Refused, match="does not run any more"):
        opened(bench, job, "true")
    bench.turn()
    assert [text.partition("by ada: ")[2] for _, text, _ in told(bench)] == [
        "true",
        "it could not be opened: rank 1.1.0 does not run any more",
    ]


def test_a_job_has_a_bounded_number_of_them(bench: Bench, echoes: EchoShells) -> None:
    job, other = running(bench), running(bench)
    many = [opened(bench, job) for _ in range(shells.MOST_SHELLS)]
    with pytest.raises(Refused, match=f"job {job} has 4 shells already, the most that a job can have; end one of them"):
        opened(bench, job)
    opened(bench, other)
    asyncio.run(bench.service.close_shell(job, many[0].id, ADA))
    opened(bench, job)


def test_what_ended_with_its_rank_says_so(bench: Bench, echoes: EchoShells) -> None:
    job = running(bench)
    shell = opened(bench, job)
    echoes.code, echoes.echoes[shell.id].ends = None, True
    piece = output(bench, shell)
    assert (piece.ended, piece.code) == (True, None)
    assert piece.why == f"rank {job}.1.0 has ended, and this shell with it"
    bench.turn()
    assert told(bench)[-1][2]["why"] == "its rank has ended"


def test_what_ended_because_its_job_was_told_to_end_says_so(bench: Bench, echoes: EchoShells) -> None:
    """SIGTERM goes to the rank and to its shells. Somebody else may send it, too."""
    job = running(bench)
    by_hand, with_job = opened(bench, job), opened(bench, job)
    echoes.code = -signal.SIGTERM
    echoes.echoes[by_hand.id].ends = echoes.echoes[with_job.id].ends = True
    piece = output(bench, by_hand)
    assert (piece.ended, piece.code, piece.why) == (True, -signal.SIGTERM, "")
    bench.service.cancel(job, ADA)
    piece = output(bench, with_job)
    assert (piece.ended, piece.code) == (True, -signal.SIGTERM)
    assert piece.why == f"rank {job}.1.0 was told to end, and this shell with it"
    bench.turn()
    assert [fields["why"] for _, _, fields in told(bench)[-2:]] == ["ended by signal 15", "its rank was told to end"]


def test_what_its_node_has_forgotten_has_ended(bench: Bench, echoes: EchoShells) -> None:
    job = running(bench)
    shell = opened(bench, job)
    del echoes.echoes[shell.id]
    with pytest.raises(NotFound, match="the shell has ended: node a100-0 has hung it up"):
        output(bench, shell)
    with pytest.raises(NotFound, match=f"job {job} has no shell {shell.id}"):
        output(bench, shell)
    bench.turn()
    assert "has hung it up" in told(bench)[-1][2]["why"]
    shell = opened(bench, job)
    del echoes.echoes[shell.id]
    bench.service.cancel(job, ADA)
    with pytest.raises(NotFound, match=f"the shell has ended: rank {job}.1.0 was told to end"):
        output(bench, shell)


def test_a_user_who_has_gone_is_hung_up_and_it_is_told(
    bench: Bench, echoes: EchoShells, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    shell = opened(bench, running(bench))
    now[0] += shells.LOST_S - 1.0
    output(bench, shell)
    now[0] += shells.LOST_S - 1.0
    bench.turn()
    assert echoes.closed == []
    now[0] += 2.0
    bench.turn()
    assert echoes.closed == [shell.id]
    assert told(bench)[-1][2]["why"] == "its user was not heard of for 60 s"


def test_what_is_open_when_the_controller_ends_or_is_killed_is_told(bench: Bench, echoes: EchoShells) -> None:
    job = running(bench)
    opened(bench, job)
    bench.restart()
    assert told(bench)[-1][2]["why"] == "another controller was started"
    bench.turn(2)
    shell = opened(bench, job)
    bench.controller.finish()
    assert echoes.closed == [shell.id]
    assert told(bench)[-1][2]["why"] == "the controller was stopped"
    before = len(told(bench))
    bench.restart()
    assert len(told(bench)) == before


def test_nonsense_is_refused(bench: Bench, echoes: EchoShells) -> None:
    shell = opened(bench, running(bench))
    with pytest.raises(InputError, match="data: is not base64"):
        asyncio.run(bench.service.shell_input(shell.job_id, shell.id, ShellInput(0, "A"), ADA))
    echoes.refusal = EngineError("piece 7 of the output is not the last one")
    with pytest.raises(InputError, match="piece 7 of the output is not the last one"):
        output(bench, shell, after=7)
