"""Ranks on nodes that share no mailbox, and whose files come late and out of order, train as those of one machine."""

from __future__ import annotations

import os
import random
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from powerflow.elastic.mailbox import Phase
from powerflow.testing.hosts import Hosts, why_not
from tests.elastic import supervisor
from tests.elastic.nodes import Nodes
from tests.elastic.proofs import check, check_equal
from tests.slow import ALL, slow

on_hosts = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "DEADLINE_S", 90.0)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that all hosts have, as of a file server."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


def test_rescales_with_a_mailbox_per_node(tmp_path: Path) -> None:
    rng = random.Random(2)
    with Nodes(tmp_path, 3, delay_s=0.3, epochs=16 if ALL else 8, local_batch_max=3) as job:
        members = job.start(2)
        for size in (3, 1, 3, 2, 4, 2, 1, 3) if ALL else (3, 1, 4, 2):
            # at times the leader goes, and once all
            keep = [] if size == 4 else members[:size] if rng.random() < 0.6 else members[-size:]
            members = keep + job.launch(size - len(keep))
            job.rescale(members)
        job.run_out()
        assert set(job.codes().values()) == {0}, job.story()
        check(job)


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=slow)])
def test_a_loss_with_a_mailbox_per_node(tmp_path: Path, victim: int) -> None:
    with Nodes(tmp_path, 3, delay_s=0.3) as job:
        names = job.start(3, {victim: "all-reduce:5"})
        job.wait_killed(names[victim])
        job.tend()
        job.allow(job.allowed + 5)
        job.drive(job.in_generation, "the next generation")
        job.rescale([*job.members, *job.launch(1)])
        job.run_out()
        codes = job.codes()
        assert codes.pop(names[victim]) == -9
        assert set(codes.values()) == {0}, job.story()
        check(job, repeats=1)


@slow
def test_a_change_does_not_wait_for_files(tmp_path: Path) -> None:
    """They take seconds here; ranks that train do not stop for them."""
    with Nodes(tmp_path, 3, delay_s=4.5, least_s=4.0, epochs=9000) as job:
        first, second = job.start(2)
        job.allow(10**9)
        for members in ([first, second, job.launch_on(3)], [second], [second, job.launch_on(1)]):
            before = [name for name in members if (r := job.report(name)) is not None and r.generation]
            job.post(members)
            job.wait(job.in_generation, "the next generation")
            assert max(job.mailbox.reports([name])[0].pause_s for name in before) < 3.5, members
        job.post([])
        job.wait(lambda: not any(map(job.alive, job.processes)), "the end")
        assert set(job.codes().values()) == {0}, job.story()
        check_equal(job)


@on_hosts
def test_three_hosts(tmp_path: Path, shared: Path) -> None:
    """Shrink, grow, a kill: every sample once, all ranks equal."""
    with Hosts(3, tmp_path) as hosts, Nodes(shared, 3, delay_s=1.0, hosts=hosts, epochs=6) as job:
        first, second, third = job.start(3)
        job.allow(5)
        job.rescale([first, third])
        job.allow(job.allowed + 3)
        fourth = job.launch_on(2)
        job.rescale([third, fourth, job.launch_on(1)])  # the leader goes
        job.allow(job.allowed + 3)
        job.processes[third].kill()
        job.wait(lambda: not job.alive(third), "the kill")
        job.tend()
        job.drive(job.in_generation, "two are left")
        job.run_out()
        codes = job.codes()
        assert codes.pop(third) == -9
        assert set(codes.values()) == {0}, job.story()
        assert codes.keys() == {first, second, fourth, *job.members}
        check(job, repeats=1)


@on_hosts
@pytest.mark.parametrize("victim", [0, pytest.param(2, marks=slow)])
def test_a_host_is_cut_off_and_comes_back(tmp_path: Path, shared: Path, victim: int) -> None:
    """The others go on; those behind the cut wait, never train alone, and leave when they hear what has happened."""
    with Hosts(3, tmp_path) as hosts, Nodes(shared, 3, delay_s=1.0, hosts=hosts, checkpoint_s=0.2) as job:
        names = job.start(3)
        job.allow(8)
        job.wait(lambda: min(r.step for r in job.mailbox.reports(names)) >= 7, "some steps")
        gone = names[victim]
        node = job.at[gone]
        job.cut(node)
        rest = [name for name in names if name != gone]
        job.allow(job.allowed + 4)
        job.post(rest, lost=[gone])
        job.drive(job.in_generation, "the others go on")
        job.allow(job.allowed + 4)
        job.drive(lambda: min(r.step for r in job.mailbox.reports(rest)) >= 12, "steps of the others")
        assert job.alive(gone)  # no harm is done to it
        assert max(e["step"] for e in job.entries("state") if e["name"] == gone) <= 9
        job.mend(node)
        job.wait(lambda: not job.alive(gone), "the lost one leaves")
        report = job.report(gone)
        assert report is not None
        job.wait(lambda: (found := job.report(gone)) is not None and found.phase is Phase.RELEASED, "its last report")
        job.rescale([*rest, job.launch_on(node)])
        job.run_out()
        assert set(job.codes().values()) == {0}, job.story()
        check(job, repeats=1)


@on_hosts
@slow
def test_a_power_cut(tmp_path: Path, shared: Path) -> None:
    """No connection is closed; the checkpoint and a newcomer on the host after its boot go on."""
    with Hosts(2, tmp_path) as hosts, Nodes(shared, 2, delay_s=0.5, hosts=hosts) as job:
        first, second = job.start(2)
        job.allow(8)
        job.wait(lambda: min(r.step for r in job.mailbox.reports([first, second])) >= 7, "some steps")
        hosts.crash(1)
        job.allow(job.allowed + 4)
        job.post([second], lost=[first])
        job.drive(job.in_generation, "the other goes on")
        hosts.boot(1)
        job.rescale([second, job.launch_on(1)])
        job.run_out()
        codes = job.codes()
        assert codes.pop(first) == -9
        assert set(codes.values()) == {0}, job.story()
        check(job, repeats=1)
        check_equal(job)


@pytest.mark.parametrize("seed", [pytest.param(1, marks=slow), pytest.param(2, marks=slow)])
def test_faults_in_any_order(tmp_path: Path, seed: int) -> None:
    """Ranks come, go, are killed, and are not reached for a while, whatever the others are at."""
    rng = random.Random(seed)
    with Nodes(tmp_path, 3, delay_s=0.4, epochs=60, local_batch_max=3, checkpoint_s=0.3, seed=seed) as job:
        members = job.start(2)
        hidden: list[str] = []
        hurt = 0
        for _ in range(12):
            kind = rng.choice(["grow", "grow", "shrink", "kill", "hide", "show"])
            if kind == "grow" and len(members) < 4:
                members = [*members, *job.launch(1)]
                job.post(members, lost=hidden)
                if rng.random() < 0.7:  # otherwise the next thing happens on the way
                    job.wait_ready(members)
                    job.drive(job.in_generation, "a larger gang")
            elif kind == "shrink" and len(members) > 1:
                members = members[1:] if rng.random() < 0.5 else members[:-1]
                job.post(members, lost=hidden)
            elif kind == "kill" and len(members) > 1:
                hurt += 1
                victim = rng.choice(members)
                job.processes[victim].kill()
                members = [name for name in members if name != victim]
                job.post(members, lost=[*hidden, victim])
            elif kind == "hide" and len(members) > 1:
                hurt += 1
                victim = rng.choice(members)
                os.kill(job.processes[victim].pid or 0, signal.SIGSTOP)
                hidden.append(victim)
                members = [name for name in members if name != victim]
                job.post(members, lost=hidden)
            elif kind == "show" and hidden:
                os.kill(job.processes[hidden.pop()].pid or 0, signal.SIGCONT)
            job.allow(job.allowed + rng.randrange(4))
            if rng.random() < 0.6 and all(r.generation for r in job.mailbox.reports(members)):
                job.wait_ready(members)
                job.drive(job.in_generation, f"the gang after {kind}")
        job.wait_ready(members)
        job.drive(job.in_generation, "the last gang")
        for name in hidden:
            os.kill(job.processes[name].pid or 0, signal.SIGCONT)
        job.run_out()
        assert {code for code in job.codes().values() if code != -signal.SIGKILL} == {0}, job.story()
        check(job, repeats=hurt + 12)
