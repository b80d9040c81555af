"""Jobs get models whose power is near the measured one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from powerflow.simulate.poc.families import WIDTH, FamilyChooser, likelihood
from powerflow.trace.record import Trace, TraceJob


def jobs(*users: str, gpus: int = 1) -> tuple[TraceJob, ...]:
    return tuple(TraceJob(str(i), 10.0 * i, 60.0, gpus, user=user, name="train") for i, user in enumerate(users))


def chosen(all_jobs: tuple[TraceJob, ...], power_w: list[float], draws: int = 50) -> list[list[str | None]]:
    """Return the families of all jobs in each draw."""
    chooser = FamilyChooser(Trace("by hand", "test", all_jobs), np.array(power_w), "A100", 8)
    positions = list(range(len(all_jobs)))
    return [[job.model for job in chooser.chosen(all_jobs, positions, [5, draw])] for draw in range(draws)]


def test_likelihood_by_hand() -> None:
    odds = likelihood(300.0, np.array([300.0, 300.0 * math.exp(WIDTH), 30.0]))
    assert odds[:2] == pytest.approx([1.0, math.exp(-0.5)])
    assert odds[2] < 1e-20


def test_a_gpu_of_60_w_trains_ncf_and_one_of_350_w_does_not() -> None:
    low = {name for row in chosen(jobs("ada"), [62.0]) for name in row}
    high = {name for row in chosen(jobs("ada"), [350.0]) for name in row}
    assert low == {"ncf"}
    assert "ncf" not in high
    assert len(high) > 5, "many families draw as much: none of them is certain"


def test_something_is_chosen_where_no_family_is_near() -> None:
    assert {name for row in chosen(jobs("ada"), [1.0]) for name in row} == {"ncf"}


def test_a_job_without_measurement_is_like_others_of_its_user() -> None:
    rows = chosen(jobs("ada", "bob", "ada", "bob", "eve"), [62.0, 350.0, math.nan, math.nan, math.nan])
    assert {row[2] for row in rows} == {"ncf"}
    assert "ncf" not in {row[3] for row in rows}
    assert "ncf" in {row[4] for row in rows}, "of nobody known: like any measured job"
    assert {row[4] for row in rows} - {"ncf"}


def test_jobs_of_one_name_that_draw_alike_have_one_family_in_a_draw() -> None:
    rows = chosen(jobs("ada", "ada", "ada"), [350.0, 350.0, math.nan])
    assert all(len(set(row)) == 1 for row in rows)
    assert len({row[0] for row in rows}) > 3


def test_what_the_log_names_stays() -> None:
    (job,) = jobs("ada")
    assert chosen((replace(job, model="bert"),), [62.0], draws=2) == [["bert"], ["bert"]]


def test_a_family_scales_to_the_gpus_of_the_job() -> None:
    assert "yolov3" not in {row[0] for row in chosen(jobs("ada", gpus=32), [250.0])}
