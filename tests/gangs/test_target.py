"""The message to the ranks names all whose end or silence they cannot see for themselves."""

from __future__ import annotations

from powerflow.gangs.report_reader import MOST_ENDED, target_of
from powerflow.gangs.state_file import GangRecord
from tests.gangs.bench import spec_of


def test_ranks_hear_of_those_that_have_ended_or_do_not_answer_and_of_those_that_leave() -> None:
    record = GangRecord(epoch=3, generation=5)
    cut, ended, leaves, stays = (record.name("j", node, (0,)) for node in "abcd")
    record.members = [stays]
    record.tell_to_leave([leaves])
    record.set_apart(cut)
    record.drop(ended)
    target = target_of(record, spec_of(), 900.0)
    assert [member.name for member in target.members] == [stays]
    assert target.lost == (cut, ended)
    assert target.leaving == (leaves,)


def test_the_message_stays_short() -> None:
    record = GangRecord(generation=5, ended=[f"j.1.{i}" for i in range(5 * MOST_ENDED)])
    assert target_of(record, spec_of(), 0.0).lost[-1] == record.ended[-1]
    assert len(target_of(record, spec_of(), 0.0).lost) == MOST_ENDED
