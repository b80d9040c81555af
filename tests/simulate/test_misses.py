"""What a log itself shows of why no simple model reproduces it, each cause on a log made by hand."""

from __future__ import annotations

import numpy as np

from powerflow.simulate.replay.log import WEEK_S, Log, Match, Reproduction
from powerflow.simulate.replay.misses import misses


def log(*jobs: tuple[float, float, float, int], limits: bool = True) -> Log:
    """Jobs of submission, start, running time and GPUs."""
    submit_s, start_s, run_s, gpus = (np.array(column) for column in zip(*jobs, strict=True))
    return Log(submit_s, run_s, gpus, start_s, run_s if limits else np.full(len(jobs), np.nan))


def model(*errors: float) -> Reproduction:
    """A model that is off by these shares of the mean wait, week by week; the first is that of the whole log."""
    weeks = [Match(i * WEEK_S, 5, 1000.0, 1000.0 * (1 + error), 0.5, 0.5) for i, error in enumerate(errors[1:])]
    return Reproduction("easy", Match(0.0, 10, 1000.0, 1000.0 * (1 + errors[0]), 0.5, 0.5), weeks)


#: On 8 GPUs: the first job takes all of them for 100 s, the second waits for it.
FAIR = [(0.0, 0.0, 100.0, 8), (10.0, 100.0, 50.0, 8)]


def test_a_log_that_is_reproduced_needs_no_reasons() -> None:
    assert misses(log(*FAIR), 8, model(0.05, 0.05)) == []


def test_the_estimate_stands_beside_the_log() -> None:
    assert misses(log(*FAIR), 8, model(0.5, 0.5)) == [
        "mean wait: 16.7 min in the log, 25 min by EASY backfilling; utilisation: 50\u202f% and 50\u202f%"
    ]


def test_jobs_that_waited_although_their_gpus_were_free() -> None:
    """The second job waits 100 s for nobody (of 200 s in all), as six GPUs are free; the third really has to wait."""
    held_back = log((0.0, 0.0, 1000.0, 2), (0.0, 100.0, 900.0, 6), (900.0, 1000.0, 10.0, 8))
    assert any(
        "in 50\u202f% of all waiting time, as many GPUs were free" in words
        for words in misses(held_back, 8, model(1.0, 1.0))
    )
    assert not any("were free" in words for words in misses(log(*FAIR), 8, model(1.0, 1.0)))


def test_another_number_of_gpus() -> None:
    both = log((0.0, 0.0, 100.0, 8), (0.0, 50.0, 100.0, 8))
    (words,) = [words for words in misses(both, 8, model(1.0, 1.0)) if "at once" in words]
    assert words.startswith(
        "jobs of the log hold up to 16 GPUs at once, but the cluster has 8 (exceeded in 33.3\u202f%"
    )
    (words,) = [words for words in misses(log(*FAIR), 64, model(1.0, 1.0)) if "at once" in words]
    assert words.startswith("jobs of the log never hold more than 8 of 64 GPUs at once")


def test_a_first_week_without_what_ran_before() -> None:
    assert any(
        "the first week is off by 90\u202f%" in words for words in misses(log(*FAIR), 8, model(0.4, 0.9, 0.01, 0.02))
    )
    assert not any("first week" in words for words in misses(log(*FAIR), 8, model(0.4, 0.9, 0.5, 0.6)))


def test_a_log_without_time_limits() -> None:
    assert "add Timelimit to sacct -o" in misses(log(*FAIR, limits=False), 8, model(1.0, 1.0))[-1]
