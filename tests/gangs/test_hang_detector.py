"""Which ranks hang, by what they say they do: worked by hand, one moment after another."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from powerflow.api.job_spec import JobSpec
from powerflow.elastic.mailbox import Phase, RankReport
from powerflow.gangs.hang_detector import HangDetector, cpu_ticks
from powerflow.gangs.types import GangCompleted, Hung, Limits, RankLost
from tests.gangs.bench import LIMITS as BENCH_LIMITS
from tests.gangs.bench import Bench, order, spec_of
from tests.gangs.fake_rank import FakeRank

#: A step takes a second: in a step 60 s are too long, outside of one 1800 s, until the first one 600 s.
LIMITS = Limits()


def report(name: str, phase: Phase, **said_too: int | float) -> RankReport:
    said = RankReport(name, 1, 1, phase, 100.0, step=5, timed_steps=5, timed_s=5.0)
    return dataclasses.replace(said, **said_too)  # type: ignore[arg-type]


def hung_after(seconds: float, *reports: RankReport, between_s: float | None = None) -> dict[str, str]:
    """Who hangs when all have said the same for so long."""
    watch = HangDetector(LIMITS, cpu_ticks=lambda pid: None)
    members = {report.name: report for report in reports}
    assert watch.hung(members, 1000.0, between_s) == {}
    return watch.hung(members, 1000.0 + seconds, between_s)


def test_one_in_a_step_for_whom_the_others_wait() -> None:
    ranks = report("a", Phase.COMPUTING), report("b", Phase.SYNCING)
    assert hung_after(60, *ranks) == {}
    assert hung_after(61, *ranks) == {"a": "was in the same step for 61 s"}
    slow = report("a", Phase.COMPUTING, timed_s=50.0)  # steps of 10 s: 20 of them
    assert hung_after(200, slow, ranks[1]) == {}
    assert set(hung_after(201, slow, ranks[1])) == {"a"}


@pytest.mark.parametrize("phase", [Phase.OUTSIDE, Phase.EVALUATING, Phase.SAVING])
def test_one_outside_a_step_has_the_limit_of_the_job(phase: Phase) -> None:
    ranks = report("a", phase), report("b", Phase.SYNCING), report("c", Phase.SYNCING)
    assert hung_after(1800, *ranks) == {}
    (said,) = hung_after(1801, *ranks).values()
    assert said.endswith("for 1801 s, longer than limits.between_steps allows")
    assert hung_after(7200, *ranks, between_s=7200) == {}
    if phase is not Phase.SAVING:  # that is our own doing, and has ten minutes at least
        assert set(hung_after(31, *ranks, between_s=30)) == {"a"}


def test_one_in_a_step_may_wait_for_one_outside() -> None:
    """In a barrier of the script's own, say."""
    ranks = report("a", Phase.OUTSIDE), report("b", Phase.COMPUTING)
    assert hung_after(1800, *ranks) == {}
    assert set(hung_after(1801, *ranks)) == {"a", "b"}


def test_each_pass_of_an_evaluation_is_a_sign_of_life() -> None:
    watch = HangDetector(LIMITS, cpu_ticks=lambda pid: None)
    for minute in range(0, 600, 20):
        ranks = {"a": report("a", Phase.EVALUATING, phase_s=60.0 * minute), "b": report("b", Phase.SYNCING)}
        assert watch.hung(ranks, 60.0 * minute) == {}


def test_all_in_one_all_reduce_wait_for_ever() -> None:
    ranks = report("a", Phase.SYNCING), report("b", Phase.SYNCING)
    assert hung_after(60, *ranks) == {}
    assert hung_after(61, *ranks) == {"b": "waited in the same all-reduce, like all other ranks, for 61 s"}
    behind = report("a", Phase.SYNCING, step=4), report("b", Phase.SYNCING)
    assert set(hung_after(61, *behind)) == {"a"}
    assert hung_after(500, *(dataclasses.replace(rank, timed_steps=0) for rank in ranks)) == {}  # the first may compile
    assert hung_after(10_000, report("a", Phase.DONE), report("b", Phase.DONE)) == {}


def test_who_has_not_noticed_that_a_peer_is_lost() -> None:
    ranks = report("a", Phase.BROKEN), report("b", Phase.SYNCING), report("c", Phase.SYNCING)
    assert set(hung_after(61, *ranks)) == {"b", "c"}


def test_all_busy_have_ten_minutes() -> None:
    ranks = report("a", Phase.COMPUTING), report("b", Phase.COMPUTING)
    assert hung_after(600, *ranks) == {}
    assert set(hung_after(601, *ranks)) == {"a", "b"}


@pytest.mark.parametrize("phase", [Phase.OUTSIDE, Phase.COMPUTING, Phase.SYNCING, Phase.EVALUATING])
def test_a_process_that_stands_still_is_found_whatever_it_said_last(phase: Phase) -> None:
    """Its beat and its CPU time stay; those of its peer, which waits and uses much CPU time or none, go on."""
    cpu = {1: 500, 2: 500}
    watch = HangDetector(LIMITS, cpu_ticks=cpu.get)
    for second in range(100):
        ranks = {
            "a": report("a", phase, pid=1, beat=7),
            "b": report("b", Phase.SYNCING, pid=2, beat=second + 1, phase_s=100.0 if second < 50 else 150.0),
        }
        found = watch.hung(ranks, float(second))
        if found:
            break
    assert found == {"a": "reported nothing and used no CPU for 61 s"}


def test_who_says_nothing_but_computes_or_cannot_be_looked_at_is_not_taken_for_stopped() -> None:
    """It may hold Python's lock for minutes; and where the disk is full nobody can say anything."""
    ticks = 0

    def computes(pid: int) -> int | None:
        nonlocal ticks
        ticks += 1
        return ticks

    def run(watch: HangDetector, speaks: bool) -> None:
        for second in range(1000):
            beat = second + 1 if speaks else 3
            ranks = {
                "a": report("a", Phase.OUTSIDE, pid=1, beat=7),
                "b": report("b", Phase.OUTSIDE, pid=2, beat=beat),
            }
            assert watch.hung(ranks, float(second)) == {}

    run(HangDetector(LIMITS, cpu_ticks=computes), True)
    run(HangDetector(LIMITS, cpu_ticks=lambda pid: None), True)
    run(HangDetector(LIMITS, cpu_ticks=lambda pid: 5), False)


def test_cpu_time_of_a_process_that_is_stopped_does_not_rise() -> None:
    burn = "print('on', flush=True)\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", burn], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        with process.stdout:
            process.stdout.readline()
        before = cpu_ticks(process.pid)
        assert before is not None
        while cpu_ticks(process.pid) == before:
            pass
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        stopped = cpu_ticks(process.pid)
        for _ in range(1000):
            assert cpu_ticks(process.pid) == stopped
    finally:
        process.kill()
        process.wait()
    assert cpu_ticks(process.pid) is None


def during(bench: Bench, name: str, phase: Phase, turns: int) -> list[Hung]:
    """What is told of ranks that hang while one does something else, and the others wait for it."""
    player = bench.engine.players[next(n for n in bench.engine.running() if str(n) == name)]
    assert isinstance(player, FakeRank)
    player.habits.hangs_at = player.step + 3
    stops = player.habits.hangs_at
    bench.until(lambda: player.step == stops and player.phase is Phase.COMPUTING)
    player.report(phase)  # and does nothing any more: the fake rank knows no such phase
    for _ in range(turns):
        bench.turn()
    told = bench.told(Hung)
    player.habits.hangs_at = None
    player.report(Phase.COMPUTING)
    return told


@pytest.fixture
def started(tmp_path: Path) -> Callable[..., Bench]:
    def start(**keys: object) -> Bench:
        bench = Bench(tmp_path)
        spec: JobSpec = spec_of(**keys)
        bench.gangs.apply([order(1, "a0", "a1", spec=spec)])
        bench.until(lambda: len(bench.engine.running()) == 2)
        return bench

    return start


def test_rank_0_evaluates_for_minutes_and_the_job_goes_on(started: Callable[..., Bench]) -> None:
    bench = started()
    assert during(bench, "j.1.0", Phase.OUTSIDE, 600) == []  # 300 s: in a step 10 s are too long
    player = bench.engine.players[bench.engine.running()[0]]
    assert isinstance(player, FakeRank)
    at = player.step
    bench.until(lambda: player.step > at + 2)
    assert not bench.told(RankLost)


def test_the_limit_outside_a_step_is_the_jobs_own(started: Callable[..., Bench]) -> None:
    bench = started(limits={"between_steps": "20s"})
    (hung,) = during(bench, "j.1.0", Phase.OUTSIDE, 60)
    assert hung.rank == "j.1.0"
    assert hung.what.startswith("was outside a step for 2")
    assert [lost.rank for lost in bench.told(RankLost)] == ["j.1.0"]
    assert BENCH_LIMITS.between_s > 1000


def test_what_a_completed_job_kept_in_its_own_folder_is_deleted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.steps_total = 20
    bench.gangs.apply([order(1, "a0")])
    bench.until(lambda: bool(bench.engine.running()))
    kept = tmp_path / "jobs/j/checkpoint.pt"
    kept.write_text("10", "utf-8")
    bench.hear(GangCompleted)
    assert not kept.exists()
    assert kept.parent.exists()
