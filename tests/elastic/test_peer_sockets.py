"""Whoever holds copies of a connection, its peer sees it end."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from powerflow.elastic import group, peer_sockets

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A connection's two ends; the first is ours, and can be inherited as gloo's can."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as peer:
        peer.settimeout(10)
        with peer_sockets.noted():
            ours, _ = server.accept()
            ours.set_inheritable(True)
        with ours:
            yield ours, peer
    peer_sockets.cut()


def test_cut_with_copies_about(ends: Ends) -> None:
    ours, peer = ends
    copy = ours.dup()
    peer_sockets.cut()
    assert peer.recv(1) == b""
    copy.close()


def test_a_forked_child_holds_nothing(ends: Ends) -> None:
    ours, peer = ends
    child = os.fork()
    if not child:
        signal.pause()
    try:
        ours.close()
        assert peer.recv(1) == b""
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_descriptor_used_again_is_left_alone(ends: Ends) -> None:
    ours, _ = ends
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as other:
        os.dup2(other.fileno(), ours.fileno())
        peer_sockets.cut()
        other.send(b"x")  # would fail


def test_a_connection_has_ended_when_its_peer_has_closed_it(ends: Ends) -> None:
    peer = ends[1]
    assert not peer_sockets.ended()
    peer.send(b"x")  # what has not been read yet is no end
    assert not peer_sockets.ended()
    peer.shutdown(socket.SHUT_WR)
    assert peer_sockets.ended()


def test_a_connection_that_gloo_has_closed_has_ended(ends: Ends) -> None:
    ends[0].close()
    assert peer_sockets.ended()


def test_a_group_of_one_rank_has_no_connection_that_ends() -> None:
    group.stand_alone(cuda=False)
    assert not peer_sockets.ended()


def test_no_collective_begins_after_a_connection_has_ended(ends: Ends) -> None:
    calls: list[str] = []
    assert group.lost_before(lambda: calls.append("before")) == ""
    ends[1].close()
    assert group.lost_before(lambda: calls.append("after")) == "the connection to another rank has ended"
    assert calls == ["before"]


def test_looking_leaves_nothing_open() -> None:
    with open(os.devnull), peer_sockets.noted():
        pass
    before = len(os.listdir("/proc/self/fd"))
    with open(os.devnull), peer_sockets.noted():
        pass
    peer_sockets.cut()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_python_opens_meanwhile_is_not_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with peer_sockets.noted():
            peer = socket.create_connection(server.getsockname())
        with peer:
            peer_sockets.cut()
            peer.send(b"x")  # would fail
