"""The table of a gang's transitions, and what its looks find: by hand, without processes, engine or clock."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from powerflow.elastic.mailbox import Phase, RankReport
from powerflow.engine.protocol import RankName, RankState, RankStatus
from powerflow.gangs.base import Gang
from powerflow.gangs.inplace import InPlace
from powerflow.gangs.machine import ACTIVE, ENDED, ENDING, TABLE, Action, GangState, Trigger
from powerflow.gangs.restart import Scripts
from powerflow.gangs.state_file import GangRecord, RankEntry
from powerflow.gangs.view import InPlaceView
from tests.gangs import state_diagram

ASKED = state_diagram.ASKED


def test_the_page_shows_the_table() -> None:
    page = state_diagram.PAGE.read_text("utf-8")
    assert state_diagram.written(page) == page, "run python -m tests.gangs.state_diagram"


def test_every_state_every_trigger_and_every_action_is_used() -> None:
    assert {after.state for after in TABLE.values()} == set(GangState)
    assert {trigger for _, trigger in TABLE} == set(Trigger)
    assert {after.action for after in TABLE.values()} == {*Action, None}


def test_the_controller_may_ask_for_anything_at_any_time() -> None:
    for state in GangState:
        for trigger in ASKED:
            assert TABLE[state, trigger].action is None  # it has changed the record itself
        assert TABLE[state, Trigger.FAILURE].state is GangState.FAILING


def test_an_end_lasts_until_the_controller_asks_for_something() -> None:
    assert not [key for key in TABLE if key[0] in ENDED and key[1] not in ASKED]
    assert {TABLE[state, Trigger.DESIRED].state for state in ENDED | ENDING} == {GangState.ADOPTED}


def test_every_end_is_told_on_the_way_to_it_and_nowhere_else() -> None:
    tells = {
        Action.TELL_VACATED: GangState.IDLE,
        Action.TELL_COMPLETED: GangState.COMPLETED,
        Action.TELL_FAILED: GangState.FAILED,
    }
    for after in TABLE.values():
        assert (after.action in tells) == (after.state in ENDED)
        if after.action in tells:
            assert tells[after.action] is after.state


@pytest.mark.parametrize("state", [state for state in GangState if state not in ENDED])
def test_an_end_can_be_reached_from_every_state(state: GangState) -> None:
    reached, new = {state}, {state}
    while new:
        new = {after.state for key, after in TABLE.items() if key[0] in new and key[1] not in ASKED} - reached
        reached |= new
    assert reached & ENDED


@pytest.mark.parametrize("state", [state for state in GangState if state in ENDING])
def test_who_is_made_to_end_does_nothing_else(state: GangState) -> None:
    assert [trigger for before, trigger in TABLE if before is state and trigger not in ASKED] == [Trigger.GONE]


def test_ranks_are_named_only_where_some_are_wanted() -> None:
    assert {key[0] for key, after in TABLE.items() if after.action is Action.NAME} == {GangState.WAITING}
    assert {key[0] for key, after in TABLE.items() if after.action is Action.REGROUP} <= ACTIVE


@pytest.mark.parametrize(
    ("kind", "unused"), [(InPlace, set()), (Scripts, {Action.MEND, Action.REFORM, Action.DISMISS})]
)
def test_every_action_is_a_method_of_the_gang(kind: type[Gang], unused: set[Action]) -> None:
    """Scripts never settle, nor form a group, nor know which of their ranks come late."""
    assert {action for action in Action if not hasattr(kind, f"_{action.name.lower()}")} == unused


class Seen:
    """A gang of ranks that all train in group 1, at step 5; tests change what is known of one."""

    def __init__(self, *names: str) -> None:
        self.record = GangRecord(epoch=1, generation=1, members=list(names), joined=True, trained_gpus=len(names))
        self.statuses: dict[str, RankStatus] = {}
        self.reports: dict[str, RankReport] = {}
        for gpu, name in enumerate(names):
            self.record.ranks[name] = RankEntry("a", (gpu,), launched=True)
            rank = RankName.parse(name)
            self.statuses[name] = RankStatus(rank, "a", RankState.RUNNING, 1, None, 0.0, math.nan)
            self.says(name, Phase.COMPUTING)

    def says(self, name: str, phase: Phase, generation: int = 1, step: int = 5) -> None:
        self.reports[name] = RankReport(name, 1, generation, phase, 0.0, step=step)

    def ends(self, name: str, code: int | None) -> None:
        state = RankState.LOST if code is None else RankState.EXITED
        self.statuses[name] = replace(self.statuses[name], state=state, code=code)

    def view(self) -> InPlaceView:
        return InPlaceView(self.record, self.statuses, [("a", 0), ("a", 1)], self.reports)


@pytest.fixture
def seen() -> Seen:
    return Seen("j.1.0", "j.1.1")


def test_a_gang_is_whole_when_all_its_members_train_in_its_newest_group(seen: Seen) -> None:
    assert seen.view().whole
    seen.says("j.1.1", Phase.READY)
    assert not seen.view().whole
    seen.says("j.1.1", Phase.SYNCING)
    seen.record.generation = 2
    assert not seen.view().whole
    seen.says("j.1.0", Phase.SAVING, 2)
    seen.says("j.1.1", Phase.DONE, 2)
    assert seen.view().whole
    seen.ends("j.1.1", 0)
    assert not seen.view().whole


@pytest.mark.parametrize(
    ("code", "phase", "lost", "trained"),
    [
        (0, Phase.DONE, True, True),
        (0, Phase.COMPUTING, True, True),  # its script left the loop
        (0, Phase.RELEASED, True, False),  # another program told it to leave
        (1, Phase.COMPUTING, True, False),
        (-9, Phase.SYNCING, True, False),
        (None, Phase.SYNCING, True, False),
    ],
)
def test_how_a_rank_ended_says_whether_all_is_trained(
    seen: Seen, code: int | None, phase: Phase, lost: bool, trained: bool
) -> None:
    seen.says("j.1.1", phase)
    seen.ends("j.1.1", code)
    assert seen.view().lost == ["j.1.1"] * lost
    assert (seen.view().trained_all is not None) == trained
    assert seen.view().ended_badly("j.1.1") != trained


def test_a_rank_that_was_told_to_leave_is_not_lost(seen: Seen) -> None:
    seen.record.tell_to_leave(["j.1.1"])
    seen.ends("j.1.1", 1)
    assert seen.view().lost == []
    assert seen.view().ended == ["j.1.1"]
    assert not seen.view().all_leave
    seen.record.tell_to_leave(["j.1.0"])
    assert seen.view().all_leave


def test_peers_of_a_lost_rank_know_of_it_once_they_are_broken(seen: Seen) -> None:
    seen.ends("j.1.1", -9)
    assert not seen.view().peers_know
    seen.says("j.1.0", Phase.BROKEN)
    assert seen.view().peers_know
    seen.says("j.1.0", Phase.COMPUTING)
    del seen.reports["j.1.1"]  # it was never one of them, so they miss nobody
    assert seen.view().peers_know
    seen.ends("j.1.0", -9)
    assert seen.view().peers_know  # there are none


def test_newcomers_are_late_once_the_others_have_trained_all(seen: Seen) -> None:
    del seen.reports["j.1.1"]
    assert seen.view().late == []
    seen.says("j.1.0", Phase.DONE)
    assert seen.view().late == ["j.1.1"]


def test_a_gang_is_silent_until_a_rank_reports(seen: Seen) -> None:
    seen.reports.clear()
    assert not seen.view().silent  # it has reported in an earlier life
    seen.record.joined = False
    assert seen.view().silent
    seen.says("j.1.0", Phase.STARTING, generation=0)
    assert not seen.view().silent


def test_ranks_that_were_not_launched_in_their_epoch_never_are(seen: Seen) -> None:
    seen.record.epoch = 2
    assert not seen.view().is_stale("j.1.0")
    seen.record.ranks["j.1.0"].launched = False
    assert seen.view().is_stale("j.1.0")
