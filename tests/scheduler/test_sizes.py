"""What is expected of the sizes of jobs, from the jobs that have completed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from powerflow.job import Job
from powerflow.policy.protocol import JOB, JobRows
from powerflow.scheduler.events import Completed, CompletedEarlier, SizeLearned, Submitted
from powerflow.scheduler.sizes import learner
from powerflow.scheduler.sizes.kernel import gittins_sizes, raise_by_active
from powerflow.scheduler.sizes.learner import SizeLearner
from tests.scheduler.situations import SchedulerDriver, job, submitted
from tests.slow import examples

COUNTS = np.array([1, 2, 4])
#: Class 0: 8, 5, 4 s an iteration on 1, 2, 4 GPUs. Class 1 cannot run on one GPU. Class 2 can run on none.
STEP_S = np.array([[[8.0], [5.0], [4.0]], [[np.inf], [3.0], [2.0]], [[np.inf]] * 3])


class Told:
    """Expected sizes of jobs that come and go, each in its own slot."""

    def __init__(self) -> None:
        self.sizes = SizeLearner()
        self.rows: JobRows = np.zeros(0, JOB)

    def enter(self, *, iterations_done: float = 0.0, **fields: Any) -> int:
        slot = len(self.rows)
        job, row = described(iterations_done, **fields)
        self.sizes.enter(slot, job)
        self.rows = np.concatenate([self.rows, row])
        return slot

    def complete(self, iterations: float, **fields: Any) -> None:
        job, row = described(**fields)
        self.sizes.completed(job, int(row["cost"][0]), iterations, COUNTS, STEP_S)

    def expected(self, *slots: int) -> tuple[list[float], list[float]]:
        chosen = np.array(slots, np.int64)
        size, log_sd = self.sizes.expected(chosen, self.rows[chosen], COUNTS, STEP_S)
        return size.tolist(), log_sd.tolist()


def described(done: float = 0.0, *, gpus: int = 1, kind: int = 0, **more: Any) -> tuple[Job, JobRows]:
    row = np.zeros(1, JOB)
    row["requested"], row["gpus_min"], row["cost"], row["done"] = gpus, 1, kind, done
    return Job("job", 0.0, f"class {kind}", 1.0, gpus, **more), row


def expected(told: Told, *slots: int) -> list[float]:
    return told.expected(*slots)[0]


def gittins(medians: list[float], sds: list[float], shares: list[float], done: float) -> float:
    size, log_sd = np.empty(1), np.empty(1)
    gittins_sizes(
        np.log(medians)[:, None],
        np.array(sds),
        np.array(shares),
        np.array([done]),
        size,
        log_sd,
        np.empty((3, len(sds))),
    )
    return float(size[0])


# -- the index --------------------------------------------------------------------------------------------------------


def test_a_certain_size_leaves_the_remaining_work() -> None:
    # two standard deviations above the median, the last limit that is tried, 98 % have ended: 100/0.977
    assert gittins([100.0], [1e-3], [1.0], 0.0) == pytest.approx(100.0, rel=0.03)
    assert gittins([100.0], [1e-3], [1.0], 40.0) == pytest.approx(60.0, rel=0.03)


def test_a_job_is_short_or_long_with_known_chances() -> None:
    # Half of the jobs need 10, half 90. Up to 10: (10 + 10)/1 = 20 per job ended; to the end: (10 + 90)/2 = 50.
    # After 10 it is one of the long ones: 80 are left (a little after 10, none of the short ones is left).
    assert gittins([10.0, 90.0], [1e-3, 1e-3], [0.5, 0.5], 0.0) == pytest.approx(20.0, rel=0.03)
    assert gittins([10.0, 90.0], [1e-3, 1e-3], [0.5, 0.5], 10.1) == pytest.approx(79.9, rel=0.03)
    # One in ten needs 10: up to 10 it costs 100 per job ended, to the end 82.
    assert gittins([10.0, 90.0], [1e-3, 1e-3], [0.1, 0.9], 0.0) == pytest.approx(82.0, rel=0.03)


def test_a_job_that_outlived_all_expectations_needs_as_much_again() -> None:
    assert gittins([10.0], [0.05], [1.0], 500.0) == 500.0


@settings(max_examples=examples(50), deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
@example(seed=6785)  # 1.4 % of the jobs left are of the second component
def test_the_index_against_a_sample(seed: int) -> None:
    """The least cost per ended job among the same three limits of each component, from 200,000 drawn sizes.

    A component of which less than 5 % of the jobs are left has no part in it; where that is close, nothing is compared.
    """
    rng = np.random.default_rng(seed)
    medians, sds = rng.uniform(10, 1000, 2), rng.uniform(0.1, 1.5, 2)
    done = float(rng.choice([0.0, 5.0, 50.0]))
    drawn = np.exp(np.log(medians)[:, None] + sds[:, None] * rng.standard_normal((2, 200_000)))
    left = [part[part > done] for part in (drawn[0], drawn[1, :100_000])]  # shares 2/3 and 1/3
    shares = np.array([len(part) for part in left]) / max(sum(len(part) for part in left), 1)
    assume(not ((shares > 0.04) & (shares < 0.06)).any())
    told = np.flatnonzero(shares > 0.05)
    drawn = np.concatenate([left[k] for k in told] or left)
    limits = [medians[k] * math.exp(z * sds[k]) for k in told for z in (-1.0, 0.5, 2.0)]
    enough = 0.05 * len(drawn)
    costs = [(np.minimum(drawn, b) - done).sum() / (drawn <= b).sum() for b in limits if (drawn <= b).sum() > enough]
    if len(drawn) > 20_000 and costs:
        assert gittins(medians.tolist(), sds.tolist(), [2 / 3, 1 / 3], done) <= min(costs) * 1.05


# -- what is learnt ---------------------------------------------------------------------------------------------------


def test_at_first_all_jobs_last_as_long_on_what_they_requested() -> None:
    # One GPU: T seconds are T GPU-s. Two: 5 s an iteration there, 8 GPU-s alone: T·8/5. Class 1: at least two GPUs.
    told = Told()
    one, two, only_two = told.enter(), told.enter(gpus=2), told.enter(kind=1)
    size = expected(told, one, two, only_two, told.enter(kind=2))
    assert size[1] / size[0] == pytest.approx(8 / 5)
    assert size[2] / size[0] == pytest.approx(2.0)
    assert size[3] == math.inf


def test_a_job_lasts_as_long_as_the_one_before_with_the_same_request() -> None:
    """A job array: the lengths of arrays differ by a factor of a hundred, those within an array do not."""
    told, rng = Told(), np.random.default_rng(1)
    for _ in range(12):
        iterations = float(np.exp(rng.uniform(2, 7)))
        for _ in range(5):
            told.complete(iterations)
    told.complete(50.0)
    assert expected(told, told.enter()) == [pytest.approx(50 * 8.0, rel=0.5)]


def test_the_project_the_class_or_the_name_tells_the_size() -> None:
    for more in ({"project": "{}"}, {"kind": "{}"}, {"name": "{}"}):
        told, rng = Told(), np.random.default_rng(2)
        (field, _), *_ = more.items()
        values: list[Any] = [0, 1] if field == "kind" else ["a", "b"]
        for _ in range(60):
            which = int(rng.integers(2))
            told.complete((10.0, 1000.0)[which] * float(np.exp(0.1 * rng.standard_normal())), **{field: values[which]})
        short, long = (told.enter(**{field: value}) for value in values)
        size = expected(told, short, long)
        assert 30 < size[1] / size[0] < 300, field


def test_where_nothing_tells_sizes_they_are_uncertain() -> None:
    told, rng = Told(), np.random.default_rng(3)
    for _ in range(200):
        told.complete(float(np.exp(5 + 2 * rng.standard_normal())))
    sure = Told()
    for _ in range(200):
        sure.complete(150.0)
    _, (vague,) = told.expected(told.enter())
    _, (certain,) = sure.expected(sure.enter())
    assert vague > 2.0
    assert certain < math.hypot(0.7, learner.DOUBT)


def test_a_job_that_outlived_the_prediction_is_expected_to_last_much_longer() -> None:
    told = Told()
    for _ in range(50):
        told.complete(10.0)
    new, near_end, outlived = told.enter(), told.enter(iterations_done=9.0), told.enter(iterations_done=30.0)
    ((fresh,), (ending,), (late,)) = (expected(told, slot) for slot in (new, near_end, outlived))
    assert ending < fresh == pytest.approx(80.0, rel=0.2)
    assert late > 2 * fresh


def test_those_that_wait_are_not_shorter_than_their_fellows_that_run() -> None:
    """An array that lasts longer than the last one: nobody must stop those that run in favour of the rest."""
    told = Told()
    for _ in range(50):
        told.complete(10.0)
    running, other, waiting = told.enter(iterations_done=30.0), told.enter(iterations_done=29.0), told.enter()
    size = expected(told, running, other, waiting)
    assert max(size[:2]) < size[2]


def test_raised_by_the_longest_run_of_others() -> None:
    center, group = np.array([1.0, 1.0, np.nan, 9.0, 1.0]), np.array([0, 0, 0, 0, -1])
    raise_by_active(center, group, np.zeros(5), np.array([5.0, 3.0, 0.0, 2.0, 7.0]), np.empty((2, 1)))
    assert center.tolist() == [3.0, 5.0, 5.0, 9.0, 1.0]  # the first sees the second longest; the last has no group


def test_a_job_that_can_run_nowhere_does_not_hide_the_run_of_another() -> None:
    center = np.array([1.0, 1.0])
    raise_by_active(center, np.array([0, 0]), np.zeros(2), np.array([5.0, np.nan]), np.empty((2, 1)))
    assert center.tolist() == [1.0, 5.0]


def test_a_way_that_told_nothing_for_long_is_found_again() -> None:
    told, rng = Told(), np.random.default_rng(0)
    for iterations in np.exp(rng.normal(5.0, 2.0, 10_000)).tolist():
        told.complete(iterations)
    for iterations in np.exp(rng.normal(5.0, 2.0, 25)).tolist():
        for _ in range(20):  # job arrays: each job lasts as long as the one before
            told.complete(iterations)
    # 50 iterations of 8 s, each like the last: of all jobs, not one in fifty is within a tenth of that
    told.complete(50.0)
    (size,) = expected(told, told.enter())
    assert size == pytest.approx(50 * 8.0, rel=0.3)


def test_impossible_numbers_are_passed_over() -> None:
    told = Told()
    for iterations in (0.0, -1.0, math.nan, math.inf, 1e300):
        told.complete(iterations)
    told.complete(10.0, kind=2)  # it could not run at all
    fresh = Told()
    assert told.expected(told.enter()) == fresh.expected(fresh.enter())


def test_with_too_many_groups_of_a_kind_its_groups_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "MOST_GROUPS", 8)
    told = Told()
    for number in range(100):
        told.complete(10.0, name=f"n{number}")
    assert expected(told, told.enter(name="n99")) == [pytest.approx(80.0, rel=0.3)]
    assert all(len(index) <= 8 for index in told.sizes._index)


def test_jobs_that_are_alike_are_expected_to_be_alike() -> None:
    """They are computed once, whoever else waits; those that have run are computed each for itself."""
    told, rng = Told(), np.random.default_rng(4)
    for _ in range(30):
        told.complete(float(rng.lognormal(3, 1)), gpus=int(rng.choice([1, 2, 4])), project="ab"[rng.integers(2)])
    kinds: list[dict[str, Any]] = [{"gpus": gpus, "project": project} for gpus in (1, 2, 4) for project in "ab"] * 3
    slots = [told.enter(**kind) for kind in kinds]
    ran = [told.enter(iterations_done=done, **kinds[0]) for done in (1.0, 2.0)]
    size = expected(told, *slots, *ran)
    assert size[:6] == size[6:12] == size[12:18]
    assert len(set(size[:6])) == 6
    assert size[:6] == expected(told, *slots[:6], *ran)[:6]
    assert len({size[0], *size[18:]}) == 3


@settings(max_examples=examples(60), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), jobs=st.integers(1, 80))
def test_sizes_are_positive_and_the_same_for_the_same_past(seed: int, jobs: int) -> None:
    answers = []
    for _ in range(2):
        told, rng = Told(), np.random.default_rng(seed)
        for _ in range(jobs):
            told.complete(
                float(np.exp(rng.normal(3, 3))),
                gpus=int(rng.integers(1, 9)),
                kind=int(rng.integers(2)),
                name="ab"[: rng.integers(3)],
            )
        active = [
            told.enter(iterations_done=float(rng.choice([0, 1, 1e6])), kind=int(rng.integers(3))) for _ in range(9)
        ]
        answers.append(told.expected(*active))
    assert answers[0] == answers[1]
    size, log_sd = map(np.array, answers[0])
    assert (size > 0).all()
    assert (np.isfinite(log_sd) & (log_sd > 0)).all()


# -- in the scheduler -------------------------------------------------------------------------------------------------


def ranked_by(driver: SchedulerDriver) -> list[tuple[float, float]]:
    jobs = driver.scheduler.view(driver.scheduler.pools["A100"], 100.0).jobs
    return list(zip(jobs["expected_gpu_s"].tolist(), jobs["size_log_sd"].tolist(), strict=True))


def guess(name: str, **more: Any) -> Submitted:
    return replace(submitted(name, **more), guessed=True)


def test_only_a_size_that_nobody_said_is_expected() -> None:
    driver = SchedulerDriver("prices")
    driver.at(0, submitted("said"), guess("guessed"), replace(submitted("unknown"), believed_iterations=None))
    said, *others = ranked_by(driver)
    assert said[1] == 0.0
    assert all(size == pytest.approx(others[0][0]) and sd > 1.0 for size, sd in others)
    driver.at(1, SizeLearned("guessed", 5.0), SizeLearned("unknown", 5.0))
    assert [sd for _, sd in ranked_by(driver)] == [0.0, 0.0, 0.0]


def test_a_new_controller_learns_the_same_from_the_jobs_that_completed_earlier() -> None:
    first, second = SchedulerDriver("prices"), SchedulerDriver("prices")
    first.at(0, *(guess(f"a{n}") for n in range(3)))
    first.at(1, *(Completed(f"a{n}", 10.0 + n) for n in range(3)), guess("new"))
    second.at(0, *(CompletedEarlier(job(f"a{n}", 10.0 + n)) for n in range(3)), guess("new"))
    assert ranked_by(first) == ranked_by(second) != ranked_by_new()


def ranked_by_new() -> list[tuple[float, float]]:
    driver = SchedulerDriver("prices")
    driver.at(0, guess("new"))
    return ranked_by(driver)


def test_certain_and_uncertain_sizes_are_ranked_together() -> None:
    """Jobs of about ten iterations have completed; a job that said 1,000 goes behind a job that said nothing."""
    driver = SchedulerDriver("prices", "1x1:A100")
    driver.at(0, *(CompletedEarlier(job(f"a{n}", 10.0)) for n in range(30)))
    driver.at(1, submitted("long", 1000.0, gpus_max=1), guess("short", gpus_max=1))
    assert [driver.row(name)["gpus"] for name in ("long", "short")] == [0.0, 1.0]
