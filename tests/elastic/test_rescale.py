"""Runs that rescale end as runs that do not; nothing is lost or trained twice."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

from powerflow.elastic.mailbox import CHECKPOINT_FILE, JOB_DIR, RANK_NAME, Phase
from powerflow.elastic.training import streams
from tests.elastic.proofs import check
from tests.elastic.supervisor import Supervisor
from tests.elastic.test_streams import begin, draw, own_numbers
from tests.slow import ALL


def test_random_rescales(tmp_path: Path) -> None:
    rng = random.Random(5)
    with Supervisor(tmp_path, epochs=12 if ALL else 6, local_batch_max=3) as job:
        members = job.launch(1)
        job.rescale(members)
        sizes = [1]
        for _ in range(20 if ALL else 8):
            size = rng.choice([n for n in (1, 2, 3, 4) if n != sizes[-1]])
            keep = members[:size] if rng.random() < 0.7 else members[-size:]  # at times the leader goes
            members = keep + job.launch(size - len(keep))
            job.rescale(members)
            sizes.append(size)
        job.run_out()
        assert set(job.codes().values()) == {0}, job.story()
        check(job)
        reports = job.mailbox.reports(members)
        assert {report.phase for report in reports} == {Phase.DONE}
        assert all(report.steps_total == job.steps for report in reports)
        gone = [n for n in job.processes if n not in members]
        assert {report.phase for report in job.mailbox.reports(gone)} == {Phase.RELEASED}


def test_scaler_is_handed_over_and_every_rank_draws_its_own_numbers(tmp_path: Path) -> None:
    """2 → 4 → 2, where the two that stay in the end are newcomers."""
    with Supervisor(tmp_path, script="scales") as job:
        names = job.start(2)
        job.allow(10)
        new = job.launch(2)
        job.rescale([*names, *new])
        job.allow(job.allowed + 5)
        job.rescale(new)
        job.run_out()
        assert set(job.codes().values()) == {0}, job.story()
        entries = job.entries("drawn")
    assert {entry["ranks"] for entry in entries} == {2, 4}
    with own_numbers():
        begin(0)
        run = streams.bases()
        for generation in {entry["generation"] for entry in entries}:
            members = [entry for entry in entries if entry["generation"] == generation]
            formed = min(entry["step"] for entry in members)
            for rank in range(members[0]["ranks"]):
                begin(0)  # the first of all goes on with the script's own
                streams.seed(run, formed, rank)
                drawn = sorted((e["step"], e["drawn"]) for e in members if e["rank"] == rank)
                assert drawn == [(step, draw()) for step in range(formed, formed + len(drawn))]
    for step in range(job.steps):
        scale = [1024.0 * 2 ** (step // 7), step % 7]  # every 7 updates it doubles
        here = [entry for entry in entries if entry["step"] == step]
        assert len(here) == here[0]["ranks"]
        assert all(entry["scale"] == scale for entry in here), step
        assert len({entry["drawn"][kind] for entry in here for kind in range(3)}) == 3 * len(here), step


def test_all_leave_and_others_go_on(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as job:
        first = job.start(2)
        job.allow(20)
        job.wait(lambda: min(r.step for r in job.mailbox.reports(first)) >= 18, "some steps")
        job.post([])
        job.drive(lambda: not any(map(job.alive, first)), "all left")
        assert [job.processes[name].exitcode for name in first] == [0, 0]
        assert all(report.phase is Phase.RELEASED for report in job.mailbox.reports(first))
        saved = max(report.saved_step for report in job.mailbox.reports(first))
        job.start(3)
        job.run_out()
        check(job)
        assert 18 <= saved < job.steps


def test_a_full_disk_is_waited_for(tmp_path: Path) -> None:
    """All leave, and nothing but the checkpoint will have their state."""
    with Supervisor(tmp_path) as job:
        names = job.start(2, {0: "full"})
        job.allow(10)
        job.post([])
        job.drive(lambda: not job.alive(names[1]), "the second left")
        job.wait(lambda: "No space left" in job.mailbox.reports(names)[0].note, "a note")
        assert job.mailbox.reports(names)[0].phase is Phase.SAVING
        assert job.alive(names[0])
        assert not (tmp_path / "checkpoint.pt").exists()
        (tmp_path / "room").touch()
        job.wait(lambda: not job.alive(names[0]), "the first left")
        assert set(job.codes().values()) == {0}
        job.start(1)
        job.run_out()
        check(job)


def test_terminated_gang_keeps_its_state(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as job:
        first = job.start(3)
        job.allow(20)
        job.wait(lambda: min(r.step for r in job.mailbox.reports(first)) >= 18, "some steps")
        for name in first:
            os.kill(job.processes[name].pid or 0, signal.SIGTERM)
        job.allow(10**9)
        job.wait(lambda: not any(map(job.alive, first)), "all left")
        assert [job.processes[name].exitcode for name in first] == [0, 0, 0]
        job.start(1)
        job.run_out()
        check(job, repeats=1)


def test_everybody_is_replaced(tmp_path: Path) -> None:
    """A gang that moves as a whole: its state goes by the checkpoint, and not a step is lost."""
    with Supervisor(tmp_path, local_batch_max=2) as job:
        job.start(2)
        job.allow(9)
        job.rescale(job.launch(3))
        job.rescale(job.launch(1))
        job.run_out()
        check(job)


def test_the_checkpoint_lies_where_the_job_says(tmp_path: Path) -> None:
    kept = tmp_path / "home" / "ck" / "checkpoint-job.pt"

    def environment(name: str) -> dict[str, str]:
        return {JOB_DIR: str(tmp_path), RANK_NAME: name, CHECKPOINT_FILE: str(kept)}

    with Supervisor(tmp_path) as job:
        first = job.launch(1, environment=environment("job.1.0"))
        job.post(first)
        job.wait_generation()
        job.allow(5)
        job.rescale(job.launch(1, environment=environment("job.1.1")))
        assert kept.exists()
        assert not job.mailbox.checkpoint.exists()
        job.run_out()
        check(job)


def test_a_target_that_is_overtaken(tmp_path: Path) -> None:
    """The newest target is what counts; a newcomer that it does not name any more leaves."""
    with Supervisor(tmp_path) as job:
        first = job.start(1)
        job.allow(5)
        late = job.launch(2)
        job.post([*first, *late])
        job.wait_ready(late)
        job.rescale([*first, late[0]])
        job.rescale(first)
        job.run_out()
        job.wait(lambda: not any(map(job.alive, late)), "newcomers left")
        assert set(job.codes().values()) == {0}
        check(job)


def test_workers_of_the_loader_persist(tmp_path: Path) -> None:
    with Supervisor(tmp_path, workers=1, local_batch_max=5) as job:
        first = job.start(1)
        job.allow(7)
        job.rescale([*first, *job.launch(1)])
        job.run_out()
        assert set(job.codes().values()) == {0}, job.story()
        check(job)
