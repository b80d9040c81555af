"""A rank is killed: the run goes on, repeats at most the step in flight, and ends as if nothing had been."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.elastic.proofs import check
from tests.elastic.supervisor import Supervisor
from tests.slow import ALL, slow


@pytest.mark.parametrize(
    ("fault", "victim"),
    [
        ("forward:5", 0),
        pytest.param("forward:5", 1, marks=slow),
        pytest.param("all-reduce:5", 0, marks=slow),
        ("all-reduce:5", 1),
        ("all-reduce:12", 0),  # the last step of an epoch: some may be in the next one when others must repeat it
        pytest.param("all-reduce:12", 1, marks=slow),
        pytest.param("after-all-reduce:13", 0, marks=slow),  # between two epochs
        ("after-all-reduce:13", 1),
        pytest.param("forward:51", 0, marks=slow),  # the last step of all
        ("forward:51", 1),
        ("finish:0", 0),  # all trained, but perhaps not everywhere
        ("finish:0", 1),
    ],
)
def test_killed_in_training(tmp_path: Path, fault: str, victim: int) -> None:
    with Supervisor(tmp_path) as job:
        names = job.start(3, {victim: fault})
        job.run_out()
        codes = job.codes()
        assert codes.pop(names[victim]) == -9
        assert set(codes.values()) == {0}, job.story()
        check(job, repeats=1)


def test_killed_where_loaders_have_forked(tmp_path: Path) -> None:
    """The workers of four loaders hold copies of every connection: the others see that a rank is gone all the same."""
    with Supervisor(tmp_path, workers=1) as job:
        names = job.start(4)
        job.allow(5)
        job.wait(lambda: min(r.step for r in job.mailbox.reports(names)) >= 5, "some steps")
        job.processes[names[0]].kill()
        job.processes[names[0]].join()
        job.run_out()
        codes = job.codes()
        assert codes.pop(names[0]) == -9
        assert set(codes.values()) == {0}, job.story()
        check(job, repeats=1)


@pytest.mark.parametrize("fault", ["meet:1", "form:1", "share:1", "send:1"])
def test_survivor_killed_in_regroup(tmp_path: Path, fault: str) -> None:
    """The first rank leads, hosts the rendezvous and gives the state away: the worst to lose."""
    with Supervisor(tmp_path) as job:
        names = job.start(2, {0: fault})
        job.allow(6)
        job.post([*names, *job.launch(1)])
        job.wait_killed(names[0])
        job.run_out()
        codes = job.codes()
        assert codes.pop(names[0]) == -9
        assert set(codes.values()) == {0}, job.story()
        check(job, repeats=1)


@pytest.mark.parametrize("fault", ["building:0", "meet:0", "form:0", "receive:0"])
def test_newcomer_killed(tmp_path: Path, fault: str) -> None:
    with Supervisor(tmp_path) as job:
        names = job.start(2)
        job.allow(6)
        new = job.launch(1, fault)
        job.post([*names, *new])
        job.wait_killed(new[0])
        job.run_out()
        codes = job.codes()
        assert codes.pop(new[0]) == -9
        assert set(codes.values()) == {0}, job.story()
        check(job, repeats=1)


def test_killed_while_saving(tmp_path: Path) -> None:
    """No half a checkpoint is left, and the others go on; then all are killed, and others go on from the checkpoint."""
    with Supervisor(tmp_path, checkpoint_s=0.001) as job:
        names = job.start(2, {0: "checkpoint:6"})
        job.allow(20)
        job.wait(lambda: not job.alive(names[0]), "death while saving")
        job.tend()
        job.wait_generation()
        job.wait(lambda: max(r.saved_step for r in job.mailbox.reports(names[1:])) > 10, "another checkpoint")
        job.processes[names[1]].kill()
        job.processes[names[1]].join()
        job.start(2)
        job.run_out()
        check(job, repeats=20)


@pytest.mark.parametrize("at", [0, 6])
def test_killed_while_saving_beside_survivors(tmp_path: Path, at: int) -> None:
    """They go on from what they have, and not from the checkpoint: no more than the step in flight is done again."""
    with Supervisor(tmp_path, checkpoint_s=0.001) as job:
        names = job.start(3, {0: f"checkpoint:{at}"})
        job.allow(20)
        job.wait(lambda: not job.alive(names[0]), "death while saving")
        assert job.processes[names[0]].exitcode == -9  # a thread writes the file: what it last said it did is open
        job.run_out()
        codes = job.codes()
        assert codes.pop(names[0]) == -9
        assert set(codes.values()) == {0}, job.story()
        check(job, repeats=1)


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Kills from outside, whenever; the gang is brought back to three each time."""
    rng = random.Random(11)
    kills = 12 if ALL else 5
    with Supervisor(tmp_path, epochs=10 if ALL else 5, local_batch_max=2) as job:
        job.start(3)
        for _ in range(kills):
            job.allow(job.allowed + rng.randrange(1, 6))
            victim = rng.choice(job.members)
            at = job.allowed - rng.randrange(1, 3)
            job.wait(lambda at=at: max(r.step for r in job.mailbox.reports(job.members)) >= at, "steps")  # type: ignore[misc]
            job.processes[victim].kill()
            job.processes[victim].join()
            job.tend()
            job.rescale([*job.members, *job.launch(3 - len(job.members))])
        job.run_out()
        check(job, repeats=kills)


def test_newcomer_that_comes_too_late(tmp_path: Path) -> None:
    """The gang ends before it can take the newcomer along: the newcomer ends as well, and in order."""
    with Supervisor(tmp_path) as job:
        (first,) = job.start(1)
        late = "job.1.1"
        job.post([first, late])
        job.allow(10**9)
        job.wait(lambda: not job.alive(first), "the end")
        assert job.launch(1) == [late]
        job.run_out()
        assert set(job.codes().values()) == {0}
        check(job)
