"""Inside a whole group only the group itself says when the next generation begins."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from powerflow.elastic import group
from powerflow.elastic.announcement import MOST_STEPS, Announcements
from powerflow.elastic.mailbox import Member, Switch, Target
from tests.elastic.proofs import check
from tests.elastic.supervisor import Supervisor


def test_a_file_does_not_change_a_whole_group(tmp_path: Path) -> None:
    """It may have come from anywhere and at any time: one rank would follow it, and another not."""
    with Supervisor(tmp_path) as job:
        names = job.start(2)
        job.mailbox.post_switch(Switch(Target(7, (Member(names[1], "here"), Member(names[0], "here")), 0), 0))
        job.allow(20)
        job.wait(lambda: min(r.step for r in job.mailbox.reports(names)) >= 18, "some steps")
        assert {report.generation for report in job.mailbox.reports(names)} == {1}
        (tmp_path / "switch.json").unlink()
        job.run_out()
        check(job)


@pytest.fixture
def alone() -> object:
    group.form(HashStore(), 0, 1, cuda=False)
    yield None
    group.close()


TARGET = Target(3, (Member("j.1.0", "n"), Member("j.2.0", "m")), 64, 2, 5.0, 900.0, leaving=("j.1.2",))


def test_a_target_is_the_same_on_the_other_side() -> None:
    assert Target.decode(TARGET.encode()) == TARGET


@pytest.mark.usefixtures("alone")
def test_what_is_sent_before_a_step_is_received_after_it() -> None:
    announcements = Announcements(5)
    assert announcements.receive(0) is None  # none was sent
    assert announcements.is_due(5)
    announcements.send(5, 0, None)
    assert announcements.receive(0) is None
    assert not announcements.is_due(5)
    assert announcements.is_due(6)
    announcements.send(6, 0, TARGET)
    assert announcements.receive(0) == TARGET
    assert announcements.has_arrived
    assert dist.is_initialized()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("step_s", "steps"), [(1.0, 1), (0.0501, 1), (0.0101, 5), (1e-5, MOST_STEPS)])
def test_short_steps_have_a_message_now_and_then(step_s: float, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    announcements = Announcements(0)
    announcements.send(0, 0, None)
    announcements.receive(0)
    now_s += step_s
    announcements.send(1, 0, None)
    announcements.receive(0)
    assert [announcements.is_due(step) for step in (steps, 1 + steps)] == [False, True]
