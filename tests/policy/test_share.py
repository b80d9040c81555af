"""Fair share: the GPUs that projects deserve, and what a project has had lately."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.arrays import IntArray
from powerflow.errors import InputError
from powerflow.policy.prices import Prices
from powerflow.policy.protocol import Allocation, Policy, View, arrivals
from powerflow.scheduler.rules.compose import with_rules
from powerflow.scheduler.rules.fair_share import LEAST_FACTOR, FairShare, decayed, deserved, factors
from powerflow.scheduler.rules.hysteresis import Hysteresis
from powerflow.simulate.run import simulate
from powerflow.simulate.world import World
from tests.policy.views import assert_valid, make_view, views
from tests.simulate.workloads import by_hand, job
from tests.slow import examples


class Weights:
    """A policy that notes the weights it is shown, and gives every job a GPU while there are some."""

    name = "weights"
    needs_sizes = False
    period_s: float | None = None

    def __init__(self) -> None:
        self.seen: list[float] = []

    def decide(self, view: View) -> Allocation:
        """One GPU each."""
        if len(view.jobs) >= len(self.seen):  # not the question about one project
            self.seen = view.jobs["weight"].tolist()
        answer = view.nothing()
        answer.gpus[: view.capacity] = 1
        return answer


def test_usage_halves_with_each_half_life() -> None:
    assert decayed(800.0, 0.0, 100.0) == 800.0
    assert decayed(800.0, 300.0, 100.0) == pytest.approx(100.0)


def test_factors_by_hand() -> None:
    # all of the usage with half of the shares: 2^((1 − 2)/2)
    assert factors(np.array([5.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx([0.5**0.5, 2**0.5])
    assert factors(np.array([3.0, 1.0]), np.array([3.0, 1.0])).tolist() == [1.0, 1.0]
    assert factors(np.zeros(3), np.ones(3)).tolist() == [1.0, 1.0, 1.0]
    assert factors(np.array([1.0] + [0.0] * 9), np.ones(10))[0] == LEAST_FACTOR


@given(st.lists(st.floats(0.0, 1e12), min_size=1, max_size=8))
def test_factors_fall_with_usage_and_are_bounded(usage: list[float]) -> None:
    found = factors(np.array(usage), np.ones(len(usage)))
    assert ((found >= LEAST_FACTOR) & (found <= 2.0**0.5)).all()
    order = np.argsort(usage, kind="stable")
    assert (np.diff(found[order]) <= 1e-12).all()


def test_jobs_are_weighed_by_what_their_projects_have_had() -> None:
    inner = Weights()
    policy = FairShare(inner, half_life_s=1000.0)

    def at(now_s: float, *jobs: dict[str, float], capacity: int = 1) -> None:
        view = make_view(jobs, step_time_s=[[8.0, 4.0, 2.0, 1.0]], capacity=capacity, now_s=now_s)
        rows = view.jobs.copy()
        rows["project"] = [{0: 1, 1: 2}.get(row, 0) for row in rows["id"].tolist()]
        policy.decide(dataclasses.replace(view, jobs=rows, projects=("", "a", "b")))

    at(0.0, {"id": 0, "weight": 3.0}, {"id": 1}, {"id": 2})
    assert inner.seen == [3.0, 1.0, 1.0]
    at(100.0, {"id": 0, "gpus": 1, "weight": 3.0}, {"id": 1}, {"id": 2})
    assert policy.usage_gpu_s == {"": 0.0, "a": 100.0, "b": 0.0}
    assert inner.seen == pytest.approx(
        [3.0 / 2, 2**0.5, 2**0.5]
    )  # the third belongs to no project: it is treated as one more project
    at(100.0, {"id": 0, "gpus": 1})  # asked again in the same moment
    assert policy.usage_gpu_s == {"": 0.0, "a": 100.0, "b": 0.0}
    at(1100.0, {"id": 1})  # the first has ended meanwhile
    assert policy.usage_gpu_s == {"": 0.0, "a": 50.0 + 1000.0, "b": 0.0}


def due(capacity: int, demand: list[int], shares: list[float], **more: list[int]) -> list[int]:
    """What projects deserve, by hand."""
    nothing = [0] * len(demand)
    held, usage = (np.array(more.get(name, nothing)) for name in ("held", "usage"))
    found: list[int] = deserved(capacity, np.array(demand), np.array(shares), held, usage.astype(float)).tolist()
    return found


def test_deserved_gpus_by_hand() -> None:
    assert due(4, [4, 4], [1, 1]) == [2, 2]
    assert due(4, [4, 4], [3, 1]) == [3, 1]
    assert due(9, [9, 9], [2, 1]) == [6, 3]
    assert due(12, [1, 12, 12], [1, 1, 1]) == [1, 6, 5]  # 5.5 for each of two: the first has used no more
    assert due(8, [1, 2], [1, 1]) == [1, 2]  # nobody can use more
    assert due(10, [2, 10, 10], [2, 2, 1]) == [2, 5, 3]  # 8 by 2 : 1 are 5.33 and 2.67
    assert due(4, [0, 4], [5, 1]) == [0, 4]


def test_the_odd_gpu_stays_where_it_is() -> None:
    assert due(3, [3, 3], [1, 1]) == [2, 1]
    assert due(3, [3, 3], [1, 1], held=[1, 2]) == [1, 2]
    assert due(3, [3, 3], [1, 1], held=[1, 2], usage=[0, 9]) == [1, 2]  # it would cost a pause and gain nothing
    assert due(3, [3, 3], [1, 1], held=[1, 1], usage=[9, 0]) == [1, 2]  # a free one goes to who has used less
    assert due(2, [1, 1, 1, 1], [1, 1, 1, 1], held=[0, 1, 0, 1]) == [0, 1, 0, 1]


@given(
    st.integers(0, 64),
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from([0.5, 1.0, 2.0, 3.0])), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_deserved_gpus_are_all_gpus_and_no_less_than_a_share(
    capacity: int, projects: list[tuple[int, float]], random: Random
) -> None:
    demand, shares = (np.array(column) for column in zip(*projects, strict=True))
    held = np.array([random.randint(0, 20) for _ in projects])
    found = deserved(capacity, demand, shares, held, np.array([random.random() for _ in projects]))
    assert found.sum() == min(capacity, demand.sum())
    assert (found <= demand).all()
    assert (found >= 0).all()
    part = capacity * shares / shares[demand > 0].sum() if demand.any() else 0 * shares
    assert (found >= np.minimum(demand, np.floor(part + 1e-9))).all()  # others' unused parts only add to it
    for p, q in itertools.permutations(range(len(projects)), 2):
        if found[p] < demand[p]:  # who wants more has no less than others by more than the rounding
            assert (found[p] + 1) / shares[p] > (found[q] - 1) / shares[q] - 1e-9


def of_projects(view: View, codes: Sequence[int]) -> View:
    """The view with its jobs in projects a, b, … by number; 0 is no project."""
    return dataclasses.replace(view.with_jobs(project=codes), projects=("", *"abcdefgh"))


def gpus_by_project(view: View, gpus: IntArray) -> list[int]:
    """GPUs by project, from the first that has jobs to the last."""
    codes = view.jobs["project"]
    return [int(gpus[codes == code].sum()) for code in np.unique(codes)]


def equals(codes: Sequence[int], capacity: int, **more: float) -> View:
    """Jobs that are equal and can use one GPU each."""
    jobs = [{"gpus_max": 1, "pause_s": 30.0, **more} for _ in codes]
    return of_projects(make_view(jobs, step_time_s=[[100.0] * 4], capacity=capacity, now_s=1000.0), codes)


def test_equals_share_equally_from_the_start() -> None:
    view = equals([1, 1, 1, 1, 2, 2, 2, 2], 4, since_s=1000.0)
    assert FairShare(Prices()).decide(view).gpus.tolist() == [1, 1, 0, 0, 1, 1, 0, 0]
    assert FairShare(Prices(), {"a": 3.0}).decide(view).gpus.tolist() == [1, 1, 1, 0, 1, 0, 0, 0]


def test_idle_gpus_may_be_used_beyond_a_share() -> None:
    assert FairShare(Prices()).decide(equals([1, 1, 1, 1, 2], 4)).gpus.tolist() == [1, 1, 1, 0, 1]
    assert FairShare(Prices()).decide(equals([1, 1, 1, 2], 4)).gpus.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(("waited_s", "share"), [(299.0, [4, 0]), (300.0, [2, 2])])
def test_a_project_gets_its_share_back_after_ten_pauses(waited_s: float, share: list[int]) -> None:
    view = equals([1, 1, 1, 1, 2, 2, 2], 4)
    view = view.with_jobs(gpus=[1, 1, 1, 1, 0, 0, 0], since_s=[0.0] * 4 + [1000.0 - waited_s] * 3)
    answer = FairShare(Prices()).decide(view)
    assert gpus_by_project(view, answer.gpus) == share


def test_a_job_larger_than_its_projects_share_does_not_insist() -> None:
    view = equals([1, 1, 1, 1, 2], 4)
    view = view.with_jobs(gpus=[1, 1, 1, 1, 0], gpus_min=[1, 1, 1, 1, 4], gpus_max=[1, 1, 1, 1, 4])
    assert FairShare(Prices()).decide(view).gpus.tolist() == [1, 1, 1, 1, 0]


def test_a_job_starts_on_its_fewest_gpus_and_others_keep_theirs() -> None:
    # the second project deserves four GPUs, on which its job would run eight times as fast as on one
    view = equals([1] * 8 + [2], 8)
    view = view.with_jobs(gpus=[1] * 8 + [0], gpus_max=[1] * 8 + [8], since_s=0.0)
    view = dataclasses.replace(view, step_time_s=np.tile([[[100.0], [50.0], [25.0], [12.5]]], (1, 1, 2)))
    assert gpus_by_project(view, Prices().decide(view).gpus) == [8, 0]
    assert gpus_by_project(view, FairShare(Prices()).decide(view).gpus) == [7, 1]


@settings(max_examples=examples(60), deadline=None)
@given(view=views(), random=st.randoms(use_true_random=False), shares=st.sampled_from([{}, {"a": 3.0}, {"b": 0.5}]))
@pytest.mark.parametrize("rule", [lambda policy: policy, Hysteresis], ids=["alone", "hysteresis"])
def test_no_job_waits_that_would_run_on_its_projects_share(
    rule: Callable[[Policy], Policy], view: View, random: Random, shares: dict[str, float]
) -> None:
    codes = [random.randint(0, 3) for _ in view.jobs]
    view = of_projects(view.with_jobs(pause_s=0.0), codes)  # nobody waits for a pause
    fair = FairShare(rule(Prices()), shares)
    answer = fair.decide(view)
    assert_valid(view, answer)
    runs = np.isfinite(view.step_time_s[view.jobs["cost"], :, -1])
    jobs = view.jobs
    runs &= (view.gpu_counts >= jobs["gpus_min"][:, None]) & (view.gpu_counts <= jobs["gpus_max"][:, None])
    most = np.where(runs, view.gpu_counts, 0).max(1, initial=0)
    fewest = np.where(runs, view.gpu_counts, 2**40).min(1, initial=2**40)
    present = np.unique(jobs["project"])
    mine = jobs["project"] == present[:, None]
    share = np.array([shares.get(view.projects[code], 1.0) for code in present])
    due = deserved(view.capacity, (mine * most).sum(1), share, (mine * jobs["gpus"]).sum(1), np.zeros(len(present)))
    for rows, gpus in zip(mine, due.tolist(), strict=True):
        if jobs["gpus"][rows].all():
            continue  # none has waited: others' GPUs are not for them yet
        alone = rule(Prices()).decide(dataclasses.replace(view.of_jobs(rows), capacity=gpus))
        waits = (alone.gpus > 0) & (answer.gpus[rows] == 0)
        assert (fewest[rows][waits] > gpus - answer.gpus[rows].sum()).all()


@settings(max_examples=examples(20), deadline=None)
@given(st.integers(2, 3), st.integers(1, 4), st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([0.0, 30.0, 300.0]))
def test_equals_never_take_gpus_from_each_other(projects: int, each: int, gpus: int, pause_s: float) -> None:
    jobs = [job(f"{p}-{k}", 300.0, gpus_max=1, project=f"p{p}") for p in range(projects) for k in range(each)]
    result = simulate(by_hand(jobs, f"1x{gpus}:A100"), with_rules(Prices()), world=World(pause_s=pause_s))
    assert result.jobs.rescales.sum() == 0


def test_two_equal_projects_end_at_the_same_time() -> None:
    # eight jobs of 10 h on four GPUs: of each project two run at once and two after them, so 15 h on average
    jobs = [job(f"{p}-{k}", 4500.0, gpus_max=1, project=p) for p in "ab" for k in range(4)]
    result = simulate(by_hand(jobs, "1x4:A100"), with_rules(Prices()))
    hours = result.jobs.jct_s.reshape(2, 4) / 3600
    assert hours.mean(axis=1) == pytest.approx([15.0, 15.0], abs=0.05)


def test_shares_must_be_positive() -> None:
    with pytest.raises(InputError, match="share"):
        FairShare(Prices(), {"a": 0.0})
    with pytest.raises(InputError, match="half-life"):
        FairShare(Prices(), half_life_s=0.0)


def test_a_factor_that_all_jobs_have_changes_no_price_of_gpus() -> None:
    """One project has used all: its jobs, and those to come, weigh about a third, and so does the worth of a step."""
    view = make_view(
        [{"remaining": 100, "project": 1}] * 3,
        step_time_s=[[8.0, 4.2, 2.3]],
        capacity=4,
        gpu_counts=(1, 2, 4),
        now_s=5000.0,
    )
    came = arrivals(np.full(20, 800.0), np.ones(20), 0.0)
    view = dataclasses.replace(view, projects=("", "a"), arrivals=came)
    fair = FairShare(Prices(), {"a": 1.0, "b": 9.0})
    fair.usage_gpu_s["a"] = 1000.0
    plain, shared = Prices().decide(view), fair.decide(view)
    assert fair.factors()["a"] == LEAST_FACTOR
    assert plain.worth is not None
    assert shared.worth is not None
    assert (shared.worth / LEAST_FACTOR).tolist() == pytest.approx(plain.worth.tolist())
