"""Whether the ranks of a script meet, seen from outside: real processes, then a fake engine for what follows."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from powerflow.engine.protocol import RankSpec
from powerflow.gangs.manager import Gangs
from powerflow.gangs.rendezvous import Meeting, MeetingState, RankProcess, look, port_is_known
from powerflow.gangs.types import GangCompleted, GangFailed, Progressed, Started
from tests.gangs.bench import LIMITS, Bench, order, spec_of
from tests.gangs.fake_engine import Player, Script

#: Listens, says where, and takes what comes; or connects; or does neither.
_LISTEN = """
import socket, sys
s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1], flush=True); c = s.accept(); sys.stdin.read()
"""
_CONNECT = """
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1]))); print("there", flush=True); sys.stdin.read()
"""
_CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
_ALONE = "import sys; print('alone', flush=True); sys.stdin.read()"


@contextmanager
def running(*args: str) -> Iterator[tuple[RankProcess, str]]:
    """A process that has said its first line."""
    process = subprocess.Popen([sys.executable, "-c", *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield RankProcess(process.pid, time.time()), process.stdout.readline().strip()
    finally:
        process.communicate()


def test_processes_that_are_connected_have_met_and_others_have_not() -> None:
    with (
        running(_LISTEN) as (first, port),
        running(_CHILD, _CONNECT, port) as (second, _),
        running(_ALONE) as (alone, _),
    ):
        assert look([first, second], False) is MeetingState.MET  # also where it is a child that connects
        assert look([first, alone], False) is MeetingState.APART
        assert look([first, RankProcess(second.pid, second.started_s - 1000)], False) is MeetingState.UNKNOWN
        assert look([first, RankProcess(2**22 + 1, time.time())], False) is MeetingState.UNKNOWN


def test_launchers_that_are_connected_have_met_only_if_their_children_are() -> None:
    with running(_LISTEN) as (first, port), running(_CONNECT, port) as (second, _):
        assert look([first, second], True) is MeetingState.APART
    with ExitStack() as stack:
        first, port = stack.enter_context(running(_LISTEN))
        second, _ = stack.enter_context(running(_CHILD, _CONNECT, port))
        assert look([first, second], True) is MeetingState.MET


def test_a_port_is_known_while_it_is_used_and_after_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert port_is_known(port)
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
            pass
    assert port_is_known(port)  # the kernel remembers for a minute
    with socket.create_server(("127.0.0.1", 0)) as server:
        unused = server.getsockname()[1]
    assert not port_is_known(unused)
    looks: list[bool] = []

    def nothing(ranks: Sequence[RankProcess], launched: bool) -> MeetingState:
        looks.append(launched)
        return MeetingState.APART

    meeting = Meeting(nothing, unused, False, 0.0, True)
    assert meeting.watch([RankProcess(1, 0.0)], 0.0) is MeetingState.APART
    meeting.watch([RankProcess(1, 0.0)], 1.0)
    assert len(looks) == 1  # not again so soon
    meeting.watch([RankProcess(1, 0.0)], 2.0, at_once=True)
    assert len(looks) == 2
    meeting.port = port
    assert meeting.watch([RankProcess(1, 0.0)], 2.5) is MeetingState.MET


class Apart(Bench):
    """Its ranks are seen as ``seen`` says."""

    seen = MeetingState.APART

    def controller(self, **more: Any) -> Gangs:
        return super().controller(look_at_ranks=lambda ranks, launched: self.seen, **more)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Apart]:
    bench = Apart(tmp_path)

    def play(spec: RankSpec) -> Player:
        return Script(20)

    bench.engine.play = play
    yield bench
    bench.gangs.close()


def test_ranks_that_never_met_fail_with_the_first_that_ends_and_are_not_tried_again(bench: Apart) -> None:
    bench.gangs.apply([order(1, "a0", "a1", spec=spec_of(rescale="restart", gpus=2))])
    failed = bench.hear(GangFailed)
    assert failed.final
    assert failed.code == 0
    assert failed.text.startswith("each of 2 ranks ran the whole script, and j.1.")
    assert "init_process_group" in failed.text
    assert "rescale: none" in failed.text
    assert "\n" not in failed.text
    assert not bench.told(GangCompleted)


def test_ranks_that_never_met_fail_at_the_first_step_in_the_log(bench: Apart) -> None:
    bench.engine.play = lambda spec: Script(1000, line="step {turn}\n")
    bench.gangs.apply([order(1, "a0", "b1", spec=spec_of(rescale="restart", gpus=2, progress=r"step (?P<step>\d+)"))])
    assert bench.hear(GangFailed).final
    assert len(bench.told(Progressed)) == 1


def test_ranks_that_never_met_fail_in_time(bench: Apart) -> None:
    bench.engine.play = lambda spec: Script(10_000)
    for run in ("python t.py", "torchrun t.py"):
        began_s = bench.engine.now_s
        bench.gangs.apply([order(1, "a0", "a1", job_id=run[0], spec=spec_of(run=run, rescale="restart", gpus=2))])
        failed = bench.hear(GangFailed, run[0])
        assert failed.final
        assert "were not connected after" in failed.text
        assert LIMITS.meet_s < bench.engine.now_s - began_s < LIMITS.meet_s + 10


@pytest.mark.parametrize("seen", [MeetingState.MET, MeetingState.UNKNOWN])
def test_ranks_that_have_met_or_cannot_be_seen_are_left_alone(bench: Apart, seen: MeetingState) -> None:
    bench.seen = seen
    bench.gangs.apply([order(1, "a0", "a1", spec=spec_of(rescale="restart", gpus=2))])
    bench.hear(GangCompleted)


def test_one_rank_a_rigid_job_and_one_that_ended_unwatched_are_not_judged(bench: Apart) -> None:
    bench.gangs.apply(
        [
            order(1, "a0", job_id="x", spec=spec_of(rescale="restart", gpus=1)),
            order(1, "b0", "b1", job_id="y", spec=spec_of(rescale="none", gpus=2)),
        ]
    )
    bench.until(lambda: {event.job_id for event in bench.told(GangCompleted)} == {"x", "y"})
    late = order(1, "a0", "a1", job_id="z", spec=spec_of(rescale="restart", gpus=2))
    bench.gangs.apply([late])
    bench.hear(Started, "z")
    bench.gangs.close()
    for _ in range(30):
        bench.engine.tick()
    bench.restart(late)
    bench.hear(GangCompleted, "z")
