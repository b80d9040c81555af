"""Gangs whose nodes do not answer: nothing is started twice, no GPU has two owners, nobody healthy is touched."""

from __future__ import annotations

import signal

import pytest

from powerflow.elastic.mailbox import Mailbox, Phase
from powerflow.engine.protocol import EngineError, RankName, RankState
from powerflow.gangs.types import (
    GangCompleted,
    GangFailed,
    Hung,
    Progressed,
    RankLost,
    Rescaled,
    Started,
    Vacated,
)
from tests.gangs.acts import A0, B0, SCRIPT, start, start_script, step, turns, words
from tests.gangs.bench import LIMITS, Bench, order
from tests.gangs.fake_rank import Habits

# -- in-place ---------------------------------------------------------------------------------------------------------


def test_the_others_go_on_at_once_without_ranks_that_do_not_answer(bench: Bench) -> None:
    start(bench, "a0", "b0")
    turns(bench, 10)
    before = step(bench, A0)
    bench.engine.cut("b")
    bench.turn()
    target = Mailbox(bench.directory / "jobs" / "j").target()
    assert target is not None
    assert target.lost == (str(B0),)
    assert [member.name for member in target.members] == [str(A0)]
    bench.until(lambda: step(bench, A0) > before + 10)
    assert bench.told(Rescaled)[-1].gpus == 1
    assert bench.gangs.holding() == {("a", 0): "j", ("b", 0): "j"}  # it may run there
    assert words(bench, "unreachable") == ["node b does not answer: the others go on without j.1.1, which may run on"]
    assert not bench.told(RankLost)
    assert not bench.told(GangFailed)
    assert not bench.engine.signals
    turns(bench, 300)
    assert bench.engine.launches == [A0, B0]  # nothing is started on the GPU that may be taken
    assert B0 in bench.engine.really()


def test_nobody_is_given_up_if_the_controller_was_cut_off_itself(bench: Bench) -> None:
    start(bench, "a0", "b0")
    turns(bench, 10)
    for node in ("a", "b"):  # one falls silent soon after the other, and comes back so
        bench.engine.cut(node)
        bench.engine.seen_s[node] = bench.engine.now_s
        bench.engine.seen_s["b"] = bench.engine.now_s
        turns(bench, 2)
    turns(bench, 50)
    for node in ("b", "a"):
        bench.engine.mend(node)
        bench.engine.seen_s.clear()
        turns(bench, 4)
    turns(bench, 30)
    assert not bench.engine.signals
    assert bench.engine.launches == bench.engine.running() == [A0, B0]
    assert bench.told(Started) == [Started("j", 1)]


def test_nobody_is_given_up_while_a_new_controller_meets_its_nodes(bench: Bench) -> None:
    start(bench, "a0", "b0")
    bench.engine.cut("b")
    bench.restart(order(1, "a0", "b0"))
    turns(bench, 4)
    bench.engine.mend("b")
    turns(bench, 30)
    assert not bench.engine.signals
    assert bench.engine.launches == bench.engine.running() == [A0, B0]


def test_ranks_that_were_replaced_are_ended_before_their_gpus_are_free(bench: Bench) -> None:
    bench.habits = lambda spec: Habits(lingers=None)
    start(bench, "a0", "b0")
    bench.engine.stubborn.add(B0)
    bench.engine.cut("b")
    bench.hear(Rescaled)
    bench.engine.mend("b")
    bench.turn()
    assert bench.engine.signals == [(B0, signal.SIGTERM)]
    assert bench.gangs.holding()[("b", 0)] == "j"
    bench.until(lambda: (B0, signal.SIGKILL) in bench.engine.signals)
    bench.until(lambda: len(bench.engine.running()) == 2)  # grown again to what it shall have
    assert bench.engine.launches == [A0, B0, RankName("j", 1, 2)]
    assert bench.engine.running() == [A0, RankName("j", 1, 2)]
    assert {name for name, _ in bench.engine.signals} == {B0}


def test_another_job_waits_for_a_gpu_on_which_a_rank_may_run(bench: Bench) -> None:
    bench.habits = lambda spec: Habits(lingers=None)
    start(bench, "a0", "b0")
    bench.engine.cut("b")
    bench.hear(Rescaled)
    bench.gangs.apply([order(2, "a0"), order(1, "b0", job_id="k")])
    turns(bench, 50)
    bench.engine.down.discard("b")  # launches would be taken; the rank is not heard of yet
    turns(bench, 5)
    assert not bench.engine.running("k")
    bench.engine.mend("b")
    bench.hear(Started, "k")  # the engine of these tests refuses two processes on one GPU
    assert bench.engine.placed("k") == {("b", 0)}


def test_a_gang_that_does_not_answer_at_all_waits_and_goes_on(bench: Bench) -> None:
    start(bench, "b0", "b1")
    names = bench.engine.running()
    bench.engine.cut("b")
    turns(bench, 400)
    assert bench.gangs.holding() == {("b", 0): "j", ("b", 1): "j"}
    assert bench.gangs.troubles() == {"j": "waits for node b, which does not answer"}
    assert words(bench, "unreachable") == ["node b does not answer: the job waits for it; j.1.0, j.1.1 may run on"]
    bench.events.clear()
    bench.engine.mend("b")
    bench.hear(Progressed)
    assert words(bench, "reachable") == ["node b answers again"]
    assert bench.gangs.troubles() == {}
    assert bench.engine.running() == bench.engine.launches == names
    turns(bench, 100)
    assert not bench.engine.signals
    assert not bench.told(RankLost)
    assert not bench.told(GangFailed)


def test_newcomers_do_not_go_on_without_the_ranks_that_have_the_state(bench: Bench) -> None:
    start(bench, "b0")
    bench.habits = lambda spec: Habits(builds=10_000)
    bench.gangs.apply([order(2, "a0", "b0")])
    bench.until(lambda: len(bench.engine.running()) == 2)
    bench.engine.cut("b")
    turns(bench, 20)
    assert not bench.told(GangFailed)
    assert ("b", 0) in bench.gangs.holding()
    target = Mailbox(bench.directory / "jobs" / "j").target()
    assert target is not None
    assert not target.lost


def test_before_a_step_was_trained_the_others_form_the_gang(bench: Bench) -> None:
    bench.habits = lambda spec: Habits(builds=20)
    bench.gangs.apply([order(1, "a0", "b0")])
    bench.until(lambda: len(bench.engine.running()) == 2)
    bench.engine.cut("b")
    bench.hear(Progressed)
    assert [name for name, _ in bench.engine.signals] == []


def test_losses_by_the_network_do_not_fail_a_job(bench: Bench) -> None:
    bench.habits = lambda spec: Habits(crashes_at=None)
    start(bench, "a0", "b0")
    for _ in range(2 * LIMITS.losses):
        bench.engine.cut("b")
        turns(bench, 3)
        bench.engine.mend("b")
        bench.until(lambda: len(bench.engine.running()) == 2 and not bench.gangs.troubles())
    assert not bench.told(GangFailed)
    assert A0 in bench.engine.running()


def test_a_rank_that_waits_for_one_that_does_not_answer_does_not_hang(bench: Bench) -> None:
    start(bench, "b0", "b1")
    bench.gangs.apply([order(2, "b0", "b1", "a0")])
    bench.hear(Started)
    # the members are all on b, and the rank on a, which waits inside a step, shall leave
    bench.gangs.apply([order(3, "b0", "b1")])
    bench.engine.cut("b")
    turns(bench, 200)
    assert not bench.told(Hung)
    bench.engine.mend("b")
    bench.until(lambda: bench.engine.placed("j") == {("b", 0), ("b", 1)})
    assert not bench.told(Hung)
    assert not bench.told(GangFailed)


def test_a_gang_that_is_stopped_saves_without_the_ranks_that_do_not_answer(bench: Bench) -> None:
    start(bench, "a0", "a1", "b0")
    bench.engine.cut("b")
    bench.gangs.apply([order(2)])
    vacated = bench.hear(Vacated)
    assert vacated.steps_safe is not None
    assert vacated.steps_safe > 0
    assert not bench.engine.signals
    assert bench.gangs.holding() == {("b", 0): "j"}
    bench.gangs.apply([order(3, "a2", "a3")])
    bench.hear(Progressed)
    bench.engine.mend("b")
    bench.until(lambda: bench.gangs.holding() == {("a", 2): "j", ("a", 3): "j"})
    assert len(bench.engine.really()) == 2


def test_a_job_that_completes_ends_its_stray_later(bench: Bench) -> None:
    bench.steps_total = 30
    start(bench, "a0", "b0")
    bench.engine.cut("b")
    assert bench.hear(GangCompleted).steps == 30
    assert bench.gangs.holding() == {("b", 0): "j"}
    bench.gangs.forget("j")
    assert bench.engine.statuses  # not yet
    bench.restart()  # the next controller is not told of the job any more
    turns(bench, 10)
    assert bench.gangs.holding() == {("b", 0): "j"}
    bench.engine.mend("b")
    bench.until(lambda: not bench.engine.really())
    turns(bench, 2)
    assert bench.gangs.holding() == {}


def test_logs_are_deleted_once_the_stray_has_ended(bench: Bench) -> None:
    bench.steps_total = 30
    start(bench, "a0", "b0")
    bench.engine.cut("b")
    bench.hear(GangCompleted)
    bench.gangs.forget("j")
    turns(bench, 20)
    assert (bench.directory / "gangs" / "j.json").exists()
    bench.engine.mend("b")
    bench.until(lambda: not (bench.directory / "gangs" / "j.json").exists())
    assert not bench.engine.statuses


def test_a_job_that_is_cancelled_is_gone_when_its_ranks_are(bench: Bench) -> None:
    start(bench, "b0", "b1")
    bench.engine.cut("b")
    bench.gangs.kill("j")
    turns(bench, 100)
    assert not bench.told(Vacated)
    assert len(bench.gangs.holding()) == 2
    bench.engine.mend("b")
    bench.hear(Vacated)
    assert bench.engine.signals[:2] == [(A0, signal.SIGTERM), (B0, signal.SIGTERM)]
    assert not bench.gangs.holding()


def test_a_node_that_was_off_is_proof_that_its_ranks_have_ended(bench: Bench) -> None:
    start(bench, "b0", "b1")
    bench.engine.cut("b")
    turns(bench, 20)
    bench.engine.boot("b")
    failed = bench.hear(GangFailed)
    assert (failed.excused, failed.text) == (True, "the machine was restarted")
    assert not bench.gangs.holding()


def test_a_rank_that_was_replaced_and_lost_frees_its_gpu(bench: Bench) -> None:
    start(bench, "a0", "b0")
    bench.engine.cut("b")
    bench.hear(Rescaled)
    bench.engine.boot("b")
    bench.until(lambda: bench.engine.placed("j") == {("a", 0), ("b", 0)})
    assert not bench.engine.signals
    assert not bench.told(RankLost)


def test_an_operator_declares_a_node_off(bench: Bench) -> None:
    start(bench, "b0", "b1")
    with pytest.raises(EngineError):
        bench.gangs.declare_off("b")
    bench.engine.cut("b")
    turns(bench, 5)
    bench.gangs.declare_off("b")
    bench.hear(GangFailed)
    assert not bench.gangs.holding()
    bench.gangs.apply([order(2, "a0")])
    bench.hear(Started)
    bench.engine.mend("b")
    turns(bench, 3)
    assert bench.engine.really() == [RankName("j", 2, 0)]


@pytest.mark.parametrize("declared", [False, True])
def test_ranks_of_a_node_that_a_new_engine_has_not_met_are_unreachable(bench: Bench, declared: bool) -> None:
    start(bench, "b0", "b1")
    bench.engine.cut("b")
    kept, bench.engine.statuses = bench.engine.statuses, {}
    bench.restart(order(1, "b0", "b1"))
    turns(bench, 20)
    assert len(bench.gangs.holding()) == 2
    assert {rank["state"] for rank in bench.gangs.standing("j")} == {"unreachable"}
    assert not bench.told(GangFailed)
    if declared:
        bench.gangs.declare_off("b")
        bench.hear(GangFailed)
        assert not bench.gangs.holding()
        return
    bench.engine.statuses = kept
    bench.engine.mend("b")
    bench.hear(Progressed)
    assert bench.engine.running() == bench.engine.launches


def test_a_launch_that_may_have_arrived_keeps_its_gpu(bench: Bench) -> None:
    bench.engine.slow.add("b")
    bench.gangs.apply([order(1, "b0")])
    turns(bench, 2)
    bench.engine.cut("b")
    for name, status in bench.engine.statuses.items():  # no answer came before the cut
        bench.engine.statuses[name] = status.__class__(
            **{field: getattr(status, field) for field in status.__slots__ if field != "state"},
            state=RankState.UNREACHABLE,
        )
    bench.gangs.apply([order(2, "a0")])
    turns(bench, 50)
    assert not bench.engine.running()  # not twice
    assert bench.gangs.holding() == {("b", 0): "j"}


# -- scripts ----------------------------------------------------------------------------------------------------------


def test_a_script_goes_on_if_its_node_answers_soon(bench: Bench) -> None:
    start_script(bench, "a0", "b0")
    bench.engine.cut("b")
    turns(bench, int(LIMITS.reach_s) - 2)
    assert bench.gangs.troubles() == {"j": "waits for node b, which does not answer"}
    bench.engine.mend("b")
    turns(bench, int(2 * LIMITS.reach_s))
    assert not bench.engine.signals
    assert not bench.told(GangFailed)
    assert bench.engine.launches == [A0, B0]


def test_a_script_whose_node_stays_away_gives_its_other_gpus_back(bench: Bench) -> None:
    start_script(bench, "a0", "b0")
    bench.engine.cut("b")
    bench.until(lambda: (A0, signal.SIGTERM) in bench.engine.signals)
    assert "its ranks are stopped, because node b has not answered for too long" in words(bench, "unreachable")
    bench.gangs.apply([order(2, "a0", "a1", spec=SCRIPT)])
    turns(bench, 400)
    assert bench.engine.launches == [A0, B0]  # a rank on b may still write a checkpoint
    assert bench.gangs.holding() == {("b", 0): "j"}
    assert bench.gangs.troubles() == {"j": "waits for node b, which does not answer"}
    bench.engine.mend("b")
    bench.hear(Started)
    assert (B0, signal.SIGTERM) in bench.engine.signals
    assert bench.engine.placed("j") == {("a", 0), ("a", 1)}
    assert not bench.told(GangFailed)


def test_a_script_that_fails_because_of_the_network_is_excused(bench: Bench) -> None:
    start_script(bench, "a0", "b0")
    bench.engine.cut("b")
    bench.turn()
    bench.engine.end(A0, 1)
    turns(bench, 100)
    assert not bench.told(GangFailed)  # a process of it may run
    bench.engine.mend("b")
    failed = bench.hear(GangFailed)
    assert failed.excused
    assert failed.text == "node b did not answer"


def test_a_script_on_one_node_waits(bench: Bench) -> None:
    start_script(bench, "b0", "b1")
    bench.engine.cut("b")
    turns(bench, int(3 * LIMITS.reach_s))
    bench.engine.mend("b")
    turns(bench, 40)
    assert not bench.engine.signals
    assert not bench.told(GangFailed)


def test_no_phase_is_reported_of_ranks_that_do_not_answer(bench: Bench) -> None:
    start(bench, "b0")
    assert bench.gangs.standing("j")[0]["phase"] in {phase.value for phase in Phase}
    bench.engine.cut("b")
    bench.turn()
    (rank,) = bench.gangs.standing("j")
    assert (rank["state"], rank["pid"]) == ("unreachable", None)
    assert "phase" not in rank
