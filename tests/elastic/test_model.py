"""Models that change while they are trained, or that look at the local batch as a whole."""

from __future__ import annotations

from pathlib import Path

from tests.elastic.proofs import check_equal
from tests.elastic.supervisor import Supervisor
from tests.elastic.trainee import STEPS_PER_EPOCH


def test_thawed_parameters_are_trained_together(tmp_path: Path) -> None:
    """By a gang that stood when they were thawed, and by a newcomer that began with them frozen."""
    with Supervisor(tmp_path, script="thaws") as job:
        names = job.start(2)
        job.allow(2 * STEPS_PER_EPOCH + 3)
        job.wait(lambda: min(r.step for r in job.mailbox.reports(names)) > 2 * STEPS_PER_EPOCH, "the third epoch")
        job.rescale([*names, *job.launch(1)])
        job.run_out()
        assert set(job.codes().values()) == {0}, job.story()
        check_equal(job)


def test_a_newcomer_that_was_built_otherwise_says_so_in_one_line(tmp_path: Path) -> None:
    with Supervisor(tmp_path, script="grows") as job:
        names = job.start(1)
        job.allow(STEPS_PER_EPOCH + 3)
        job.wait(lambda: job.mailbox.reports(names)[0].step > STEPS_PER_EPOCH, "the second epoch")
        new = job.launch(1)
        job.post([*names, *new])
        job.drive(lambda: not job.alive(new[0]), "the newcomer's end")
        job.run_out()
        assert job.codes() == {names[0]: 0, new[0]: 1}, job.story()
        last = (tmp_path / "log" / f"{new[0]}.err").read_text().splitlines()[-1]
        assert "this rank has built other objects than the other ranks: state of SGD" in last
        assert "parameter group" in last


def test_batch_normalisation_is_never_given_one_sample(tmp_path: Path) -> None:
    with Supervisor(tmp_path, script="normalises") as job:
        names = job.start(1)
        job.allow(5)
        job.rescale([*names, *job.launch(4)])
        job.run_out()
        assert set(job.codes().values()) == {0}, job.story()
        assert min(entry["samples"] for entry in job.entries("pass")) == 2
