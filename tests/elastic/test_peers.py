"""What a rank concludes from reports that may be old, from nodes whose clocks differ."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from powerflow.elastic import stuck
from powerflow.elastic.mailbox import Mailbox, Member, Phase, RankReport, Target
from powerflow.elastic.peers import SILENT_S, Peers
from powerflow.elastic.stuck import StuckWatch


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def mailbox(tmp_path: Path) -> Mailbox:
    mailbox = Mailbox(tmp_path)
    mailbox.create()
    return mailbox


def report(mailbox: Mailbox, name: str, phase: Phase = Phase.COMPUTING, generation: int = 1, **facts: Any) -> None:
    facts = {"phase_s": 0.0, **facts}
    mailbox.report(RankReport(name=name, pid=1, generation=generation, phase=phase, **facts))


def target(*names: str, **facts: Any) -> Target:
    return Target(2, tuple(Member(name, "n") for name in names), 0, **facts)


def test_a_rank_is_silent_when_this_one_hears_nothing_of_it(mailbox: Mailbox) -> None:
    """Whatever the time of the file is: here of an hour ago, as a copy from another node may have it."""
    clock = Clock()
    peers = Peers(mailbox, clock)
    new = target("j.2.0", leaving=("j.1.0",))
    report(mailbox, "j.2.0", Phase.READY, generation=0)
    for beat in range(4):
        report(mailbox, "j.1.0", beat=beat)
        os.utime(mailbox.directory / "ranks" / "j.1.0.json", (time.time() - 3600.0,) * 2)
        assert peers.others_train(new)
        clock.now_s += SILENT_S - 1.0
    clock.now_s += 1.0
    assert peers.others_train(new)
    clock.now_s += 0.5
    assert not peers.others_train(new)


def test_a_new_gang_waits_for_ranks_of_which_it_has_not_heard_yet(mailbox: Mailbox) -> None:
    clock = Clock()
    peers = Peers(mailbox, clock)
    new = target("j.2.0", leaving=("j.1.0", "j.1.1"), lost=("j.1.1",))
    report(mailbox, "j.2.0", Phase.READY, generation=0)
    assert peers.others_train(new)
    report(mailbox, "j.1.0", Phase.SAVING)
    assert peers.others_train(new)
    report(mailbox, "j.1.0", Phase.RELEASED)
    assert not peers.others_train(new)
    clock.now_s += 1000.0
    assert peers.others_train(target("j.2.0", leaving=("j.1.5",)))
    clock.now_s += SILENT_S + 0.5
    assert not peers.others_train(target("j.2.0", leaving=("j.1.5",)))  # it never says a word


def test_who_must_leave_may_come_after_the_target(mailbox: Mailbox) -> None:
    clock = Clock()
    peers = Peers(mailbox, clock)
    report(mailbox, "j.2.0", Phase.READY, generation=0)
    assert not peers.others_train(Target(1, target("j.2.0").members, 0))  # the first of all
    assert peers.others_train(target("j.2.0"))
    clock.now_s += SILENT_S - 1.0
    mailbox.post_target(target("j.2.0", leaving=("j.1.0",)))
    assert peers.others_train(target("j.2.0"))
    report(mailbox, "j.1.0", Phase.RELEASED)
    assert not peers.others_train(target("j.2.0"))
    assert peers.others_train(Target(3, target("j.2.0").members, 0))
    clock.now_s += SILENT_S + 1.0
    assert not peers.others_train(Target(3, target("j.2.0").members, 0))  # a controller that does not know the word


def test_ranks_that_nobody_waits_for(mailbox: Mailbox) -> None:
    """The reports of an earlier launch lie about, but the controller says that nobody has to leave."""
    report(mailbox, "j.1.0")
    report(mailbox, "j.2.0", Phase.READY, generation=0)
    assert not Peers(mailbox, Clock()).others_train(target("j.2.0", leaving=()))
    assert not Peers(mailbox, Clock()).others_train(target("j.1.0", "j.2.0", leaving=("j.1.1",)))  # one has the state


def test_all_have_trained_only_when_all_have_said_so(mailbox: Mailbox) -> None:
    """A member whose report is late may still need the others."""
    peers = Peers(mailbox, Clock())
    both = target("j.1.0", "j.1.1")
    report(mailbox, "j.1.0", Phase.DONE, step=9, steps_total=9)
    assert not peers.all_done(both, formed=True)
    report(mailbox, "j.1.1", Phase.READY, generation=0)
    assert not peers.all_done(both, formed=True)
    assert peers.all_done(both)  # for a newcomer: the other one is new, too
    report(mailbox, "j.1.1", Phase.DONE, step=9, steps_total=9)
    assert peers.all_done(both, formed=True)


def test_a_rank_that_forms_another_group_is_not_waited_for(mailbox: Mailbox) -> None:
    """It waits for the first member, which waits for it: with late files neither would move."""
    report(mailbox, "j.1.0", Phase.BROKEN)
    report(mailbox, "j.1.1", Phase.REGROUPING)
    assert Peers(mailbox, Clock()).all_wait(["j.1.0", "j.1.1"])
    report(mailbox, "j.1.1", Phase.COMPUTING)
    assert not Peers(mailbox, Clock()).all_wait(["j.1.0", "j.1.1"])


@pytest.mark.parametrize("ahead_s", [-3600.0, 3600.0])
def test_a_deadlock_is_seen_whatever_the_clocks_say(
    mailbox: Mailbox, ahead_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    gang = SimpleNamespace(
        name="j.1.0",
        mailbox=mailbox,
        generation=1,
        exchanged=-1,
        target=target("j.1.0", "j.1.1"),
        training=SimpleNamespace(position=SimpleNamespace(step=4)),
    )
    watch = StuckWatch(gang)  # type: ignore[arg-type]
    report(mailbox, "j.1.0", Phase.OUTSIDE, step=4)
    report(mailbox, "j.1.1", Phase.SYNCING, step=4, phase_s=time.time() + ahead_s)
    assert watch._who_wait() == []
    now_s += stuck.WAITS_S + 0.1
    assert watch._who_wait() == [1]
    report(mailbox, "j.1.1", Phase.SYNCING, step=4, phase_s=time.time() + ahead_s + 0.5)  # another wait
    assert watch._who_wait() == []
