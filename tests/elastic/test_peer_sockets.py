"""Whoever holds copies of a connection, its peer sees it end."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from powerflow.elastic import peer_sockets

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
