"""Gangs whose ranks start later than they are launched, or on other machines than the controller."""

from __future__ import annotations

from powerflow.engine.protocol import EngineError, EngineNode, RankName
from powerflow.gangs.types import (
    GangFailed,
    Rescaled,
    Started,
)
from tests.gangs.acts import A0, B0, SCRIPT, start, start_script, turns
from tests.gangs.bench import Bench, order, spec_of
from tests.gangs.fake_engine import Script
from tests.gangs.fake_rank import Habits

# -- launches ---------------------------------------------------------------------------------------------------------


def test_all_ranks_of_a_gang_are_launched_in_one_batch(bench: Bench) -> None:
    start(bench, "a0", "a1", "b0", "b1")
    assert bench.engine.batches == [[RankName("j", 1, number) for number in range(4)]]


def test_a_gang_waits_for_a_node_that_starts_ranks_slowly(bench: Bench) -> None:
    bench.engine.slow.add("b")
    bench.gangs.apply([order(1, "a0", "b0")])
    turns(bench, 50)
    assert [rank["state"] for rank in bench.gangs.standing("j")] == ["running", "starting"]
    assert bench.gangs.holding() == {("a", 0): "j", ("b", 0): "j"}
    assert len(bench.engine.batches) == 1
    assert not bench.told(Started)
    bench.engine.answer()
    bench.hear(Started)
    assert bench.engine.launches == [A0, B0]


def test_what_a_node_refuses_later_is_launched_again(bench: Bench) -> None:
    bench.engine.slow.add("b")
    bench.gangs.apply([order(1, "a0", "b0")])
    turns(bench, 2)
    bench.engine.answer(EngineError("no memory left", retry=True))
    turns(bench, 1)
    assert bench.gangs.troubles() == {"j": "rank j.1.1 cannot be started now: no memory left"}
    assert bench.gangs.holding() == {("a", 0): "j"}
    bench.until(lambda: len(bench.engine.batches) == 2)
    assert bench.engine.batches[1] == [B0]
    bench.engine.answer()
    bench.hear(Started)
    assert not bench.told(GangFailed)


def test_a_rank_that_shall_leave_and_never_started_is_forgotten(bench: Bench) -> None:
    start(bench, "a0")
    bench.engine.slow.add("b")
    bench.gangs.apply([order(2, "a0", "b0")])
    turns(bench, 5)
    bench.gangs.apply([order(3, "a0")])
    turns(bench, 5)
    bench.engine.answer(EngineError("no memory left", retry=True))
    turns(bench, 20)
    assert [rank["name"] for rank in bench.gangs.standing("j") if rank["state"] == "not started"] in ([], ["j.2.0"])
    assert bench.gangs._gangs["j"].record.ranks.keys() == {"j.1.0"}
    assert bench.engine.running() == [A0]
    assert not bench.engine.signals


def test_what_a_node_refuses_for_good_fails_the_job(bench: Bench) -> None:
    bench.engine.slow.add("b")
    bench.gangs.apply([order(1, "a0", "b0")])
    turns(bench, 2)
    bench.engine.answer(EngineError("there is no user 'x'"))
    failed = bench.hear(GangFailed)
    assert failed.text == "cannot start: there is no user 'x'"
    assert not failed.final, "another node may have the user"
    assert not bench.engine.running()


def test_what_can_never_be_executed_is_not_tried_again(bench: Bench) -> None:
    bench.engine.slow.add("b")
    bench.gangs.apply([order(1, "a0", "b0")])
    turns(bench, 2)
    bench.engine.answer(EngineError("there is no program x", final=True))
    failed = bench.hear(GangFailed)
    assert (failed.text, failed.final) == ("cannot start: there is no program x", True)


def test_nothing_is_launched_on_a_node_that_does_not_answer(bench: Bench) -> None:
    bench.engine.cut("b")
    bench.gangs.apply([order(1, "b0")])
    turns(bench, 100)
    assert not bench.engine.batches
    assert bench.gangs.holding() == {}
    bench.engine.mend("b")
    bench.hear(Started)


# -- addresses --------------------------------------------------------------------------------------------------------


def far_away(bench: Bench) -> None:
    bench.engine.kinds = {
        "a": EngineNode("a", 4, address="10.9.0.1", interface="eth1"),
        "b": EngineNode("b", 4, address="10.9.0.2", interface="ib0"),
    }


def test_ranks_on_other_machines_are_told_their_address(bench: Bench) -> None:
    far_away(bench)
    start(bench, "a0", "b0")
    env = [bench.engine.specs[name].env for name in (A0, B0)]
    assert [each["POWERFLOW_ADDRESS"] for each in env] == ["10.9.0.1", "10.9.0.2"]
    assert [each["POWERFLOW_INTERFACE"] for each in env] == ["eth1", "ib0"]
    assert [each["GLOO_SOCKET_IFNAME"] for each in env] == ["eth1", "ib0"]
    assert [each["NCCL_SOCKET_IFNAME"] for each in env] == ["eth1", "ib0"]
    assert [bench.engine.specs[name].gpus for name in (A0, B0)] == [(0,), (0,)]


def test_ranks_of_one_machine_are_told_no_address(bench: Bench) -> None:
    start(bench, "a0", "b0")
    told = bench.engine.specs[A0].env
    assert not {"POWERFLOW_ADDRESS", "POWERFLOW_INTERFACE", "GLOO_SOCKET_IFNAME"} & told.keys()


def test_scripts_meet_at_the_node_of_their_first_rank(bench: Bench) -> None:
    far_away(bench)
    start_script(bench, "b0", "b1")
    env = [bench.engine.specs[name].env for name in (A0, B0)]
    assert {each["MASTER_ADDR"] for each in env} == {"10.9.0.2"}
    (port,) = {int(each["MASTER_PORT"]) for each in env}
    assert 20_000 <= port < 32_000
    turns(bench, 1000)
    assert not bench.told(GangFailed)  # nobody judges by this machine's /proc whether they have met
    bench.gangs.apply([order(2, "b2", "b3", spec=SCRIPT)])
    bench.hear(Started)
    assert int(bench.engine.specs[RankName("j", 2, 0)].env["MASTER_PORT"]) == port + 1


def test_a_port_that_was_taken_is_not_the_fault_of_the_job(bench: Bench) -> None:
    far_away(bench)
    start_script(bench, "b0", "b1")
    port = bench.engine.specs[A0].env["MASTER_PORT"]
    player = bench.engine.players[A0]
    assert isinstance(player, Script)
    player.log += f"server socket has failed to listen. port: {port}, code: -98, name: EADDRINUSE\n".encode()
    bench.engine.end(A0, 1)
    failed = bench.hear(GangFailed)
    assert (failed.excused, failed.text) == (True, f"port {port} of node b was taken")


def test_a_launcher_is_told_the_address_of_the_first_node(bench: Bench) -> None:
    far_away(bench)
    bench.engine.play = lambda spec: Script(10_000)
    spec = spec_of(rescale="restart", run="torchrun train.py")
    bench.gangs.apply([order(1, "a0", "b0", spec=spec)])
    bench.hear(Started)
    for name in (A0, B0):
        command = bench.engine.specs[name].command
        assert command[command.index("--master-addr") + 1] == "10.9.0.1"


# -- clocks -----------------------------------------------------------------------------------------------------------


def test_a_pause_is_measured_over_a_boot_of_the_controller(bench: Bench) -> None:
    start(bench, "a0")
    bench.habits = lambda spec: Habits(builds=20)
    bench.gangs.apply([order(2, "b0")])
    bench.until(lambda: bench.engine.placed("j") == {("b", 0)})
    offset_s = bench.engine.now_s  # the monotonic clock begins again
    bench.gangs.close()
    bench.gangs = bench.controller(clock=lambda: bench.engine.now_s - offset_s)
    bench.gangs.adopt([order(2, "b0")])
    assert 5.0 < bench.hear(Rescaled).pause_s < 30.0


def test_ranks_that_were_never_started_make_way_for_a_later_placement(bench: Bench) -> None:
    bench.engine.slow.add("a")
    bench.gangs.apply([order(1, "a0", "a1")])
    turns(bench, 3)
    bench.engine.answer(EngineError("a does not answer", retry=True))
    turns(bench, 2)  # accepted, then refused by the node: to be launched again
    bench.engine.slow.clear()
    bench.gangs.apply([order(2, "a0", "a1")])  # the same GPUs; the engine refuses ranks of order 1 from now on
    bench.hear(Started)
    assert {name.epoch for name in bench.engine.really("j")} == {2}
