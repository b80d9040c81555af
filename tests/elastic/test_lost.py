"""Ranks that nobody reaches: the others go on, and what comes back changes nothing."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from powerflow.elastic import group, peer_sockets
from powerflow.elastic.lost import LostWatch
from powerflow.elastic.mailbox import Mailbox, Member, Phase, Target
from powerflow.elastic.state import load
from tests.elastic.nodes import Nodes
from tests.elastic.proofs import check

Ends = tuple[socket.socket, socket.socket]


@pytest.mark.parametrize("victim", [0, 2])
def test_the_others_go_on_without_a_rank_that_is_silent(tmp_path: Path, victim: int) -> None:
    """A stopped process closes no connection, as a pulled cable does not. Later it saves nothing over their state."""
    with Nodes(tmp_path, 3, delay_s=0.05, checkpoint_s=0.05) as job:
        names = job.start(3)
        job.allow(8)
        job.wait(lambda: min(r.step for r in job.mailbox.reports(names)) >= 7, "some steps")
        gone = names[victim]
        os.kill(job.processes[gone].pid or 0, signal.SIGSTOP)
        job.allow(job.allowed + 4)
        rest = [name for name in names if name != gone]
        job.post(rest, lost=[gone])
        job.drive(job.in_generation, "the others go on")  # gloo alone would wait for an hour
        job.allow(job.allowed + 4)
        job.drive(lambda: min(r.saved_step for r in job.mailbox.reports(rest[:1])) >= 10, "a checkpoint")
        kept = load(job.mailbox.checkpoint)
        assert kept is not None
        os.kill(job.processes[gone].pid or 0, signal.SIGTERM)
        os.kill(job.processes[gone].pid or 0, signal.SIGCONT)
        job.wait(lambda: not job.alive(gone), "the lost one leaves")
        job.wait(lambda: job.mailbox.reports([gone])[0].phase is Phase.RELEASED, "its report")
        job.run_out()
        assert set(job.codes().values()) == {0}, job.story()
        check(job, repeats=1)


@pytest.mark.parametrize("place", ["forward", "backward", "announce"])
def test_a_rank_that_goes_on_before_gloo_has_seen_that_it_is_alone_leaves(tmp_path: Path, place: str) -> None:
    """Rank 0 sends to the others. gloo would never give up a message that it cannot write to a closed connection."""
    with Nodes(tmp_path, 3, delay_s=0.05) as job:
        names = job.start(3, {0: f"stop-{place}:4"})
        pid = job.processes[names[0]].pid or 0
        job.drive(lambda: is_stopped(pid), "rank 0 stops itself")
        job.allow(job.allowed + 4)
        job.post(names[1:], lost=names[:1])
        job.drive(job.in_generation, "the others go on")
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)
        job.wait(lambda: not job.alive(names[0]), "the lost one leaves")
        job.run_out()
        assert set(job.codes().values()) == {0}, job.story()
        check(job, repeats=1)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.fixture
def ends() -> Iterator[Ends]:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as peer:
        peer.settimeout(0.05)
        with peer_sockets.noted():
            ours, _ = server.accept()
            ours.set_inheritable(True)
        with ours:
            yield ours, peer
    peer_sockets.cut()


def cut_by(watch: LostWatch, peer: socket.socket) -> bool:
    watch.look()
    try:
        return peer.recv(1) == b""
    except TimeoutError:
        return False


def test_only_a_later_target_without_a_peer_of_this_group_cuts_it(ends: Ends, tmp_path: Path) -> None:
    mailbox = Mailbox(tmp_path)
    members = (Member("j.1.0", "a"), Member("j.1.1", "b"))
    gang = SimpleNamespace(mailbox=mailbox, whole=True, target=Target(4, members, 0))
    watch = LostWatch(gang)  # type: ignore[arg-type]
    assert not cut_by(watch, ends[1])
    for target in (
        Target(5, members, 0),  # nobody is lost
        Target(5, members[:1], 0, lost=("j.1.7",)),  # somebody else is
        Target(4, members, 0, lost=("j.1.1",)),  # of an earlier time
    ):
        mailbox.post_target(target)
        assert not cut_by(watch, ends[1])
    (tmp_path / "patience.json").write_text("{")
    assert not cut_by(watch, ends[1])
    gang.whole = False  # it forms a group, perhaps a later one
    mailbox.post_target(Target(5, members[:1], 0, lost=("j.1.1",)))
    assert not cut_by(watch, ends[1])
    gang.whole = True
    assert cut_by(watch, ends[1])


def test_the_sockets_of_the_next_group_are_left_alone(ends: Ends) -> None:
    """The other thread may form a group just when this one has decided to cut the last."""
    old = peer_sockets.current()
    peer_sockets.cut()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as peer:
        peer.settimeout(0.05)
        with peer_sockets.noted():
            ours, _ = server.accept()
            ours.set_inheritable(True)
        with ours:
            group.abandon(old)
            with pytest.raises(TimeoutError):
                peer.recv(1)


def test_nccl_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    aborted = []
    backend = SimpleNamespace(abort=lambda: aborted.append(True))
    default = SimpleNamespace(_get_backend=lambda device: backend if device.type == "cuda" else None)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_group", lambda: default)
    group.abandon(set())
    assert aborted == [True]


def test_the_scripts_thread_may_close_the_group_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the thread that reports would end."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    group.abandon(set())
