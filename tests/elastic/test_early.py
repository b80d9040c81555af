"""A script that stops before its last epoch has come to a good end, unless an error stopped it."""

from __future__ import annotations

from pathlib import Path

import pytest

from powerflow.elastic.mailbox import Phase
from tests.elastic.supervisor import Supervisor
from tests.elastic.trainee import STEPS_PER_EPOCH

TWO_EPOCHS = 2 * STEPS_PER_EPOCH


@pytest.mark.parametrize("script", ["stops_early", "stops_early_behind_a_bar"])
def test_stopping_early_is_an_end(tmp_path: Path, script: str) -> None:
    with Supervisor(tmp_path, script=script) as job:
        names = job.start(2)
        job.run_out()
        assert set(job.codes().values()) == {0}, job.story()
        for report in job.mailbox.reports(names):
            assert (report.phase, report.step, report.steps_total) == (Phase.DONE, TWO_EPOCHS, TWO_EPOCHS)
        assert all(entry["phase"] == "done" for entry in job.entries("end"))  # already when the loop was left


def test_newcomers_do_not_wait_for_those_that_stopped(tmp_path: Path) -> None:
    """Neither one that is ready when they stop, nor one that was told where to go over to, nor one that comes later."""
    with Supervisor(tmp_path, script="stops_early") as job:
        (first,) = job.start(1)
        job.allow(TWO_EPOCHS - 1)
        job.wait(lambda: job.mailbox.reports([first])[0].step == TWO_EPOCHS - 1, "the last step but one")
        new = job.launch(1)
        job.wait_ready(new)
        job.post([first, *new])
        job.allow(10**9)
        job.wait(lambda: not job.alive(first), "the end")
        late = job.launch(1)
        job.post([first, *new, *late])
        job.run_out()
        assert set(job.codes().values()) == {0}, job.story()
        assert {report.phase for report in job.mailbox.reports([*new, *late])} == {Phase.RELEASED}


def test_an_error_is_no_end(tmp_path: Path) -> None:
    with Supervisor(tmp_path, script="fails") as job:
        (name,) = job.start(1)
        job.allow(10**9)
        assert job.codes() == {name: 1}
        (report,) = job.mailbox.reports([name])
        assert (report.phase, report.steps_total) == (Phase.COMPUTING, None)
        assert "ValueError: a mistake" in job.story()
