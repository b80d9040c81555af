"""What a job's user may put into a mailbox, and what the controller makes of it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from powerflow.elastic.mailbox import Mailbox, Member, Switch, Target
from powerflow.osutil.files import MOST_BYTES, read_untrusted_json, replace_json


def test_what_is_posted_is_read(tmp_path: Path) -> None:
    mailbox = Mailbox(tmp_path)
    mailbox.create()
    assert mailbox.target() is None
    target = Target(3, (Member("j.1.0", "n"), Member("j.2.0", "m")), 64, nodes=2, checkpoint_s=5.0)
    mailbox.post_target(target)
    mailbox.post_switch(Switch(target, 17))
    assert mailbox.target() == target
    assert mailbox.switch() == Switch(target, 17)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ranks", "switch.json", "target.json"]


def test_ranks_of_an_earlier_or_a_later_version_can_read_what_is_posted(tmp_path: Path) -> None:
    mailbox = Mailbox(tmp_path)
    mailbox.create()
    target = Target(3, (Member("j.1.0", "n"),), 64, outside_s=900.0)
    mailbox.post_target(target)
    mailbox.post_switch(Switch(target, 17))
    assert (mailbox.target(), mailbox.switch()) == (target, Switch(target, 17))
    words = {"generation", "members", "local_batch_max", "nodes", "checkpoint_s"}  # all that 0.1.0 knows
    posted, switched = read_untrusted_json(tmp_path / "target.json"), read_untrusted_json(tmp_path / "switch.json")
    assert posted is not None
    assert switched is not None
    assert posted.keys() == switched["target"].keys() == words
    replace_json(tmp_path / "target.json", posted | {"of_a_later_version": 1})
    assert mailbox.target() == target


def test_nothing_that_is_no_plain_file_is_opened_for_long(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # would block whoever opens it until somebody writes
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for name in ("fifo", "link", "folder", "socket", "missing"):
            assert read_untrusted_json(tmp_path / name) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"1", b" " * (MOST_BYTES + 1)])
def test_what_is_no_message_is_said_to_be_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "message").write_bytes(content)
    with pytest.raises(ValueError):
        read_untrusted_json(tmp_path / "message")


def test_a_message_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "message"
    replace_json(path, {"a": 1})
    with pytest.raises(TypeError):
        replace_json(path, {"a": object()})
    assert read_untrusted_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["message"]
