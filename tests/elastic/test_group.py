"""Forming a process group: where ranks meet, and what is left of an attempt that failed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from powerflow.elastic import group
from powerflow.elastic.mailbox import Mailbox, Member, Target
from powerflow.errors import InputError


def test_a_failed_attempt_does_not_change_where_the_next_one_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newcomer that was still forming when a peer died meets those that had formed already: under the same name."""
    monkeypatch.setattr(group, "CONNECT_S", 0.1)
    with pytest.raises(RuntimeError) as lost:
        group.form(HashStore(), 0, 2, cuda=False)
    assert group.lost_peer(lost.value)
    group.form(HashStore(), 0, 1, cuda=False)
    try:
        assert dist.distributed_c10d._get_default_group().group_name == "0"
    finally:
        group.close()


def test_an_address_that_is_not_ours_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(group.ADDRESS, "192.0.2.7")
    target = Target(1, (Member("j.1.0", "a"), Member("j.1.1", "b")), 0)
    with pytest.raises(InputError, match="ranks of other nodes cannot meet here"):
        group.meet(group.Rendezvous(Mailbox(tmp_path)), target, 0, lambda: True)


def test_an_interface_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(group.INTERFACE, "eth99")
    with pytest.raises(InputError, match="POWERFLOW_INTERFACE eth99: this machine has no network interface"):
        group._choose_interface()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("lo", None)),
        ({group.ADDRESS: "127.0.0.1"}, ("lo", None)),
        ({group.ADDRESS: "10.0.0.1", group.INTERFACE: "lo"}, ("lo", "lo")),
        ({group.ADDRESS: "10.0.0.1", group.INTERFACE: "lo", "GLOO_SOCKET_IFNAME": "ib0"}, ("ib0", "lo")),
        ({group.ADDRESS: "192.0.2.7"}, (None, None)),
    ],
)
def test_ranks_meet_at_the_interface_of_their_node(
    given: dict[str, str], expected: tuple[str | None, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (group.ADDRESS, group.INTERFACE, "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    group._choose_interface()
    assert (os.environ.get("GLOO_SOCKET_IFNAME"), os.environ.get("NCCL_SOCKET_IFNAME")) == expected


def test_the_interface_of_an_address_is_found() -> None:
    assert group._interface_of("127.0.0.1") == "lo"
    assert group._interface_of("192.0.2.7") == ""
