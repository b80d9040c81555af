"""What the controller may conclude about a machine's ranks from what the agent says, and from its silence."""

from dataclasses import replace

from powerflow.engine.cluster.machine import Machine
from powerflow.engine.cluster.rows import status_row
from powerflow.engine.protocol import EngineNode, RankName, RankState, RankStatus

NAN = float("nan")


def status(number: int, state: RankState = RankState.RUNNING) -> RankStatus:
    return RankStatus(RankName("g", 0, number), "n", state, 7 + number, None, 1.0, NAN)


def machine(*statuses: RankStatus) -> Machine:
    found = Machine("m", "key", nodes={"n": EngineNode("n", 8)}, up=True)
    found.take(map(status_row, statuses), (), whole=True)
    return found


def states(of: Machine) -> list[RankState]:
    return [status.state for status in of.statuses()]


def test_silence_proves_nothing() -> None:
    of = machine(status(0), status(1, RankState.EXITED))
    of.up = False
    assert states(of) == [RankState.UNREACHABLE, RankState.EXITED]
    of.up = True
    assert states(of) == [RankState.RUNNING, RankState.EXITED]


def test_a_running_rank_that_the_agent_does_not_know_is_lost() -> None:
    of = machine(status(0), status(1))
    assert of.take([status_row(status(1))], (), whole=True) == []
    assert states(of) == [RankState.LOST, RankState.RUNNING]


def test_a_rank_whose_launch_may_not_have_arrived_is_launched_again() -> None:
    of = machine()
    of.begin(status(0, RankState.STARTING))
    assert of.take([], (), whole=False) == []
    assert of.take([], (), whole=True) == [RankName("g", 0, 0)]
    assert states(of) == [RankState.STARTING]


def test_what_an_operator_declared_lost_stays_lost_whatever_the_agent_says_later() -> None:
    of = machine(status(0))
    of.up = False
    of.declare_off(5.0)
    assert (states(of), of.ended_by_word) == ([RankState.LOST], {RankName("g", 0, 0)})
    of.up = True
    of.take([status_row(status(0))], (), whole=True)
    assert (states(of), of.ended_by_word) == ([RankState.LOST], {RankName("g", 0, 0)})  # it runs: still to be ended
    ended = replace(status(0), state=RankState.EXITED, code=-9)
    for _ in range(2):
        of.take([status_row(ended)], (), whole=True)
        assert (states(of), of.ended_by_word) == ([RankState.LOST], set())


def test_records_that_were_deleted_are_forgotten() -> None:
    of = machine(status(0, RankState.EXITED), status(1))
    of.take([status_row(status(1))], ["g.0.0"], whole=False)
    assert list(of.ranks) == [RankName("g", 0, 1)]


def test_all_is_known_again_after_a_restart_of_the_controller_but_not_that_it_answers() -> None:
    of = machine(status(0))
    again = Machine.from_row(of.row())
    assert (again.up, states(again)) == (False, [RankState.UNREACHABLE])
    assert [node.name for node in again.listed()] == ["n"]
    assert not again.listed()[0].up
